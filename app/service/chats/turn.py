"""One turn of a chat, from the moment nobody else may add one until it is kept."""

import asyncio
import logging
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from app.domain.chat import Chat, Turn, TurnState
from app.domain.errors import GenerationRefused, ServiceError, StorageUnavailable
from app.domain.generation import Caller, Generation
from app.domain.progress import GenerationProgress
from app.service.chats.leases import LeaseKeeper
from app.service.generation.plan import GenerationPlan
from app.service.generation.service import ImageService

if TYPE_CHECKING:
    from app.store.chats import ChatStore

log = logging.getLogger(__name__)

KEEP_SECONDS = 20.0
"""How long a storage that does not answer is tried again, for the sake of an image that has been paid for."""

RECORD_SECONDS = 10.0
"""How long a turn without an image may take to be recorded, while its caller waits to hear why there is none."""


@dataclass(frozen=True, slots=True)
class Work:
    """What it takes to make a turn."""

    images: ImageService
    store: "ChatStore"
    leases: LeaseKeeper
    unattended: set[asyncio.Task[Generation]]
    """Turns whose caller has left."""


class PendingTurn:
    """A turn that is about to be made; the chat waits for it."""

    def __init__(
        self, work: Work, chat: Chat, holder: str, plan: GenerationPlan, caller: Caller, replaces: int | None
    ) -> None:
        """
        Args:
            work: what does it.
            chat: as it is now.
            holder: who has its lease.
            plan: what to draw.
            caller: for whom.
            replaces: the turn that this one stands in for.
        """
        self._work = work
        self._chat = chat
        self._holder = holder
        self.plan = plan
        self.caller = caller
        self._replaces = replaces
        self._open = self._has_caller = True
        self.number = chat.last_turn + 1
        """What it will be, if it comes to be one."""

    async def make(self, progress: GenerationProgress) -> Generation:
        """Draw, and keep what comes of it: an image, a refusal, a failure.

        Raises:
            ServiceError: as `ImageService.make`; or the storage fails, and nothing is kept.
        """
        try:
            try:
                generation = await self._work.images.draw(self.plan, self.caller, progress)
            except ServiceError as error:
                await self._record(error, progress)
                raise
            kept = await self._kept(generation, progress)
        finally:
            await self.aclose()

        try:
            self._work.images.require_acceptable(kept, self.plan)
        except ServiceError as error:
            error.extra_members = {"chatId": self._chat.id, "turn": self.number}
            raise
        return kept

    def detach(self, work: asyncio.Task[Generation]) -> None:
        """The caller has left, after Gemini was asked: the image is paid for, and has a place to be kept at."""
        self._has_caller = False
        self._work.unattended.add(work)
        work.add_done_callback(self._work.unattended.discard)

    async def close_if_attached(self) -> None:
        """The caller's request is over, however. A turn that goes on without them closes itself."""
        if self._has_caller:
            await self.aclose()

    async def aclose(self) -> None:
        """Let others add turns, if that is still to be done."""
        if self._open:
            self._open = False
            await self._work.leases.release(self._holder)

    async def _kept(self, generation: Generation, progress: GenerationProgress) -> Generation:
        request, chat_context = self.plan.request, generation.chat_context
        turn = Turn(
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
        try:
            await self._keep(turn, self._replaces)
        except ServiceError as error:
            error.extra_members = {"chatId": self._chat.id}
            error.attempts, error.may_have_cost = progress.attempts, True
            raise
        kept = replace(
            generation, request_parts=(), response_parts=(), chat_context=None, chat_id=self._chat.id, turn=self.number
        )
        progress.memory.resize(kept.held_bytes)
        return kept

    async def _record(self, error: ServiceError, progress: GenerationProgress) -> None:
        """A turn without an image is on record if Gemini was asked, and nothing builds upon it."""
        error.extra_members = {"chatId": self._chat.id}
        if not progress.attempts:
            return
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
                await self._keep(turn, None)
        except (ServiceError, TimeoutError) as failure:
            cause = getattr(failure, "cause", None) or type(failure).__name__
            log.warning("a turn without an image could not be recorded", extra={"cause": cause})
        else:
            error.extra_members = {"chatId": self._chat.id, "turn": self.number}

    async def _keep(self, turn: Turn, replaces: int | None) -> None:
        loop = asyncio.get_running_loop()
        end, pause = loop.time() + KEEP_SECONDS, 0.25
        while True:
            try:
                await self._work.store.turns.save(self._chat, self._holder, turn, replaces)
            except StorageUnavailable as error:
                if loop.time() + pause > end or turn.image is None:
                    raise
                log.warning("a turn could not be kept yet", extra={"part": error.part, "cause": error.cause})
            else:
                self._open = False
                self._work.leases.forget(self._holder)
                return
            await asyncio.sleep(pause)
            pause *= 2


def _problem(error: ServiceError) -> dict[str, Any]:
    """What of a problem is worth keeping; a turn's own fields have the rest."""
    return {"code": error.code, "title": error.title, "status": error.status, "detail": error.detail}
