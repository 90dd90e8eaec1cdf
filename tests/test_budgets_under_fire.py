"""Budgets hold to the micro-dollar: many requests at once, two replicas, failures of Gemini, and kills."""

import asyncio
import random
from collections import Counter
from typing import Any

import httpx2
import pytest

from app.emulator import Emulator, served
from tests import ledger
from tests.callers import add_key, bearer
from tests.conftest import wait_for_calls
from tests.fleet import Fleet
from tests.ledger import Watcher
from tests.storages import Overrides

pytestmark = pytest.mark.slow

ASK = {"prompt": "A lighthouse", "imageSize": "1K"}
RESERVED = 1120 * 120 + 2000 * 12 + 4 * 2
"""Micro-dollars that a request for `ASK` reserves: an image, 2,000 tokens of thoughts and text, 4 of input."""


def micro_usd(dollars: float) -> int:
    return round(dollars * 1_000_000)


async def usage(client: httpx2.AsyncClient, fleet: Fleet, secret: str) -> Any:
    response = await client.get(f"{fleet.url()}/usage", headers=bearer(secret))
    assert response.status_code == 200, response.text
    return response.json()


async def test_sixty_requests_at_once_to_two_replicas_never_exceed_a_budget(storage: Overrides) -> None:
    """
    The budget has 8.2 reservations: eight of sixty requests are served. When they have cost less than they reserved,
    there is room for one more of the next sixty.
    """
    budget = 82 * RESERVED // 10
    secret = await add_key(storage, budget=f"{budget / 1e6:.6f}/month")
    gemini = Emulator(keep_calls=1000)
    seen: list[int] = []

    async def send(client: httpx2.AsyncClient, fleet: Fleet) -> httpx2.Response:
        return await client.post(f"{fleet.url()}/generate-image", json=ASK, headers=bearer(secret))

    async def look_forever(client: httpx2.AsyncClient, fleet: Fleet) -> None:
        while True:
            now = await usage(client, fleet, secret)
            seen.append(micro_usd(now["spentUsd"]) + micro_usd(now["reservedUsd"]))

    async with (
        served(gemini) as gemini_url,
        httpx2.AsyncClient(timeout=60, trust_env=False, limits=httpx2.Limits(max_connections=None)) as client,
        Fleet(gemini_url, storage, random.Random(18), {"chat_lease_seconds": 5}) as fleet,
        Watcher(storage) as watcher,
    ):
        looking = asyncio.create_task(look_forever(client, fleet))
        gemini.hold()
        waiting = [asyncio.create_task(send(client, fleet)) for _ in range(60)]
        await wait_for_calls(gemini, 8)
        refusals = []
        for one in asyncio.as_completed(waiting):
            refusals.append(await one)
            if len(refusals) == 52:
                gemini.release()
        at_once = [await one for one in waiting]
        later = await asyncio.gather(*(send(client, fleet) for _ in range(60)))
        looking.cancel()
        now = await usage(client, fleet, secret)
        rows = await ledger.sums(storage)

    paid = [one.json()["usage"]["estimatedCostUsd"] for one in (*at_once, *later) if one.is_success]
    assert Counter(one.status_code for one in at_once) == {200: 8, 429: 52}
    assert Counter(one.status_code for one in later) == {200: 1, 429: 59}
    assert {one.json()["code"] for one in (*at_once, *later) if not one.is_success} == {"budget_exhausted"}
    assert len(gemini.calls) == now["images"] == 9
    assert rows == {ledger.owner("web"): (sum(map(micro_usd, paid)), 0, 0)}
    assert micro_usd(now["spentUsd"]) == sum(map(micro_usd, paid)) <= budget
    assert now["reservedUsd"] == 0
    assert min(len(seen), watcher.looks) > 10
    assert 8 * RESERVED == max(seen) == watcher.most[ledger.owner("web")] <= budget
