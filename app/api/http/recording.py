"""Whether a request is recorded, and its hold on the recorded generation.

A request is recorded if its caller may ask for the result later or again: it has an `Idempotency-Key`, prefers an
asynchronous response, counts its retries as OpenAI's clients do, or asks for a link to the image.
"""

import asyncio
import logging
import secrets
from collections.abc import AsyncGenerator
from dataclasses import replace
from typing import Annotated

from fastapi import Depends, Header, Request

from app.api.generations.links import base_url, generation_path
from app.api.http import preferences
from app.api.http.delivery import Delivery
from app.api.http.dependencies import SecondsDep
from app.api.http.paths import route_path
from app.api.http.preferences import RecordingOptions
from app.api.http.response_writer import wait_until_gone
from app.api.http.state import request_state
from app.domain.errors import (
    FieldError,
    GenerationInProgress,
    GenerationNotFound,
    InvalidRequest,
    Overloaded,
    ServiceError,
    StorageError,
    WebhookRefused,
)
from app.domain.recorded import NewGeneration, Order
from app.service.recorded.attachment import Attachment
from app.service.recorded.fingerprint import fingerprint
from app.service.recorded.work import Answer

log = logging.getLogger(__name__)

_MARGIN_SECONDS = 2.0
"""A generation and the request that waits for it have the same time limit. The request waits for its error."""

_SUBMISSIONS = 3
"""How often a request is submitted whose earlier tries fail without cost while it waits for them."""

POLL_AFTER_SECONDS = 5
"""`Retry-After` of a generation that is not over."""


class Recording:
    """The recorded generation of one request."""

    def __init__(self, request: Request, options: RecordingOptions, seconds: float) -> None:
        """
        Args:
            request: of the caller.
            options: of its headers.
            seconds: time limit of the request.
        """
        self.options = options
        self.attachment: Attachment | None = None
        self._request = request
        self._state = request_state(request.scope)
        self._began = asyncio.get_running_loop().time()
        self._patience = seconds if seconds < self._state["settings"].deadline_seconds else seconds + _MARGIN_SECONDS
        if options.is_async:
            self._patience = min(seconds, options.wait_seconds or 0)
        self.delivery = Delivery(self._state)
        self._caller_left = False
        self._wanted: NewGeneration | None = None
        self._streams = False
        self._submitting = asyncio.Lock()

    @property
    def path(self) -> str:
        """Path of the generation."""
        assert self.attachment is not None
        return generation_path(self.attachment.id, self._request)

    @property
    def deadline(self) -> float:
        """When the caller's patience ends, by the event loop's clock."""
        return self._began + self._patience

    @property
    def applied_wait(self) -> int:
        """Seconds that an asynchronous request waits for the plain response at most."""
        return int(self._patience)

    @property
    def waits(self) -> bool:
        """Whether the caller waits for the plain response."""
        return not self.options.is_async or bool(self.options.wait_seconds)

    def is_wanted(self, *, link: bool) -> bool:
        """Return whether the request is recorded. `link`: whether it asks for a link to the image."""
        return link or self.options.is_explicit or self.options.retry_count is not None

    async def submit(self, order: Order, webhook_url: str | None, *, link: bool, streams: bool) -> Attachment | None:
        """Record the order, or find the earlier request that this one repeats.

        Args:
            order: of the caller.
            webhook_url: the field of the request; a header can have it too.
            link: whether the response has a link to the image.
            streams: whether the response is a stream of events.

        Returns:
            The generation. `None` if the request is not recorded, or need not be and the storage is away.

        Raises:
            InvalidRequest, WebhookRefused: the webhook cannot be called.
            ServiceError: as `RecordedGenerations.submit`.
        """
        webhook = await self._webhook(webhook_url)
        if not self.is_wanted(link=link):
            return None
        self._wanted = NewGeneration(
            id=_new_id(),
            order=order,
            fingerprint=await fingerprint(route_path(self._request.scope), order, webhook),
            is_async=self.options.is_async,
            idempotency_key=self.options.idempotency_key,
            retry_count=self.options.retry_count,
            webhook_url=webhook,
            base_url=base_url(self._request, self._state["settings"]),
        )
        self._streams = streams
        try:
            return await self._submit(self._wanted)
        except StorageError as error:
            if self.options.is_explicit or link:
                raise
            log.warning("a request is served without a record", extra={"part": error.part, "cause": error.cause})
            return None

    async def _submit(self, wanted: NewGeneration) -> Attachment:
        upload = self._state["upload"]
        self.attachment = await self._state["recorded"].submit(wanted, streams=self._streams)
        if self.attachment.allowance is not None:
            self._state["allowance"] = self.attachment.allowance
        upload.retain()
        self.attachment.on_end(upload.release)
        self._state["generation_pending"] = False
        return self.attachment

    async def _submit_again(self, gone: Attachment) -> None:
        """Submit the request anew: the generation that it waited for failed without cost, or its process died before
        Gemini was asked."""
        async with self._submitting:
            if self.attachment is gone:
                gone.close()
                assert self._wanted is not None
                self.attachment = None
                await self._submit(replace(self._wanted, id=_new_id()))

    async def _webhook(self, field: str | None) -> str | None:
        header = self.options.webhook_url
        if header and field and header != field:
            raise InvalidRequest([FieldError("webhookUrl", "differs from the header Webhook-URL")])
        url = field or header
        if url is None:
            return None
        if not self.options.is_async:
            raise InvalidRequest([FieldError("webhookUrl", "needs the header Prefer: respond-async")])
        try:
            await self._state["webhooks"].check(url)
        except WebhookRefused:
            # The first request was accepted. The name may not be resolved now, and is checked again at each try.
            key, state = self.options.idempotency_key, self._state
            if not await state["recorded"].has_key(state["caller"], key):
                raise
        return url

    async def answer(self) -> Answer | None:
        """Wait until the generation is over or the caller's patience ends. `None` if an asynchronous one goes on.

        Raises:
            GenerationInProgress: the time limit of the request has ended.
            CallerDisconnected, CallerTooSlow: the caller is gone. The generation goes on.
            ServiceError: as `submit`, if the generation must be begun again.
        """
        for _ in range(_SUBMISSIONS):
            attachment = self.attachment
            assert attachment is not None
            try:
                return await self._answer_of(attachment)
            except GenerationNotFound:
                await self._submit_again(attachment)
        raise Overloaded("The earlier requests failed without cost. Send this one again.", retry_after=1)

    async def _answer_of(self, attachment: Attachment) -> Answer | None:
        receive, scope = self._request.receive, self._request.scope
        waiting = asyncio.create_task(attachment.answer())
        gone = asyncio.create_task(wait_until_gone(receive, scope))
        try:
            left = self.deadline - asyncio.get_running_loop().time()
            await asyncio.wait({waiting, gone}, timeout=left, return_when=asyncio.FIRST_COMPLETED)
            if waiting.done():
                return waiting.result()
            if gone.done():
                self.fail(gone.result())
                raise gone.result()
        finally:
            for task in (waiting, gone):
                task.cancel()  # changes nothing if it is done
            await asyncio.wait({waiting, gone})
            if waiting.done() and not waiting.cancelled():
                waiting.exception()
            del waiting, gone  # they hold the error, whose traceback holds this frame: a reference cycle
        if self.options.is_async:
            return None
        raise self.in_progress()

    def in_progress(self) -> GenerationInProgress:
        """Return the error for a caller whose patience ends before the generation."""
        assert self.attachment is not None
        error = GenerationInProgress(
            "The image was not complete within the time limit of this request. It is being made, and will be kept.",
            location=self.path,
            retry_after=POLL_AFTER_SECONDS,
            may_have_cost=self.options.idempotency_key is None,
        )
        error.is_replay = self.attachment.is_replay
        return error

    @property
    def headers(self) -> dict[str, str]:
        """Headers of the response: JSON, image or events."""
        assert self.attachment is not None
        return {"Idempotent-Replayed": "true"} if self.attachment.is_replay else {}

    def fail(self, error: ServiceError) -> None:
        """Note that the caller has not got the response."""
        self._caller_left = True

    async def aclose(self) -> None:
        """Called when the response has been sent."""
        self.delivery.close()
        if self.attachment is None:
            return
        self.attachment.close()
        if self._caller_left and self.options.retry_count is not None:
            try:
                await self.attachment.mark_caller_left(self.options.retry_count)
            except StorageError as error:
                log.warning("a caller's disconnect could not be stored", extra={"cause": error.cause})


def _new_id() -> str:
    return f"gen_{secrets.token_hex(16)}"


async def _recording(
    request: Request,
    seconds: SecondsDep,
    _key: Annotated[
        str | None,
        Header(
            alias="idempotency-key",
            description="Your own id of this request, 1 to 255 visible characters. The same request with the same key "
            "gets the first result and is not paid again.",
        ),
    ] = None,
    webhook_url: Annotated[
        str | None,
        Header(description="With `Prefer: respond-async`: the address to call when the image is ready."),
    ] = None,
) -> AsyncGenerator[Recording]:
    headers = request.headers
    options = RecordingOptions(
        preferences.idempotency_key(headers),
        preferences.retry_count(headers),
        preferences.prefers_async(headers),
        preferences.preferred_wait(headers),
        webhook_url,
    )
    recording = Recording(request, options, seconds)
    try:
        yield recording
    finally:
        await recording.aclose()


RecordingDep = Annotated[Recording, Depends(_recording)]
"""Closed after the response has been sent."""
