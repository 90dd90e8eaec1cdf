"""A recorded generation: it is stored, so that its caller can get the result later, or again."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from app.domain.caller import Caller
from app.domain.chat import ChatDefaults, Turn
from app.domain.errors import GenerationRefused, ServiceError
from app.domain.generation import Generation, GenerationRequest
from app.domain.limits import Allowance
from app.domain.spending import Charge, ImageCost, micro_usd

Outcome = Generation | ServiceError
"""What became of one image."""


class GenerationStatus(StrEnum):
    QUEUED = "queued"
    """Waits for a replica with a free slot. Only asynchronous generations are ever queued."""
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    """At least one image was made and stored."""
    FAILED = "failed"
    """Refused by Gemini, or failed."""
    CANCELLED = "cancelled"
    """Deleted before Gemini was asked. Nothing was paid."""
    INTERRUPTED = "interrupted"
    """The process died after Gemini was asked, and no answer reached the store. It is never asked again."""

    @property
    def is_final(self) -> bool:
        return self not in (GenerationStatus.QUEUED, GenerationStatus.RUNNING)


@dataclass(frozen=True, slots=True)
class TurnOrder:
    """The chat that stores the image, and the place of the turn in it."""

    chat_id: str | None
    """`None` for a chat that is created with this turn."""
    given: frozenset[str]
    """Names of the fields that the caller sent. The chat's defaults apply to the others."""
    defaults: ChatDefaults | None = None
    """Of the chat to create."""
    expected_last_turns: frozenset[int] | None = None
    replace_turn: int | None = None


@dataclass(frozen=True, slots=True)
class Order:
    """What a caller has ordered: enough to generate it later, on any replica."""

    caller: Caller
    request: GenerationRequest
    count: int = 1
    """Number of images."""
    turn: TurnOrder | None = None
    charge: Charge | None = None
    """What it takes of its caller's limits. `None` if there are none, so that nothing is reserved."""
    view: Mapping[str, Any] = field(default_factory=dict)
    """JSON that the API needs to show the result again. `api` names the API."""


@dataclass(frozen=True, slots=True)
class NewGeneration:
    """An order together with what says whether it is a repetition of an earlier one."""

    id: str
    order: Order
    fingerprint: str
    """SHA-256 of the parsed request in hexadecimal. Equal requests have equal fingerprints."""
    is_async: bool = False
    """Whether it is queued in the database for any replica. Otherwise this process runs it at once."""
    idempotency_key: str | None = None
    retry_count: int | None = None
    """Number of earlier tries, as OpenAI's clients count them; `None` if the client does not count."""
    holder: str | None = None
    """Holder of the lease if this process runs it."""
    asked: bool = False
    """Whether Gemini is asked as soon as the row is durable, so that no second statement is needed before the call."""
    webhook_url: str | None = None
    base_url: str = ""
    """The service's address for links in webhooks, without a slash at the end."""


@dataclass(frozen=True, slots=True)
class RecordedGeneration:
    """The row of a recorded generation. Times are Unix times in seconds by the database's clock."""

    id: str
    owner: str
    status: GenerationStatus
    is_async: bool
    created_at: float
    started_at: float | None = None
    """When it last left the queue."""
    asked_at: float | None = None
    """When Gemini was first asked, or was about to be."""
    finished_at: float | None = None
    expires_at: float | None = None
    """When it is deleted. `None` while it is not over."""
    attempts: int = 0
    """Calls to Gemini."""
    may_have_cost: bool = False
    order: Order | None = None
    """`None` where it was not read. Its reference images are in the store only if the generation is asynchronous."""
    outcomes: tuple[Outcome, ...] = ()
    """One for each image, once it is over. Images are in the store."""
    is_converted: bool = False
    """Whether the images have the format that `order.request.output` asks for."""
    base_url: str = ""
    webhook_url: str | None = None

    @property
    def is_final(self) -> bool:
        return self.status.is_final

    @property
    def generations(self) -> tuple[Generation, ...]:
        """The outcomes that have an image."""
        return tuple(outcome for outcome in self.outcomes if isinstance(outcome, Generation))


@dataclass(frozen=True, slots=True)
class Submission:
    """The generation that a request led to."""

    generation: RecordedGeneration
    is_new: bool
    """Whether the request created it. Otherwise the request repeats an earlier one."""
    taken_over: bool = False
    """Whether the request was matched by its retry count and not by a key."""
    allowance: Allowance | None = None
    """What is left of the caller's limits, if the request has reserved."""


@dataclass(frozen=True, slots=True)
class TurnToSave:
    """A turn of a chat whose image is complete, as `TurnStore.save` takes it. It can be saved after a crash."""

    chat_id: str
    owner: str
    lease_holder: str
    turn: Turn
    replaces: int | None = None


def cost_of(outcome: Outcome, model: str, units: int) -> ImageCost:
    """Return what an image has cost, as far as its outcome tells.

    Args:
        outcome: of the image.
        model: under which costs are booked if the outcome names no model.
        units: number of calls to Gemini that were reserved. All but the last may have been billed.
    """
    usage = outcome.usage if isinstance(outcome, Generation | GenerationRefused) else None
    known = micro_usd(usage)
    may_have_cost = isinstance(outcome, Generation) or outcome.may_have_cost
    return ImageCost(
        model=getattr(outcome, "model", None) or model,
        images=int(isinstance(outcome, Generation)),
        tokens=0 if usage is None else usage.total_tokens,
        micro_usd=known or 0,
        unknown_calls=units if known is None and may_have_cost else units - 1,
    )
