"""Attending to a generation for a caller: as long as the caller is there, within the time there is, and on the record.

What becomes of work whose caller has left is decided in one place, `_abandon`: what has a place to be kept at goes on,
if Gemini has been asked already; everything else is dropped.
"""

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from pydantic.alias_generators import to_camel
from starlette.types import Receive, Scope

from app.api.http.problems import Reporter
from app.api.http.response_writer import disconnect_watcher, why_gone
from app.api.http.state import request_state
from app.api.http.uploads import UploadBody
from app.domain.errors import CallerDisconnected, CallerTooSlow, GenerationRefused, Internal, ServiceError
from app.domain.generation import Caller, Generation
from app.domain.progress import GenerationProgress, ProgressEvent, Stage
from app.lib.byte_budget import Reservation
from app.service.chats.turn import PendingTurn
from app.service.generation.plan import GenerationPlan
from app.service.generation.service import ImageService
from app.service.metrics import Metrics

log = logging.getLogger(__name__)


class GenerationRun:
    """One caller's generation, from its plan to the last byte of its answer."""

    def __init__(
        self,
        images: ImageService,
        caller: Caller,
        share: Reservation,
        body: UploadBody | None,
        seconds: float,
        metrics: Metrics,
        reporter: Reporter,
        scope: Scope,
    ) -> None:
        """
        Args:
            images: what does the work.
            caller: who asks.
            share: of the room for answers.
            body: of the request.
            seconds: how long it may take altogether.
            metrics: where it is counted.
            reporter: what reports that it failed, if the answer has begun by then or nobody waits for it.
            scope: the request's.
        """
        self._images = images
        self._caller = caller
        self._share = share
        self._body = body
        self._seconds = seconds
        self._metrics = metrics
        self._reporter = reporter
        self._scope = scope
        self._plan: GenerationPlan | None = None
        self._progress: GenerationProgress | None = None
        self._generation: Generation | None = None
        self._failure: ServiceError | None = None
        self._left_in: str | None = None
        self._refusal: GenerationRefused | None = None
        self._detached: asyncio.Task[Generation] | None = None

    async def make(
        self,
        plan: GenerationPlan,
        receive: Receive,
        listener: Callable[[ProgressEvent], None] | None = None,
        *,
        turn: PendingTurn | None = None,
    ) -> Generation:
        """Make the image, as long as the caller is there.

        Args:
            plan: what to make.
            receive: tells when the caller has left; nothing else may be left to be read.
            listener: told of everything on the way.
            turn: of a chat, where the image is kept.

        Raises:
            CallerDisconnected, CallerTooSlow: before there was an answer.
            ServiceError: as the service decides; `Internal` is a bug.
        """
        request_state(self._scope)["generation_pending"] = False  # from here on it is counted here, as one
        self._plan, self._progress = plan, GenerationProgress(self._seconds, self._share, listener)
        try:
            async with disconnect_watcher(receive) as gone:
                make = turn.make(self._progress) if turn else self._images.make(plan, self._caller, self._progress)
                work = asyncio.create_task(make)
                try:
                    await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    if not work.done():
                        await self._abandon(work, turn)
                if work.cancelled() or not work.done():
                    raise why_gone(self._scope)
                self._generation = work.result()
        except ServiceError as error:
            self.fail(error)
            raise
        except Exception as error:
            raise self.broken(error) from error
        except BaseException as error:
            self.fail(Internal(cause=type(error).__name__))
            raise
        self._progress.enter(Stage.RESPONSE)
        return self._generation

    async def _abandon(self, work: asyncio.Task[Generation], turn: PendingTurn | None) -> None:
        if turn is not None and self._progress is not None and self._progress.attempts:
            turn.detach(work)
            self._detached = work
            if self._body is not None:
                self._body.retain()  # its uploads are still to be sent, and kept
            return
        work.cancel()
        await asyncio.wait({work})
        if not work.cancelled():
            work.exception()  # not `result()`: the traceback would refer to this frame, and this frame refers to `work`

    def fail(self, error: ServiceError) -> None:
        """This is what came of it. Whatever fails later is a consequence: of an answer that nobody reads, for instance,
        what makes the image is cancelled."""
        if self._failure is not None:
            return
        self._failure = error
        if self._progress is not None and isinstance(error, CallerDisconnected | CallerTooSlow):
            self._left_in = str(self._progress.stage)

    def broken(self, error: Exception) -> ServiceError:
        """What came of it is a bug, which has raised `error`. Returns what to tell instead."""
        broken = Internal(attempts=self._progress.attempts if self._progress else 0)
        broken.__cause__ = error
        self.fail(broken)
        return broken

    def problem(self, error: Exception) -> dict[str, Any]:
        """Log what came of it; returns its problem document."""
        expected = error if isinstance(error, ServiceError) else self.broken(error)
        return self._reporter.document(expected)

    def finish(self) -> None:
        """Everything has been said, or will be without the caller: hold nothing for it any more, write the line, count
        it."""
        work, self._detached = self._detached, None
        if work is None:
            self._finish()
        else:
            work.add_done_callback(self._finish_unattended)

    def _finish_unattended(self, work: asyncio.Task[Generation]) -> None:
        if not work.cancelled():
            error = work.exception()
            self._generation = work.result() if error is None else None
            self._refusal = error if isinstance(error, GenerationRefused) else None
            if isinstance(error, Exception):
                self._reporter.document(error)  # for the log alone
        if self._body is not None:
            self._body.release()
        self._finish()

    def _finish(self) -> None:
        self._share.resize(0)
        progress, plan = self._progress, self._plan
        if progress is None or plan is None:
            return
        progress.enter(progress.stage)
        usage = self._generation.usage if self._generation else None
        refusal = self._refusal or self._failure
        if usage is None and isinstance(refusal, GenerationRefused):
            usage = refusal.usage
        outcome = self._failure.code if self._failure else "ok"
        model = self._generation.model if self._generation else plan.model.id
        log.info(
            "generation",
            extra={
                "caller": self._caller.name,
                "model": model,
                "attempts": progress.attempts,
                "outcome": outcome,
                "abandonedIn": self._left_in,
                "finishReason": self._generation.finish_reason
                if self._generation
                else getattr(self._failure, "finish_reason", None),
                **{f"{stage}Ms": round(1000 * seconds) for stage, seconds in _by_stage(progress).items()},
                "receivedBytes": progress.received_bytes,
                "imageBytes": len(self._generation.image.content) if self._generation else None,
                "tokens": usage and usage.total_tokens,
                "costUsd": usage and usage.estimated_cost_usd,
            },
        )
        self._metrics.record_generation(model, outcome, progress, usage, self._left_in)
        self._generation = self._failure = None


def _by_stage(progress: GenerationProgress) -> dict[str, float]:
    """`firstByteMs` and the like for the log, in the order in which stages come."""
    names = {stage: to_camel(str(stage)) for stage in Stage}
    return {name: progress.stage_seconds[stage] for stage, name in names.items() if stage in progress.stage_seconds}
