"""Webhooks from the request that names one to the message, through the whole service."""

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
from standardwebhooks import Webhook

from app.emulator import Emulator, Fault, served
from tests.conftest import Serve, noise_jpeg, soon
from tests.processes import process
from tests.storages import Overrides
from tests.webhook_receiver import Receiver

SECRET = "whsec_" + "A" * 32
ASYNC = {"Prefer": "respond-async"}


@asynccontextmanager
async def with_receiver(
    serve: Serve, storage: Overrides, **overrides: Any
) -> AsyncGenerator[tuple[httpx2.AsyncClient, Receiver, str]]:
    """Run a service and a receiver. Yield a client of the service, the receiver and its URL."""
    receiver = Receiver()
    settings = {"webhook_secret": SECRET, "webhook_allow_hosts": "127.0.0.1", **overrides}
    async with served(receiver) as url, serve(**storage, **settings) as client:
        yield client, receiver, f"{url}/hook"


def message(receiver: Receiver, number: int = 0) -> dict[str, Any]:
    """Return a message that was received, which must be signed and small."""
    request = receiver.received[number]
    assert len(request.body) <= 20_000
    found: dict[str, Any] = Webhook(SECRET).verify(request.body, dict(request.headers))
    return found


async def test_the_message_of_an_image_has_the_document_with_links(
    serve: Serve, gemini: Emulator, storage: Overrides
) -> None:
    """
    The links work without a key. There is no image in the message.
    """
    keys = "anna:anna-secret-anna-secret"
    async with with_receiver(serve, storage, service_api_keys=keys) as (client, receiver, hook):
        key = {"X-API-Key": "anna-secret-anna-secret"}
        accepted = await client.post(
            "/generate-image", json={"prompt": "A cat", "webhookUrl": hook}, headers=ASYNC | key
        )
        await receiver.wait(1)
        sent = message(receiver)
        document = (await client.get(accepted.headers["location"], headers=key)).json()
        image = await client.get(sent["data"]["result"]["image"]["url"])
        linked = await client.get(sent["data"]["links"]["image"])

    assert accepted.status_code == 202
    assert sent["type"] == "generation.succeeded"
    assert sent["timestamp"] == document["finishedAt"]
    assert sent["data"] == document
    assert image.status_code == linked.status_code == 200
    assert image.headers["content-type"] == document["result"]["image"]["mimeType"]
    assert image.content == linked.content


async def test_the_message_of_a_refusal_has_the_problem(serve: Serve, gemini: Emulator, storage: Overrides) -> None:
    gemini.faults.append(Fault(finish_reason="IMAGE_SAFETY"))
    async with with_receiver(serve, storage) as (client, receiver, hook):
        await client.post("/generate-image", json={"prompt": "A cat", "webhook_url": hook}, headers=ASYNC)
        await receiver.wait(1)

    sent = message(receiver)
    assert (sent["type"], sent["data"]["status"]) == ("generation.failed", "failed")
    assert sent["data"]["problem"]["code"] == "content_blocked"


@pytest.mark.parametrize(
    "route", ["/generate-image", "/generate-image/with-search", "/v1/images/generations", "/chats"]
)
async def test_a_header_names_a_webhook_on_every_route(
    serve: Serve, gemini: Emulator, storage: Overrides, route: str
) -> None:
    async with with_receiver(serve, storage) as (client, receiver, hook):
        accepted = await client.post(route, json={"prompt": "A cat"}, headers=ASYNC | {"Webhook-URL": hook})
        await receiver.wait(1)

    assert accepted.status_code == 202, accepted.text
    assert message(receiver)["type"] == "generation.succeeded"


@pytest.mark.parametrize("route", ["/generate-image/with-references", "/v1/images/edits"])
async def test_forms_name_webhooks_too(serve: Serve, gemini: Emulator, storage: Overrides, route: str) -> None:
    files = {"image" if route.startswith("/v1") else "images": ("a.jpg", noise_jpeg(1, 2000), "image/jpeg")}
    async with with_receiver(serve, storage) as (client, receiver, hook):
        headers = ASYNC | {"Webhook-URL": hook}
        accepted = await client.post(route, data={"prompt": "A cat"}, files=files, headers=headers)
        await receiver.wait(1)

    assert accepted.status_code == 202, accepted.text
    assert message(receiver)["type"] == "generation.succeeded"


async def test_a_webhook_that_is_not_public_is_refused_before_anything_is_paid(
    serve: Serve, gemini: Emulator, storage: Overrides
) -> None:
    async with with_receiver(serve, storage) as (client, _, _):
        refused = [
            await client.post("/generate-image", json={"prompt": "A cat", "webhookUrl": url}, headers=ASYNC)
            for url in ("https://127.0.0.2/", "http://10.0.0.1/", "https://169.254.169.254/latest/", "nonsense")
        ]

    assert [(one.status_code, one.json()["code"]) for one in refused] == [(422, "webhook_refused")] * 4
    assert not gemini.calls


async def test_a_webhook_needs_an_asynchronous_request(serve: Serve, gemini: Emulator, storage: Overrides) -> None:
    """
    Otherwise a caller could wait for a message that never comes.
    """
    async with with_receiver(serve, storage) as (client, _, hook):
        field = await client.post("/generate-image", json={"prompt": "A cat", "webhookUrl": hook})
        header = await client.post("/generate-image", json={"prompt": "A cat"}, headers={"Webhook-URL": hook})

    for refused in (field, header):
        assert (refused.status_code, refused.json()["code"]) == (422, "invalid_request")
        assert refused.json()["errors"][0]["field"] == "webhookUrl"
    assert not gemini.calls


async def test_without_a_secret_webhooks_are_refused(serve: Serve, gemini: Emulator, storage: Overrides) -> None:
    async with with_receiver(serve, storage, webhook_secret="") as (client, _, hook):
        refused = await client.post("/generate-image", json={"prompt": "A cat", "webhookUrl": hook}, headers=ASYNC)

    assert (refused.status_code, refused.json()["code"]) == (422, "webhook_refused")


async def test_a_message_with_much_text_leaves_it_out(serve: Serve, gemini: Emulator, storage: Overrides) -> None:
    gemini.faults.append(Fault(text="A very long story. " * 3000))
    async with with_receiver(serve, storage) as (client, receiver, hook):
        await client.post("/generate-image", json={"prompt": "A cat", "webhookUrl": hook}, headers=ASYNC)
        await receiver.wait(1)

    data = message(receiver)["data"]
    assert data["truncated"] is True
    assert data["result"]["image"]["url"].startswith("http")


async def test_a_replay_sends_no_second_webhook(serve: Serve, gemini: Emulator, storage: Overrides) -> None:
    async with with_receiver(serve, storage) as (client, receiver, hook):
        headers = ASYNC | {"Idempotency-Key": "one", "Webhook-URL": hook}
        first = await client.post("/generate-image", json={"prompt": "A cat"}, headers=headers)
        await receiver.wait(1)
        second = await client.post("/generate-image", json={"prompt": "A cat"}, headers=headers)
        await asyncio.sleep(0.5)

    assert first.json()["id"] == second.json()["id"]
    assert len(receiver.received) == 1
    assert json.loads(receiver.received[0].body)["data"]["id"] == first.json()["id"]


async def test_a_repeated_request_is_answered_although_its_webhook_would_be_refused_now(
    serve: Serve, gemini: Emulator, storage: Overrides
) -> None:
    """
    For instance because names are not resolved at the moment.
    """
    body = {"prompt": "A cat"}
    async with with_receiver(serve, storage) as (client, receiver, hook):
        headers = ASYNC | {"Idempotency-Key": "one", "Webhook-URL": hook}
        first = await client.post("/generate-image", json=body, headers=headers)
        await receiver.wait(1)
    async with serve(**storage, webhook_secret=SECRET) as client:
        second = await client.post("/generate-image", json=body, headers=headers)
        reused = await client.post("/generate-image", json=body, headers=headers | {"Webhook-URL": f"{hook}/2"})
        new = await client.post("/generate-image", json=body, headers=headers | {"Idempotency-Key": "two"})

    assert (second.status_code, second.json()["id"]) == (202, first.json()["id"])
    assert (reused.status_code, reused.json()["code"]) == (422, "idempotency_key_reused")
    assert (new.status_code, new.json()["code"]) == (422, "webhook_refused")
    assert len(gemini.calls) == 1


async def test_the_metrics_count_tries(serve: Serve, gemini: Emulator, storage: Overrides) -> None:
    async with with_receiver(serve, storage) as (client, receiver, hook):
        await client.post("/generate-image", json={"prompt": "A cat", "webhookUrl": hook}, headers=ASYNC)
        await receiver.wait(1)

        assert await soon(client, 'gemini_images_webhook_tries_total{outcome="delivered"}', 1)


@pytest.mark.slow
async def test_a_webhook_outlives_the_process_that_was_killed_during_its_try(
    gemini: Emulator, gemini_url: str, tmp_path: Path
) -> None:
    """
    The next process tries when the lease of the dead one has ended, with the same `webhook-id`.
    """
    receiver = Receiver(delay_seconds=120)
    settings = {"data_dir": tmp_path, "webhook_secret": SECRET, "webhook_allow_hosts": "127.0.0.1"}
    async with served(receiver) as hook:
        async with process(gemini_url, **settings) as (running, url), httpx2.AsyncClient(base_url=url) as client:
            await client.post("/generate-image", json={"prompt": "A cat", "webhookUrl": hook}, headers=ASYNC)
            await receiver.wait(1)
            running.kill()
        receiver.delay_seconds = 0
        async with process(gemini_url, **settings):
            await receiver.wait(2, seconds=60)

    assert len({request.headers["webhook-id"] for request in receiver.received}) == 1
    assert message(receiver, 1) == message(receiver, 0)
    assert len(gemini.calls) == 1
