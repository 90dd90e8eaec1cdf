"""The delivery of webhooks: due ones are claimed, tried, and tried again later if that fails.

All replicas deliver. A lease ensures that one replica at a time tries a delivery. If a replica dies during a try, the
receiver can get the same message twice, with the same `webhook-id`.
"""

import asyncio
import logging
import random
import secrets
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from contextvars import Context
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Literal, Self
from urllib.parse import urlsplit

from app import __version__
from app.domain.errors import GenerationNotFound, StorageError, WebhookRefused
from app.lib.logs import describe_exception
from app.service.metrics import Metrics
from app.service.webhooks.addresses import Resolve, WebhookAddresses
from app.service.webhooks.message import Document, WebhookSigner, body_of
from app.service.webhooks.sender import TryResult, WebhookSender
from app.settings import Settings
from app.store import Storage

if TYPE_CHECKING:
    from app.store.deliveries import Delivery

log = logging.getLogger(__name__)

RETRY_PAUSES = (5.0, 300.0, 1800.0, 7200.0, 18_000.0, 36_000.0)
"""Seconds between a failed try and the next one. After the last one there is no further try."""

MAX_TRIES_AT_ONCE = 20
MAX_TRIES_PER_OWNER = 10
"""While an owner has so many tries in flight, no others of its deliveries begin. Slow receivers of one caller then do
not delay the webhooks of others. A claim can exceed this by `_MOST_CLAIMED` - 1."""

_MOST_CLAIMED = 5
"""Most deliveries of one claim."""

_JITTER = 0.1
"""Each pause is longer by a random part, which is at most this share of it."""

_MAX_RETRY_AFTER_SECONDS = 24 * 3600.0
_STORAGE_PAUSE_SECONDS = 10.0
"""Delay of a try for which the storage did not return the generation."""

_RESULT_PAUSES = (0.1, 0.4, 1.0)
"""Seconds between attempts to save the result of a try. If all fail, the delivery is tried again after its lease."""

SHUTDOWN_SECONDS = 5.0


class WebhookDeliveries:
    """Delivers webhooks in the background while its block runs. It does nothing if there is no `WEBHOOK_SECRET`."""

    def __init__(
        self,
        storage: Storage,
        settings: Settings,
        document: Document,
        metrics: Metrics,
        *,
        resolve: Resolve | None = None,
        retry_pauses: Sequence[float] = RETRY_PAUSES,
        poll_seconds: float = 1.0,
        shutdown_seconds: float = SHUTDOWN_SECONDS,
    ) -> None:
        """
        Args:
            storage: of the deliveries and the generations.
            settings: the secrets, and the hosts that are allowed although they are not public.
            document: returns the document of a generation.
            metrics: counts tries.
            resolve: finds the addresses of a host. Default: the system's resolver.
            retry_pauses: seconds between a failed try and the next one.
            poll_seconds: interval at which due deliveries are claimed. `notify` claims them at once.
            shutdown_seconds: how long the end of the block waits for tries in flight. Then it stops them and gives the
                deliveries back.
        """
        self._storage = storage
        self._document = document
        self._metrics = metrics
        self._addresses = WebhookAddresses(settings.webhook_allow_hosts, resolve)
        self._secrets = [secret.get_secret_value() for secret in settings.webhook_secret]
        self._signer = WebhookSigner(self._secrets)
        self._sender = WebhookSender(self._addresses)
        self._shutdown_seconds = shutdown_seconds
        self._retry_pauses = tuple(retry_pauses)
        self._poll_seconds = poll_seconds
        self._wake = asyncio.Event()
        self._tries: dict[asyncio.Task[None], tuple[Delivery, str]] = {}
        """Tries in flight, with the delivery and the holder of its lease."""
        self._claiming: asyncio.Task[None] | None = None
        self._is_storage_down = False
        self._is_stopping = False

    async def check(self, url: str) -> None:
        """Check the URL of a webhook before its generation is ordered.

        Raises:
            WebhookRefused: the service does not call this URL.
        """
        if not self._secrets:
            raise WebhookRefused("This service sends no webhooks: its operator has set no WEBHOOK_SECRET.")
        await self._addresses.target(url)

    def notify(self) -> None:
        """Look for due deliveries at once, because one was added."""
        self._wake.set()

    async def __aenter__(self) -> Self:
        if self._secrets:
            self._claiming = asyncio.create_task(self._claim_regularly(), context=Context())
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._claiming is None:
            return
        self._is_stopping = True
        self._wake.set()
        # A claim that is cancelled could still be committed, and nobody would give its deliveries back.
        await asyncio.wait({self._claiming}, timeout=self._shutdown_seconds)
        self._claiming.cancel()
        with suppress(asyncio.CancelledError):
            await self._claiming
        if self._tries:
            await asyncio.wait(self._tries, timeout=self._shutdown_seconds)
        await self._give_back()

    async def _give_back(self) -> None:
        """Stop the tries in flight, and let other replicas begin them at once."""
        stopped = dict(self._tries)
        for task in stopped:
            task.cancel()
        await asyncio.gather(*stopped, return_exceptions=True)
        for delivery, holder in stopped.values():
            try:
                await (await self._storage.deliveries()).release(delivery.id, holder)
            except StorageError as error:
                log.warning("webhooks could not be given back", extra={"cause": error.cause})
                return  # the leases expire by themselves

    async def _claim_regularly(self) -> None:
        while not self._is_stopping:
            self._wake.clear()
            try:
                await self._claim()
                self._is_storage_down = False
            except Exception as error:  # the next claim may succeed
                if not self._is_storage_down:
                    cause = getattr(error, "cause", repr(type(error)))
                    log.warning("webhooks cannot be delivered now", extra={"cause": cause})
                self._is_storage_down = True
            with suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), self._poll_seconds)

    async def _claim(self) -> None:
        """Begin tries of due deliveries, as many as there are places."""
        while not self._is_stopping and (free := min(MAX_TRIES_AT_ONCE - len(self._tries), _MOST_CLAIMED)) > 0:
            if not await self._storage.in_use():
                return
            holder = secrets.token_hex(16)
            store = await self._storage.deliveries()
            claimed = await store.claim(holder, free, self._busy_owners())
            for delivery in claimed:
                task = asyncio.create_task(self._try(delivery, holder), context=Context())
                self._tries[task] = (delivery, holder)
                task.add_done_callback(self._end)
            if len(claimed) < free:
                return

    def _busy_owners(self) -> list[str]:
        """Return the owners of whom no more deliveries may begin."""
        counts = Counter(delivery.owner for delivery, _ in self._tries.values())
        return [owner for owner, count in counts.items() if count >= MAX_TRIES_PER_OWNER]

    def _end(self, task: asyncio.Task[None]) -> None:
        if len(self._tries) >= MAX_TRIES_AT_ONCE or self._busy_owners():
            self._wake.set()  # deliveries may have been waiting for this place
        del self._tries[task]

    async def _try(self, delivery: "Delivery", holder: str) -> None:
        try:
            result = await self._send(delivery)
        except GenerationNotFound:
            return  # it was deleted, and its deliveries with it
        except StorageError as error:
            log.warning("a webhook waits for the storage", extra={"webhook": delivery.id, "cause": error.cause})
            with suppress(StorageError):  # otherwise the lease ends by itself
                await (await self._storage.deliveries()).release(delivery.id, holder, _STORAGE_PAUSE_SECONDS)
            return
        except Exception as error:  # no request waits for this task, so the log is the only place for it
            log.error(
                "a webhook could not be written", extra={"webhook": delivery.id, "cause": describe_exception(error)}
            )
            result = TryResult(error=type(error).__name__)
        await self._save(delivery, holder, result)

    async def _send(self, delivery: "Delivery") -> TryResult:
        generation = await (await self._storage.generations()).get(delivery.generation_id, None)
        body = body_of(generation, await self._document(generation))
        headers = {
            "Content-Type": "application/json",
            "User-Agent": f"gemini-images/{__version__}",
            **self._signer.headers(delivery.id, body, datetime.now(UTC)),
        }
        return await self._sender.send(delivery.url, headers, body)

    async def _save(self, delivery: "Delivery", holder: str, result: TryResult) -> None:
        pause = self._next_pause(delivery, result)
        outcome: Literal["delivered", "retried", "failed"] = (
            "delivered" if result.is_success else "failed" if pause is None else "retried"
        )
        self._metrics.record_webhook_try(outcome)
        if not result.is_success:
            log.warning(
                "a webhook was not delivered",
                extra={
                    "webhook": delivery.id,
                    "generation": delivery.generation_id,
                    "host": urlsplit(delivery.url).hostname,
                    "status": result.status,
                    "cause": result.error,
                    "tries": delivery.tries,
                    "nextTrySeconds": pause and round(pause),
                },
            )
        for wait in (*_RESULT_PAUSES, None):
            try:
                return await self._write(delivery, holder, outcome, pause)
            except StorageError as error:
                if wait is None:
                    log.warning("the result of a webhook was not saved", extra={"cause": error.cause})
                else:
                    await asyncio.sleep(wait)

    async def _write(
        self, delivery: "Delivery", holder: str, outcome: Literal["delivered", "retried", "failed"], pause: float | None
    ) -> None:
        deliveries = await self._storage.deliveries()
        if outcome == "delivered":
            await deliveries.delivered(delivery.id, holder)
        elif pause is None:
            await deliveries.failed(delivery.id, holder)
        else:
            await deliveries.retry(delivery.id, holder, pause)

    def _next_pause(self, delivery: "Delivery", result: TryResult) -> float | None:
        """Return the seconds until the next try; `None` if there is none."""
        if result.is_gone or delivery.tries > len(self._retry_pauses):
            return None
        pause = max(self._retry_pauses[delivery.tries - 1], min(result.retry_after or 0, _MAX_RETRY_AFTER_SECONDS))
        return pause * (1 + random.uniform(0, _JITTER))  # noqa: S311
