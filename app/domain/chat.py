"""Chats and turns as frozen values."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from app.domain.generation import Grounding, Image, Part, Reference, SafetySetting, Usage


class TurnState(StrEnum):
    SUCCEEDED = "succeeded"
    """The turn has an image. Later turns build on it."""
    REFUSED = "refused"
    """Gemini answered without an image. The turn is stored, and later turns do not build on it."""
    FAILED = "failed"
    """Gemini was asked, and its answer could not be used. Stored in the same way."""


@dataclass(frozen=True, slots=True)
class ChatDefaults:
    """Values for fields that a turn's request leaves out. The fields are those of `GenerationRequest`."""

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
    """One request within a chat, and its result."""

    number: int
    """Position in the chat, from 1. A number is not used again."""
    state: TurnState
    prompt: str
    model: str
    """Id of the model that answered, or of the one that was asked if none answered."""
    user: tuple[Part, ...] = ()
    """The parts sent to Gemini for this turn, without earlier turns."""
    answer: tuple[Part, ...] = ()
    """Gemini's parts, unchanged, without its thoughts."""
    context_inlined: bool = False
    """True if earlier turns were sent only as references within `user`, not as a conversation."""
    references: tuple[Reference, ...] = ()
    """The images that the caller uploaded with this turn."""
    generation_id: str | None = None
    image: Image | None = None
    text: str | None = None
    model_version: str | None = None
    finish_reason: str | None = None
    grounding: Grounding | None = None
    usage: Usage | None = None
    warnings: tuple[str, ...] = ()
    problem: Mapping[str, Any] | None = None
    """Members of the problem document that the caller got, for a turn without an image."""
    created_at: float = 0
    """Unix time in seconds, by the database's clock."""
    replaced_by: int | None = None
    """Number of the turn that replaces this one."""
    copied: bool = False
    """True if a fork copied the turn. It was paid in the original chat."""

    @property
    def is_in_history(self) -> bool:
        """Whether later turns build on this one."""
        return self.state is TurnState.SUCCEEDED and self.replaced_by is None


@dataclass(frozen=True, slots=True)
class Chat:
    id: str
    owner: str
    defaults: ChatDefaults
    last_turn: int = 0
    """Number of the latest turn; 0 if there is none."""
    created_at: float = 0
    updated_at: float = 0
    """Unix time in seconds, by the database's clock."""
    title: str | None = None
    """Beginning of the first prompt."""
    cost_usd: float = 0
    """Cost of the chat's own turns, refused ones included. Copied turns do not count."""
    forked_from: str | None = None
    forked_at: int | None = None
    """Number of the last turn that was copied from the original chat."""
    in_progress: bool = False
    """Whether a turn is being generated."""
    turns: tuple[Turn, ...] = field(default=())
    """Empty if the chat was read without its turns."""

    @property
    def last_image_turn(self) -> int:
        """Number of the latest turn with an image; 0 if there is none."""
        return max((turn.number for turn in self.turns if turn.state is TurnState.SUCCEEDED), default=0)

    @property
    def history(self) -> tuple[Turn, ...]:
        """The turns that the next one builds on."""
        return tuple(turn for turn in self.turns if turn.is_in_history)
