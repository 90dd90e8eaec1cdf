"""Chats as values: their turns, and what of them goes along when the next one is asked for. Frozen, as in `domain`."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from app.domain.generation import Grounding, Image, Part, Reference, SafetySetting, Usage


class TurnState(StrEnum):
    SUCCEEDED = "succeeded"
    """There is an image, and the next turn builds upon it."""
    REFUSED = "refused"
    """Gemini answered without an image. It is on record, and Gemini hears no more of it."""
    FAILED = "failed"
    """Gemini was asked, and no answer could be used. Likewise."""


@dataclass(frozen=True, slots=True)
class ChatDefaults:
    """What applies to each turn that does not say otherwise; fields as in `GenerationRequest`."""

    model: str | None = None
    aspect_ratio: str | None = None
    image_size: str | None = None
    google_search: bool = False
    image_search: bool = False
    system_instruction: str | None = None
    thinking_level: str | None = None
    safety_settings: tuple[SafetySetting, ...] = ()


@dataclass(frozen=True, slots=True)
class Turn:
    """One request within a chat, and what came of it."""

    number: int
    """From 1 on, within its chat; no number is used twice."""
    state: TurnState
    prompt: str
    model: str
    """The one that was asked, or that answered."""
    user: tuple[Part, ...] = ()
    """What was sent as the caller's side of this turn."""
    answer: tuple[Part, ...] = ()
    """What Gemini sent, part for part, without its thoughts."""
    context_inlined: bool = False
    """Whether Gemini heard of earlier turns only through what `user` holds of them."""
    references: tuple[Reference, ...] = ()
    """The caller's uploads."""
    generation_id: str | None = None
    image: Image | None = None
    text: str | None = None
    model_version: str | None = None
    finish_reason: str | None = None
    grounding: Grounding | None = None
    usage: Usage | None = None
    warnings: tuple[str, ...] = ()
    problem: Mapping[str, Any] | None = None
    """Of a turn without an image, the problem document that its caller got."""
    created_at: float = 0
    """Seconds since 1970, by the database's clock."""
    replaced_by: int | None = None
    """The turn that was asked for in its stead."""
    copied: bool = False
    """Whether it was made, and paid, in the chat that this one was forked from."""

    @property
    def is_in_history(self) -> bool:
        """Whether later turns build upon it."""
        return self.state is TurnState.SUCCEEDED and self.replaced_by is None


@dataclass(frozen=True, slots=True)
class Chat:
    id: str
    owner: str
    defaults: ChatDefaults
    last_turn: int = 0
    """The number of the latest turn; 0 before the first."""
    created_at: float = 0
    updated_at: float = 0
    """Seconds since 1970, by the database's clock."""
    title: str | None = None
    """The beginning of the first prompt."""
    cost_usd: float = 0
    """What its own turns have cost, refused ones included."""
    forked_from: str | None = None
    forked_at: int | None = None
    """The turn after which it goes its own way."""
    in_progress: bool = False
    """Whether a turn is being made."""
    turns: tuple[Turn, ...] = field(default=())
    """Empty where only the chat itself was asked for."""

    @property
    def last_image_turn(self) -> int:
        """The latest turn with an image; those behind it have changed nothing."""
        return max((turn.number for turn in self.turns if turn.state is TurnState.SUCCEEDED), default=0)

    @property
    def history(self) -> tuple[Turn, ...]:
        """The turns that the next one builds upon."""
        return tuple(turn for turn in self.turns if turn.is_in_history)
