"""One turn of a chat, from taking the chat's lease until the turn is stored."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from app.domain.chat import Chat, Turn, TurnState
from app.domain.errors import GenerationRefused, ServiceError, StorageFull, StorageUnavailable
from app.domain.generation import Generation
from app.domain.progress import GenerationProgress
from app.domain.recorded import TurnToSave
from app.service.generation.plan import GenerationPlan
from app.service.generation.service import ImageService
from app.service.leases import LeaseKeeper
from app.service.resilience.admission import Admission
from app.service.storage_retries import persistently

if TYPE_CHECKING:
    from app.store.chats import ChatStore

log = logging.getLogger(__name__)

KeepAnswer = Callable[[Generation, Callable[[Generation], TurnToSave]], Awaitable[Generation]]

RECORD_SECONDS = 10.0
"""Time limit for saving a turn without an image. The caller waits for the error meanwhile."""


class PendingTurn:
    """A turn that is about to be made. It holds the chat's lease until it is saved or closed."""

    def __init__(
        self,
        chat: Chat,
        plan: GenerationPlan,
        holder: str,
        replaces: int | None,
        *,
        images: ImageService,
        store: "ChatStore",
        leases: LeaseKeeper,
        on_detach: Callable[[asyncio.Task[Generation]], None],
    ) -> None:
        """
        Args:
            chat: as it is before the turn.
            plan: what to generate.
            holder: holder of the chat's lease.
            replaces: number of the turn that this one replaces.
            images: generates the image.
            store: where the turn is saved.
            leases: renews and releases the lease.
            on_detach: receives the work that goes on without its caller.
        """
        self.plan = plan
        self.number = chat.last_turn + 1
        """The turn's number if it is saved."""
        self._chat = chat
        self._holder = holder
        self._replaces = replaces
        self._images = images
        self._store = store
        self._leases = leases
        self._on_detach = on_detach
        self._has_lease = self._has_caller = True
        self._saved = False

    async def generate(
        self, admission: Admission, progress: GenerationProgress, *, keep: KeepAnswer | None = None
    ) -> Generation:
        """Generate the image and save the turn. A refused or failed turn is saved as well if Gemini was asked.

        Args:
            admission: a slot, or a position in the queue.
            progress: of the generation.
            keep: stores Gemini's answer before the turn is saved, and returns it under its own id.

        Raises:
            ServiceError: as `ImageService.generate`; or the storage failed and the turn is not saved.
        """
        generation: Generation | None = None
        is_kept = False
        try:
            try:
                generation = await self._images.generate(self.plan, admission, progress)
            except ServiceError as error:
                if progress.attempts:
                    await self._save_failure(error)
                raise
            if keep is not None:
                generation = await keep(generation, self._to_save)
                is_kept = True
            await persistently(partial(self._save, self._turn_with(generation), self._replaces))
        except ServiceError as error:
            error.extra_members = {"chatId": self._chat.id} | ({"turn": self.number} if self._saved else {})
            error.may_have_cost = error.may_have_cost or generation is not None
            if is_kept and isinstance(error, StorageUnavailable | StorageFull):
                self._leave_lease()
            raise
        finally:
            await self.aclose()
        generation = replace(
            generation, request_parts=(), response_parts=(), chat_context=None, chat_id=self._chat.id, turn=self.number
        )
        progress.memory.resize(generation.held_bytes)
        return generation

    def detach(self, work: asyncio.Task[Generation]) -> None:
        """Let the work go on without its caller, who has disconnected. The image is paid for and will be stored."""
        self._has_caller = False
        self._on_detach(work)

    async def close_if_attached(self) -> None:
        """Release the lease at the end of the caller's request. A detached turn releases it itself."""
        if self._has_caller:
            await self.aclose()

    def _leave_lease(self) -> None:
        """Let the lease end by itself. Until another turn takes it, the stored answer can still be saved as a turn."""
        self._has_lease = False
        self._leases.forget(self._holder)

    async def aclose(self) -> None:
        """Release the chat's lease if the turn still holds it."""
        if self._has_lease:
            self._has_lease = False
            await self._leases.release(self._holder)

    def _to_save(self, generation: Generation) -> TurnToSave:
        return TurnToSave(self._chat.id, self._chat.owner, self._holder, self._turn_with(generation), self._replaces)

    def _turn_with(self, generation: Generation) -> Turn:
        request, chat_context = self.plan.request, generation.chat_context
        return Turn(
            number=self.number,
            state=TurnState.SUCCEEDED,
            prompt=request.prompt,
            model=generation.model,
            user=generation.request_parts,
            answer=generation.response_parts,
            context_inlined=not (chat_context and chat_context.turns),
            references=request.references,
            generation_id=generation.id,
            image=generation.image,
            text=generation.text,
            model_version=generation.model_version,
            finish_reason=generation.finish_reason,
            grounding=generation.grounding,
            usage=generation.usage,
            warnings=generation.warnings,
        )

    async def _save_failure(self, error: ServiceError) -> None:
        """Save a turn without an image. Later turns do not build on it. A failing storage is logged only."""
        request = self.plan.request
        refused = error if isinstance(error, GenerationRefused) else None
        turn = Turn(
            number=self.number,
            state=TurnState.REFUSED if refused else TurnState.FAILED,
            prompt=request.prompt,
            model=(refused and refused.model) or self.plan.model.id,
            references=request.references,
            text=refused.text if refused else None,
            finish_reason=refused.finish_reason if refused else None,
            usage=refused.usage if refused else None,
            problem=_problem(error),
        )
        try:
            async with asyncio.timeout(RECORD_SECONDS):
                await self._save(turn, None)
        except (ServiceError, TimeoutError) as failure:
            cause = getattr(failure, "cause", None) or type(failure).__name__
            log.warning("a turn without an image could not be saved", extra={"cause": cause})

    async def _save(self, turn: Turn, replaces: int | None) -> None:
        """Save the turn, which also ends the lease."""
        await self._store.turns.save(self._chat, self._holder, turn, replaces)
        self._saved, self._has_lease = True, False
        self._leases.forget(self._holder)


def _problem(error: ServiceError) -> dict[str, Any]:
    """Return the members of a problem document that a turn does not hold otherwise."""
    return {"code": error.code, "title": error.title, "status": error.status, "detail": error.detail}
