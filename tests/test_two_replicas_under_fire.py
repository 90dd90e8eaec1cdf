"""Two replicas on PostgreSQL and S3, one of which is killed every few seconds: no image is paid twice, none is lost."""

import asyncio
import base64
import json
import random
from collections import Counter
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any
from urllib.parse import urlsplit

import httpx2
import pytest

from app.emulator import Emulator, Fault, served
from tests.conftest import STORAGES, image_file, noise_jpeg
from tests.fleet import Fleet
from tests.storages import Overrides
from tests.stored_chats import fetched

pytestmark = pytest.mark.slow

REQUESTS = 500
SECONDS = 45
"""Time over which the requests are spread."""
KILL_EVERY_SECONDS = 4.0
LEASE_SECONDS = 1
PICTURE = image_file()


@dataclass
class Order:
    """One request that a caller wants answered, and what became of it."""

    number: int
    kind: str
    image: bytes
    delivered: str | None = None
    """Digest of the image."""
    is_interrupted: bool = False
    problems: list[str] = field(default_factory=list)
    """Codes of other answers."""
    tries: int = 0

    @property
    def prompt(self) -> str:
        return f"Order number {self.number} of {REQUESTS}."

    @property
    def is_over(self) -> bool:
        return self.is_interrupted or self.delivered is not None


async def order(client: httpx2.AsyncClient, fleet: Fleet, one: Order) -> None:
    """Repeat an order until it is over, at any replica, as a patient caller does."""
    while not one.is_over:
        one.tries += 1
        patience = fleet.chance.uniform(0.2, 1.5) if one.kind == "hang-up" and one.tries <= 2 else 60
        try:
            async with asyncio.timeout(patience):
                await attempt(client, fleet, one)
        except (httpx2.TransportError, TimeoutError, AttributeError):
            # AttributeError is what anyio raises for a connection that is reset as soon as it is made.
            await asyncio.sleep(fleet.chance.uniform(0.1, 0.5))
        else:
            if not one.is_over:
                await asyncio.sleep(0.3)


async def attempt(client: httpx2.AsyncClient, fleet: Fleet, one: Order) -> None:
    url = fleet.url()
    keyed = {"Idempotency-Key": f"order-{one.number}"}
    if one.kind == "SDK":
        headers = {"x-stainless-retry-count": str(one.tries - 1)}
        body = {"prompt": one.prompt, "size": "1024x1024"}
        note(one, await client.post(f"{url}/v1/images/generations", json=body, headers=headers))
    elif one.kind == "form":
        files = [("images", (f"{one.tries}.png", PICTURE, "image/png"))]
        data = {"prompt": one.prompt, "imageSize": "1K"}
        note(one, await client.post(f"{url}/generate-image/with-references", data=data, files=files, headers=keyed))
    elif one.kind == "async":
        body = {"prompt": one.prompt, "imageSize": "1K"}
        response = await client.post(f"{url}/generate-image", json=body, headers=keyed | {"Prefer": "respond-async"})
        if response.status_code != 202:
            return note(one, response)
        await poll(client, fleet, one, urlsplit(response.headers["location"]).path)
    else:
        body = {"prompt": one.prompt, "imageSize": "1K"}
        note(one, await client.post(f"{url}/generate-image", json=body, headers=keyed))


async def poll(client: httpx2.AsyncClient, fleet: Fleet, one: Order, path: str) -> None:
    while True:
        response = await client.get(fleet.url() + path, headers={"Prefer": "wait=5"})
        if response.status_code == 503:
            await asyncio.sleep(0.3)
            continue
        assert response.is_success, response.text
        document = response.json()
        match document["status"]:
            case "succeeded":
                image = await client.get(f"{fleet.url()}{path}/image")
                image.raise_for_status()
                one.delivered = sha256(image.content).hexdigest()
                return
            case "interrupted":
                assert document["mayHaveCost"]
                one.is_interrupted = True
                return
            case "failed" | "cancelled":
                one.problems.append(document["problem"]["code"])
                return


def note(one: Order, response: httpx2.Response) -> None:
    document = response.json()
    if response.is_success and "data" in document:
        one.delivered = sha256(base64.b64decode(document["data"][0]["b64_json"])).hexdigest()
    elif response.is_success:
        one.delivered = sha256(base64.b64decode(document["image"]["data"])).hexdigest()
    else:
        error = document.get("error")
        code = document.get("code") or (error["code"] if isinstance(error, dict) else error)
        if code == "outcome_unknown":
            assert response.headers["x-should-retry"] == "false"
            one.is_interrupted = True
        else:
            one.problems.append(code)


@pytest.mark.parametrize("storage", STORAGES[1:], indirect=True)
async def test_no_image_is_paid_twice_or_lost_while_replicas_are_killed(storage: Overrides) -> None:
    """
    500 callers send keyed requests, forms, asynchronous ones, retries as OpenAI's clients make them, and hang up. Each
    repeats its request until it has an image or learns that the outcome is unknown.
    """
    chance = random.Random(20261127)
    kinds = ["keyed"] * 5 + ["async"] * 5 + ["SDK"] * 4 + ["form"] * 2 + ["hang-up"] * 4
    orders = [Order(number, kinds[number % len(kinds)], noise_jpeg(number, 60_000)) for number in range(REQUESTS)]
    emulator = Emulator(keep_calls=100_000)
    for one in orders:
        encoded = base64.b64encode(one.image).decode()
        emulator.faults.append(Fault(prompt=one.prompt, image_base64=encoded, delay_seconds=chance.uniform(0.2, 1.2)))

    async with (
        served(emulator) as gemini_url,
        httpx2.AsyncClient(timeout=60, trust_env=False, limits=httpx2.Limits(max_connections=None)) as client,
        Fleet(gemini_url, storage, chance, {"chat_lease_seconds": LEASE_SECONDS, "max_in_flight": 60}) as fleet,
    ):
        fleet.kill_every(KILL_EVERY_SECONDS)

        async def later(one: Order) -> None:
            await asyncio.sleep(SECONDS * one.number / REQUESTS)
            await order(client, fleet, one)

        async with asyncio.timeout(SECONDS + 120):
            await asyncio.gather(*map(later, orders))
        await fleet.stop_killing()
        await asyncio.sleep(2 * LEASE_SECONDS + 1)
        left = await fetched(
            storage, "SELECT id, status, asked_at FROM generations WHERE status IN ('queued', 'running')"
        )

    calls = Counter(_prompt(call.body) for call in emulator.calls)
    delivered = [one for one in orders if one.delivered]
    interrupted = [one for one in orders if one.is_interrupted]
    never_asked = [one for one in interrupted if not calls[one.prompt]]
    print(
        f"\n{len(orders)} orders, {fleet.kills} kills: {len(delivered)} images, {len(interrupted)} interrupted, "
        f"{len(never_asked)} of them never asked; {sum(one.tries for one in orders)} requests; "
        f"other answers: {Counter(code for one in orders for code in one.problems)}"
    )
    assert fleet.kills >= 3  # a slow machine takes seconds to start a service
    assert {prompt: times for prompt, times in calls.items() if times > 1} == {}
    assert sum(calls.values()) == len(orders) - len(never_asked)
    assert [one.number for one in delivered if one.delivered != sha256(one.image).hexdigest()] == []
    assert len(delivered) + len(interrupted) == len(orders)
    assert len(interrupted) < len(orders) / 3
    assert left == []


def _prompt(body: dict[str, Any]) -> str:
    text = json.dumps(body["contents"])
    return text[text.index("Order number") : text.index(f"of {REQUESTS}.") + len(f"of {REQUESTS}.")]
