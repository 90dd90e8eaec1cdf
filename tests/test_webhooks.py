"""Webhooks: who asked for one gets a signed message when the generation is over, also after failures and restarts."""

import asyncio
import json
import logging
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from logging.handlers import BufferingHandler
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from standardwebhooks import Webhook
from starlette.responses import RedirectResponse, Response

from app.domain.caller import Caller
from app.domain.errors import ContentBlocked, WebhookRefused
from app.domain.generation import GenerationRequest
from app.domain.recorded import NewGeneration, Order, RecordedGeneration
from app.emulator import served
from app.service.metrics import Metrics
from app.service.webhooks.service import RETRY_PAUSES, WebhookDeliveries
from app.settings import Settings
from app.store import Storage
from tests.conftest import settings_for
from tests.storages import Overrides, environment, free_port
from tests.stored_chats import fetched
from tests.tls import served_with_tls, write_certificate
from tests.webhook_receiver import Receiver

SECRET = "whsec_" + "A" * 32
PAUSES = (0.05,) * len(RETRY_PAUSES)


def webhook_settings(storage: Overrides, **overrides: Any) -> Settings:
    allowed = {"webhook_secret": SECRET, "webhook_allow_hosts": "127.0.0.1,localhost", **overrides}
    return settings_for("http://127.0.0.1:1", **storage, **allowed)


async def document(generation: RecordedGeneration) -> dict[str, Any]:
    return {"id": generation.id, "status": generation.status}


class Replica:
    """The delivery of webhooks over a storage, as one process does it."""

    def __init__(self, settings: Settings, **options: Any) -> None:
        self.storage = Storage(settings)
        self.metrics = Metrics(())
        options = {"poll_seconds": 0.05, "retry_pauses": PAUSES, "document": document, **options}
        self.deliveries = WebhookDeliveries(self.storage, settings, metrics=self.metrics, **options)

    async def finish(self, url: str, owner: str = "anna") -> str:
        """Record a generation with a webhook and its end. Return its id."""
        store = await self.storage.generations()
        new = NewGeneration(
            uuid4().hex,
            Order(Caller(owner), GenerationRequest("A cat")),
            fingerprint="",
            idempotency_key=uuid4().hex,
            holder=uuid4().hex,
            asked=True,
            webhook_url=url,
        )
        assert new.holder is not None
        await store.submit(new)
        refusal = ContentBlocked("Gemini does not draw this.", finish_reason="IMAGE_SAFETY")
        await store.settle(new.id, new.holder, [refusal], attempts=1, is_converted=True)
        return new.id

    def tries(self, outcome: str) -> int:
        """Return the metric of tries that ended so."""
        name = f'gemini_images_webhook_tries_total{{outcome="{outcome}"}} '
        lines = self.metrics.render().decode().splitlines()
        return int(next((float(line.removeprefix(name)) for line in lines if line.startswith(name)), 0))


@asynccontextmanager
async def replica(storage: Overrides, delivers: bool = True, **options: Any) -> AsyncGenerator[Replica]:
    """Run a replica.

    Args:
        storage: settings of the storage.
        delivers: whether it delivers; otherwise it only records generations.
        options: of `WebhookDeliveries`; `settings` are further settings.
    """
    one = Replica(webhook_settings(storage, **options.pop("settings", {})), **options)
    try:
        if delivers:
            async with one.deliveries:
                yield one
        else:
            yield one
    finally:
        await one.storage.aclose()


async def wait_for_status(storage: Overrides, status: str, count: int = 1) -> list[Any]:
    """Wait until so many deliveries have the status. Return their ids, tries and holders."""
    query = f"SELECT id, tries, lease_holder FROM deliveries WHERE status = '{status}'"
    async with asyncio.timeout(15):
        while len(rows := await fetched(storage, query)) < count:  # noqa: ASYNC110 - a database has no event
            await asyncio.sleep(0.02)
    return rows


async def test_a_webhook_is_delivered_once_and_signed(storage: Overrides) -> None:
    receiver = Receiver()
    async with served(receiver) as url, replica(storage) as service:
        id_ = await service.finish(f"{url}/hook?for=anna")
        rows = await wait_for_status(storage, "delivered")
        await asyncio.sleep(0.3)

    [request] = receiver.received
    assert (request.method, request.target) == ("POST", "/hook?for=anna")
    assert request.headers["content-type"] == "application/json"
    assert request.headers["user-agent"].startswith("gemini-images/")
    assert [(delivery, tries, holder) for delivery, tries, holder in rows] == [(request.headers["webhook-id"], 1, None)]
    message = Webhook(SECRET).verify(request.body, dict(request.headers))
    assert (message["type"], message["data"]) == ("generation.failed", {"id": id_, "status": "failed"})
    assert service.tries("delivered") == 1


async def test_a_webhook_over_tls_is_delivered(storage: Overrides, tmp_path: Path) -> None:
    receiver = Receiver()
    with environment(SSL_CERT_FILE=write_certificate(tmp_path)):
        async with served_with_tls(receiver) as url, replica(storage) as service:
            await service.deliveries.check(f"{url}/hook")
            await service.finish(f"{url}/hook")
            await wait_for_status(storage, "delivered")

    assert Webhook(SECRET).verify(receiver.received[0].body, dict(receiver.received[0].headers))


async def test_a_failed_try_is_repeated_with_the_same_id(storage: Overrides) -> None:
    """
    A redirect is a failure, and is not followed.
    """
    receiver = Receiver([Response(status_code=500), RedirectResponse("/elsewhere"), Response(status_code=404)])
    async with served(receiver) as url, replica(storage) as service:
        await service.finish(f"{url}/hook")
        [(_, tries, _)] = await wait_for_status(storage, "delivered")

    assert tries == 4
    assert [request.target for request in receiver.received] == ["/hook"] * 4
    assert len({request.headers["webhook-id"] for request in receiver.received}) == 1
    assert len({request.body for request in receiver.received}) == 1
    for request in receiver.received:
        assert Webhook(SECRET).verify(request.body, dict(request.headers))
    assert (service.tries("retried"), service.tries("delivered"), service.tries("failed")) == (3, 1, 0)


async def test_after_the_last_try_the_delivery_has_failed(storage: Overrides) -> None:
    receiver = Receiver([Response(status_code=500)] * 20)
    async with served(receiver) as url, replica(storage) as service:
        await service.finish(url)
        [(_, tries, _)] = await wait_for_status(storage, "failed")
        await asyncio.sleep(0.3)

    assert tries == len(receiver.received) == 7
    assert (service.tries("retried"), service.tries("failed")) == (6, 1)


def test_the_tries_span_hours() -> None:
    assert RETRY_PAUSES == (5, 5 * 60, 30 * 60, 2 * 3600, 5 * 3600, 10 * 3600)


async def test_a_receiver_can_end_the_tries(storage: Overrides) -> None:
    receiver = Receiver([Response(status_code=410)])
    async with served(receiver) as url, replica(storage) as service:
        await service.finish(url)
        await wait_for_status(storage, "failed")
        await asyncio.sleep(0.3)

    assert len(receiver.received) == 1


async def test_a_receiver_can_name_the_time_of_the_next_try(storage: Overrides) -> None:
    receiver = Receiver([Response(status_code=503, headers={"Retry-After": "1"})])
    async with served(receiver) as url, replica(storage) as service:
        await service.finish(url)
        await wait_for_status(storage, "delivered")

    first, second = (request.moment for request in receiver.received)
    assert 0.9 < second - first < 5


async def test_after_a_restart_the_tries_continue(storage: Overrides) -> None:
    port = free_port()
    async with replica(storage) as service:
        await service.finish(f"http://127.0.0.1:{port}/hook")
        async with asyncio.timeout(10):
            while service.tries("retried") < 2:  # noqa: ASYNC110 - a metric has no event
                await asyncio.sleep(0.01)
    receiver = Receiver()
    async with served(receiver, port=port), replica(storage):
        [(id_, tries, _)] = await wait_for_status(storage, "delivered")

    assert [request.headers["webhook-id"] for request in receiver.received] == [id_]
    assert tries > 2


async def test_a_stopping_replica_gives_its_tries_back(storage: Overrides) -> None:
    """
    It waits for tries in flight, but not long. Another replica can try at once.
    """
    receiver = Receiver(delay_seconds=60)
    async with served(receiver) as url:
        async with replica(storage, shutdown_seconds=0.2) as service:
            await service.finish(url)
            await receiver.wait(1)
        receiver.delay_seconds = 0
        began = time.monotonic()
        async with replica(storage):
            [(id_, tries, _)] = await wait_for_status(storage, "delivered")

    assert time.monotonic() - began < 10
    assert tries == 1
    assert [request.headers["webhook-id"] for request in receiver.received] == [id_, id_]


async def test_a_stopping_replica_finishes_short_tries(storage: Overrides) -> None:
    receiver = Receiver(delay_seconds=0.4)
    async with served(receiver) as url, replica(storage) as service:
        await service.finish(url)
        await receiver.wait(1)
    rows = await wait_for_status(storage, "delivered")

    assert (len(rows), len(receiver.received)) == (1, 1)


async def test_replicas_share_the_deliveries(storage: Overrides) -> None:
    """
    Each is delivered once, by any of them.
    """
    receiver = Receiver(delay_seconds=0.01)
    async with served(receiver) as url:
        async with replica(storage, delivers=False) as service:
            finished = [await service.finish(url) for _ in range(40)]
        async with replica(storage) as one, replica(storage) as other:
            await wait_for_status(storage, "delivered", 40)
            await asyncio.sleep(0.3)

    assert sorted(json.loads(request.body)["data"]["id"] for request in receiver.received) == sorted(finished)
    assert one.tries("delivered") + other.tries("delivered") == 40


async def test_a_slow_receiver_of_one_caller_does_not_delay_others(storage: Overrides) -> None:
    slow, fast = Receiver(delay_seconds=60), Receiver()
    async with served(slow) as slow_url, served(fast) as fast_url:
        async with replica(storage, delivers=False) as service:
            for _ in range(40):
                await service.finish(slow_url)
            await service.finish(fast_url, owner="ben")
        async with replica(storage, shutdown_seconds=0.2):
            await fast.wait(1)
            await asyncio.sleep(0.3)

    assert 10 <= slow.most_in_progress < 15


async def test_a_new_delivery_need_not_wait_for_the_next_look(storage: Overrides) -> None:
    receiver = Receiver()
    async with served(receiver) as url, replica(storage, poll_seconds=600) as service:
        await asyncio.sleep(0.1)
        await service.finish(url)
        service.deliveries.notify()
        await receiver.wait(1)


async def test_a_deleted_generation_sends_no_webhook(storage: Overrides) -> None:
    receiver = Receiver()
    async with served(receiver) as url:
        async with replica(storage, delivers=False) as service:
            id_ = await service.finish(url)
            await (await service.storage.generations()).delete(id_, "anna")
        async with replica(storage):
            await asyncio.sleep(0.3)

    assert receiver.received == []


async def test_a_cancelled_generation_sends_a_webhook(storage: Overrides) -> None:
    receiver = Receiver()
    async with served(receiver) as url, replica(storage) as service:
        store = await service.storage.generations()
        order = Order(Caller("anna"), GenerationRequest("A cat"))
        await store.submit(NewGeneration("1", order, "", is_async=True, webhook_url=url))
        await store.delete("1", "anna")
        await receiver.wait(1)

    assert json.loads(receiver.received[0].body)["type"] == "generation.cancelled"


async def test_a_webhook_that_cannot_be_written_does_not_stop_others(storage: Overrides) -> None:
    async def broken(generation: RecordedGeneration) -> dict[str, Any]:
        if generation.owner == "anna":
            raise RuntimeError("a cat")
        return {}

    receiver = Receiver()
    async with served(receiver) as url, replica(storage, document=broken) as service:
        await service.finish(url)
        await service.finish(url, owner="ben")
        await receiver.wait(1)
        await wait_for_status(storage, "failed")

    assert len(receiver.received) == 1


@pytest.fixture
def records() -> Iterator[list[logging.LogRecord]]:
    """What the delivery of webhooks logs."""
    handler = BufferingHandler(1000)
    logger = logging.getLogger("app.service.webhooks")
    logger.addHandler(handler)
    yield handler.buffer
    logger.removeHandler(handler)


async def test_the_log_names_only_the_host_of_a_webhook(storage: Overrides, records: list[logging.LogRecord]) -> None:
    receiver = Receiver([Response(status_code=500)])
    async with served(receiver) as url, replica(storage) as service:
        await service.finish(f"{url}/secret-path?token=secret-token")
        await wait_for_status(storage, "delivered")

    [record] = records
    assert (record.host, record.status, record.tries) == ("127.0.0.1", 500, 1)  # type: ignore[attr-defined]
    assert "secret" not in str(vars(record))


async def test_without_a_secret_nothing_is_sent_and_no_database_is_made(tmp_path: Path) -> None:
    async with replica({"data_dir": tmp_path}, settings={"webhook_secret": ""}) as service:
        with pytest.raises(WebhookRefused, match="WEBHOOK_SECRET"):
            await service.deliveries.check("https://hooks.example/")
        await asyncio.sleep(0.2)

    assert list(tmp_path.iterdir()) == []


async def test_no_database_is_made_before_there_is_a_webhook(tmp_path: Path) -> None:
    async with replica({"data_dir": tmp_path}):
        await asyncio.sleep(0.2)

    assert list(tmp_path.iterdir()) == []


async def test_a_webhook_is_checked_when_it_is_named(tmp_path: Path) -> None:
    async with replica({"data_dir": tmp_path}) as service:
        await service.deliveries.check(f"http://127.0.0.1:{free_port()}/hook")
        for url in ("http://10.0.0.1/", "https://10.0.0.1/", "https://[::ffff:169.254.169.254]/", "not a URL"):
            with pytest.raises(WebhookRefused):
                await service.deliveries.check(url)
