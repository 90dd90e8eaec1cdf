"""`GET /usage` and `python -m app keys usage`: what a caller has used, and what is left of its limits."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx2
import pytest

from app.emulator import Emulator, Fault
from tests.callers import add_key, bearer
from tests.conftest import Serve
from tests.keys_command import keys

BODY = {"prompt": "A lighthouse", "imageSize": "1K"}


async def ask(client: httpx2.AsyncClient, headers: dict[str, str], **body: object) -> float:
    """Make images. Return their cost."""
    answer = await client.post("/generate-image", json={**BODY, **body}, headers=headers)
    assert answer.status_code == 200, answer.text
    cost: float = answer.json()["usage"]["estimatedCostUsd"]
    return cost


async def usage(client: httpx2.AsyncClient, headers: dict[str, str], query: str = "") -> Any:
    answer = await client.get(f"/usage{query}", headers=headers)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def test_usage_is_the_sum_of_what_the_answers_said(serve: Serve, gemini: Emulator, tmp_path: Path) -> None:
    storage = {"data_dir": tmp_path}
    key = bearer(await add_key(storage, rate="60/min", budget="5/day"))
    async with serve(**storage, require_keys=True) as client:
        costs = [await ask(client, key) for _ in range(2)]
        costs.append(await ask(client, key, model="gemini-2.5-flash-image", imageSize=None))
        gemini.faults.append(Fault(status=400, message="no"))
        await client.post("/generate-image", json=BODY, headers=key)
        found = await usage(client, key)
        on_command = await keys(tmp_path, "usage", "web", "--json")

    today = datetime.now(UTC).date()
    assert found["caller"] == "web"
    assert found["period"]["from"] == f"{today:%Y-%m}-01"
    assert (found["images"], found["reservedUsd"]) == (3, 0)
    assert found["spentUsd"] == pytest.approx(sum(costs), abs=1e-9)
    assert [(day["date"], day["model"], day["images"]) for day in found["days"]] == [
        (today.isoformat(), "gemini-2.5-flash-image", 1),
        (today.isoformat(), "gemini-3-pro-image", 2),
    ]
    assert found["limits"]["rate"] == "60/min"
    assert found["limits"]["concurrent"] is None
    budget = found["limits"]["budget"]
    assert (budget["usd"], budget["per"]) == (5, "day")
    assert budget["remainingUsd"] == pytest.approx(5 - sum(costs), abs=1e-9)
    assert budget["resetsAt"] == f"{today + timedelta(days=1)}T00:00:00Z"
    assert "users" not in found
    assert on_command.json() == found


async def test_a_caller_without_a_key_and_a_database_has_usage_too(
    serve: Serve, gemini: Emulator, tmp_path: Path
) -> None:
    async with serve(data_dir=tmp_path) as client:
        cost = await ask(client, {})
        found = await usage(client, {})

    assert (found["caller"], found["images"], found["spentUsd"]) == ("local", 1, pytest.approx(cost, abs=1e-9))
    assert found["limits"] == {"rate": None, "concurrent": None, "budget": None}
    assert not list(tmp_path.iterdir())


async def test_usage_is_kept_by_end_user_if_the_key_tracks_them(serve: Serve, gemini: Emulator, tmp_path: Path) -> None:
    storage = {"data_dir": tmp_path}
    tracking = bearer(await add_key(storage, "gateway", track_users=True, budget="5/day"))
    unlimited = bearer(await add_key(storage, "other", track_users=True))
    silent = bearer(await add_key(storage, "silent"))
    async with serve(**storage, require_keys=True) as client:
        for user in ("anna", "ben", "anna"):
            for key in (tracking, unlimited, silent):
                await ask(client, {**key, "X-End-User": user})
        found = [await usage(client, key) for key in (tracking, unlimited, silent)]

    for one in found[:2]:
        assert [(user["endUser"], user["images"]) for user in one["users"]] == [("anna", 2), ("ben", 1)]
        assert sum(user["usd"] for user in one["users"]) == pytest.approx(one["spentUsd"], abs=1e-9)
    assert "users" not in found[2]
    assert found[2]["images"] == 3


async def test_the_period_is_chosen_by_day(client: httpx2.AsyncClient) -> None:
    earlier = await usage(client, {}, "?from=2024-02-01&to=2024-02-29")
    one_day = await usage(client, {}, "?from=2024-02-29&to=2024-02-29")
    until = await usage(client, {}, "?to=2024-02-10")

    assert (earlier["images"], earlier["days"], earlier["spentUsd"]) == (0, [], 0)
    assert one_day["period"] == {"from": "2024-02-29", "to": "2024-02-29"}
    assert until["period"] == {"from": "2024-02-01", "to": "2024-02-10"}


@pytest.mark.parametrize(
    "query",
    ["from=2026-02-30", "from=yesterday", "to=20260201", "from=", "from=1700000000", "from=2026-03-01&to=2026-02-01"],
)
async def test_a_period_that_is_none_is_refused(client: httpx2.AsyncClient, query: str) -> None:
    refused = await client.get(f"/usage?{query}")

    assert (refused.status_code, refused.json()["code"]) == (422, "invalid_request")
    assert refused.json()["errors"][0]["field"] in ("from", "to")
