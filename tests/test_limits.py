"""Limits of callers: requests per time, generations at once, dollars, sizes and models."""

import asyncio
import re
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx2
import pytest

from app.emulator import Emulator, Fault
from tests.callers import add_key, bearer, break_database, until
from tests.conftest import Serve, image_file, soon, wait_for_calls
from tests.held_storage import HeldDatabase

ASK = {"prompt": "A lighthouse", "imageSize": "1K"}
EDITED = [("images", ("cat.png", image_file(), "image/png"))]

ESTIMATE = (1120 * 120 + 2000 * 12 + 4 * 2) / 1e6
"""What a request for `ASK` reserves: an image of 1K, 2,000 tokens of thoughts and text, and 4 tokens of input."""


async def usage(client: httpx2.AsyncClient, secret: str) -> Any:
    response = await client.get("/usage", headers=bearer(secret))
    assert response.status_code == 200
    return response.json()


async def quiet(client: httpx2.AsyncClient, secret: str) -> Any:
    """Return the usage once nothing is reserved."""

    async def is_quiet() -> bool:
        reserved: float = (await usage(client, secret))["reservedUsd"]
        return reserved == 0

    await until(is_quiet)
    return await usage(client, secret)


def limits_of(response: httpx2.Response) -> dict[str, str]:
    names = ("ratelimit", "ratelimit-policy", "x-budget-remaining-usd", "retry-after")
    return {name: response.headers[name] for name in names if name in response.headers}


async def test_requests_over_the_rate_are_refused(serve_alone: Serve, gemini: Emulator, tmp_path: Path) -> None:
    secret = await add_key({"data_dir": tmp_path}, rate="2/min")
    async with serve_alone() as client:
        responses = [await client.post("/generate-image", json=ASK, headers=bearer(secret)) for _ in range(3)]

    assert [one.status_code for one in responses] == [200, 200, 429]
    assert responses[-1].json()["code"] == "rate_limited"
    assert [one.headers["ratelimit-policy"] for one in responses] == ['"requests";q=2;w=60'] * 3
    assert [one.headers["ratelimit"].partition(";t=")[0] for one in responses] == [
        '"requests";r=1',
        '"requests";r=0',
        '"requests";r=0',
    ]
    assert 1 <= int(responses[-1].headers["retry-after"]) <= 30
    assert "x-should-retry" not in responses[-1].headers
    assert len(gemini.calls) == 2


async def test_a_request_over_the_budget_is_refused_until_the_next_period(
    serve_alone: Serve, gemini: Emulator, tmp_path: Path
) -> None:
    secret = await add_key({"data_dir": tmp_path}, budget="0.30/day")
    async with serve_alone() as client:
        first = await client.post("/generate-image", json=ASK, headers=bearer(secret))
        second = await client.post("/generate-image", json=ASK, headers=bearer(secret))
        third = await client.post("/generate-image", json=ASK, headers=bearer(secret))
        used = await usage(client, secret)

    cost = first.json()["usage"]["estimatedCostUsd"]
    tomorrow = datetime.combine(datetime.now(UTC).date() + timedelta(days=1), datetime.min.time(), UTC)
    until_tomorrow = (tomorrow - datetime.now(UTC)).total_seconds()
    problem = third.json()
    assert (first.status_code, second.status_code, third.status_code) == (200, 200, 429)
    assert problem["code"] == "budget_exhausted"
    assert problem["resetsAt"] == tomorrow.isoformat().replace("+00:00", "Z")
    assert abs(int(third.headers["retry-after"]) - until_tomorrow) < 60
    assert third.headers["x-should-retry"] == "false"
    assert float(first.headers["x-budget-remaining-usd"]) == pytest.approx(0.30 - cost, abs=1e-9)
    assert used["spentUsd"] == pytest.approx(2 * cost, abs=1e-9)
    assert used["limits"]["budget"]["remainingUsd"] == pytest.approx(0.30 - 2 * cost, abs=1e-9)
    assert len(gemini.calls) == 2


async def test_openai_clients_get_errors_that_they_understand(
    serve_alone: Serve, gemini: Emulator, tmp_path: Path
) -> None:
    poor = await add_key({"data_dir": tmp_path}, "poor", budget="0.01/month")
    hasty = await add_key({"data_dir": tmp_path}, "hasty", rate="1/hour")
    wanted = {"prompt": "A lighthouse"}
    async with serve_alone() as client:
        no_money = await client.post("/v1/images/generations", json=wanted, headers=bearer(poor))
        await client.post("/v1/images/generations", json=wanted, headers=bearer(hasty))
        too_fast = await client.post("/v1/images/generations", json=wanted, headers=bearer(hasty))

    assert no_money.status_code == too_fast.status_code == 429
    assert no_money.json()["error"]["code"] == no_money.json()["error"]["type"] == "insufficient_quota"
    assert too_fast.json()["error"]["code"] == "rate_limit_exceeded"
    assert no_money.headers["x-should-retry"] == "false"
    assert "x-should-retry" not in too_fast.headers
    assert len(gemini.calls) == 1


async def test_images_of_one_request_count_as_one_request_and_several_generations(
    serve_alone: Serve, gemini: Emulator, tmp_path: Path
) -> None:
    secret = await add_key({"data_dir": tmp_path}, rate="5/min", concurrent=3)
    async with serve_alone() as client:
        three = await client.post("/v1/images/generations", json={"prompt": "x", "n": 3}, headers=bearer(secret))
        four = await client.post("/v1/images/generations", json={"prompt": "x", "n": 4}, headers=bearer(secret))
        again = await client.post("/v1/images/generations", json={"prompt": "x", "n": 1}, headers=bearer(secret))

    assert three.status_code == again.status_code == 200
    assert three.headers["ratelimit"].startswith('"requests";r=4;')
    assert four.status_code == 429
    assert again.headers["ratelimit"].startswith('"requests";r=3;')
    assert len(gemini.calls) == 4


async def test_generations_at_once_are_limited_and_free_again_when_they_end(
    serve_alone: Serve, gemini: Emulator, tmp_path: Path
) -> None:
    secret = await add_key({"data_dir": tmp_path}, concurrent=1)
    gemini.faults.append(Fault(delay_seconds=30))
    async with serve_alone() as client:
        slow = asyncio.create_task(client.post("/generate-image", json=ASK, headers=bearer(secret)))
        await wait_for_calls(gemini)
        refused = await client.post("/generate-image", json=ASK, headers=bearer(secret))
        slow.cancel()

        async def is_free() -> bool:
            return (await client.post("/generate-image", json=ASK, headers=bearer(secret))).status_code == 200

        await until(is_free)

    assert (refused.status_code, refused.json()["code"]) == (429, "too_many_at_once")
    assert refused.headers["ratelimit"] == '"concurrent";r=0'


async def test_a_caller_who_leaves_pays_for_the_call_that_may_have_been_billed(
    serve_alone: Serve, gemini: Emulator, tmp_path: Path
) -> None:
    secret = await add_key({"data_dir": tmp_path}, budget="5/day")
    gemini.faults.append(Fault(delay_seconds=30))
    async with serve_alone() as client:
        leaving = asyncio.create_task(client.post("/generate-image", json=ASK, headers=bearer(secret)))
        await wait_for_calls(gemini)
        reserved = (await usage(client, secret))["reservedUsd"]
        leaving.cancel()
        used = await quiet(client, secret)

    assert reserved == pytest.approx(ESTIMATE, abs=1e-5)
    assert used["spentUsd"] == reserved
    assert used["images"] == 0


async def test_a_caller_who_leaves_before_gemini_is_asked_pays_nothing(
    serve_alone: Serve, gemini: Emulator, tmp_path: Path
) -> None:
    """
    The request waits for its reservation when its caller leaves.
    """
    secret = await add_key({"data_dir": tmp_path}, budget="5/day")
    database = HeldDatabase({"data_dir": tmp_path})
    async with serve_alone() as client:
        await usage(client, secret)
        await database.hold()
        with pytest.raises(httpx2.ReadTimeout):
            await client.post("/generate-image", json=ASK, headers=bearer(secret), timeout=0.5)
        await asyncio.sleep(0.2)  # the service hears of it
        await database.release()
        assert await soon(client, 'gemini_images_caller_disconnects_total{stage="queue"}', 1)
        used = await quiet(client, secret)

    assert (used["spentUsd"], used["reservedUsd"]) == (0, 0)
    assert not gemini.calls


FREE = (Fault(status=400, message="Bad"), Fault(status=429, details=[], message="Please retry in 999s."))


@pytest.mark.parametrize("fault", FREE, ids=["refused by Gemini", "out of quota"])
async def test_what_cost_nothing_is_given_back(
    serve_alone: Serve, gemini: Emulator, tmp_path: Path, fault: Fault
) -> None:
    secret = await add_key({"data_dir": tmp_path}, budget="5/day")
    gemini.faults.append(fault)
    async with serve_alone() as client:
        failed = await client.post("/generate-image", json=ASK, headers=bearer(secret))
        used = await usage(client, secret)

    assert failed.status_code in (422, 503)
    assert (used["spentUsd"], used["reservedUsd"]) == (0, 0)


async def test_a_refusal_is_booked_at_its_cost(serve_alone: Serve, gemini: Emulator, tmp_path: Path) -> None:
    secret = await add_key({"data_dir": tmp_path}, budget="5/day")
    gemini.faults.append(Fault(finish_reason="NO_IMAGE", finish_message="No image."))
    async with serve_alone() as client:
        refused = await client.post("/generate-image", json=ASK, headers=bearer(secret))
        used = await usage(client, secret)

    assert refused.status_code == 422
    assert used["spentUsd"] == refused.json()["usage"]["estimatedCostUsd"] > 0
    assert used["images"] == 0


async def test_a_retry_of_a_call_that_may_have_been_billed_reserves_again(
    serve_alone: Serve, gemini: Emulator, tmp_path: Path
) -> None:
    secret = await add_key({"data_dir": tmp_path}, budget="5/day")
    gemini.faults.append(Fault(reset="in_body"))
    async with serve_alone() as client:
        image = await client.post("/generate-image", json=ASK, headers=bearer(secret))
        used = await usage(client, secret)

    cost = image.json()["usage"]["estimatedCostUsd"]
    assert len(gemini.calls) == 2
    assert used["spentUsd"] == pytest.approx(cost + ESTIMATE, abs=1e-5)


async def test_a_retry_for_which_there_is_no_budget_is_not_made(
    serve_alone: Serve, gemini: Emulator, tmp_path: Path
) -> None:
    secret = await add_key({"data_dir": tmp_path}, budget="0.20/day")
    gemini.faults.append(Fault(reset="in_body"))
    async with serve_alone() as client:
        failed = await client.post("/generate-image", json=ASK, headers=bearer(secret))
        used = await usage(client, secret)

    assert (failed.status_code, failed.json()["code"]) == (502, "upstream_error")
    assert failed.headers["x-should-retry"] == "false"
    assert len(gemini.calls) == 1
    assert used["spentUsd"] == pytest.approx(ESTIMATE, abs=1e-5)


async def test_models_and_sizes_that_a_key_may_not_ask_for(
    serve_alone: Serve, gemini: Emulator, tmp_path: Path
) -> None:
    secret = await add_key({"data_dir": tmp_path}, max_size="1K", models=("nano-banana-2.1",))
    asked: list[dict[str, object]] = [
        {"model": "gemini-3-pro-image"},
        {"model": "gemini-nano-banana-2.1", "imageSize": "2K"},
        {"model": "gemini-nano-banana-2.1", "fallbackModel": "gemini-3-pro-image"},
        {"model": "gemini-nano-banana-2.1"},
        {"model": "nano-banana-2.1", "imageSize": "1K"},
    ]
    async with serve_alone(fallback_model="gemini-3-pro-image") as client:
        responses = [
            await client.post("/generate-image", json={"prompt": "x"} | fields, headers=bearer(secret))
            for fields in asked
        ]
        gemini.faults.append(Fault(status=503, times=9))
        busy = await client.post(
            "/generate-image", json={"prompt": "x", "model": "gemini-nano-banana-2.1"}, headers=bearer(secret)
        )

    assert [one.status_code for one in responses] == [403, 403, 403, 200, 200]
    assert {one.json()["code"] for one in responses[:3]} == {"not_allowed"}
    sizes = [call.body["generationConfig"]["imageConfig"]["imageSize"] for call in gemini.calls]
    assert set(sizes) == {"1K"}
    assert busy.status_code == 503
    assert {call.model for call in gemini.calls} == {"gemini-nano-banana-2.1"}


async def test_under_a_budget_a_model_without_known_prices_is_not_allowed(
    serve_alone: Serve, gemini: Emulator, tmp_path: Path
) -> None:
    secret = await add_key({"data_dir": tmp_path}, budget="5/day")
    async with serve_alone() as client:
        response = await client.post(
            "/generate-image", json={"prompt": "x", "model": "gemini-9-image"}, headers=bearer(secret)
        )

    assert (response.status_code, response.json()["code"]) == (403, "not_allowed")
    assert not gemini.calls


async def test_replays_are_served_whatever_the_limits_and_cost_nothing(
    serve_alone: Serve, gemini: Emulator, tmp_path: Path
) -> None:
    secret = await add_key({"data_dir": tmp_path}, rate="1/day", concurrent=1, budget="0.20/day")
    headers = bearer(secret) | {"Idempotency-Key": uuid4().hex}
    gemini.faults.append(Fault(delay_seconds=0.5))
    async with serve_alone() as client:
        together = await asyncio.gather(*(client.post("/generate-image", json=ASK, headers=headers) for _ in range(5)))
        late = await client.post("/generate-image", json=ASK, headers=headers)
        refused = await client.post("/generate-image", json=ASK, headers=bearer(secret))
        used = await quiet(client, secret)

    assert {one.status_code for one in (*together, late)} == {200}
    assert refused.status_code == 429
    assert len(gemini.calls) == 1
    assert used["images"] == 1
    assert used["spentUsd"] == late.json()["usage"]["estimatedCostUsd"]


@pytest.mark.parametrize("prefer", ["", "respond-async", "respond-async, wait=20"])
@pytest.mark.parametrize("route", ["/generate-image", "/v1/images/generations", "/chats"])
async def test_recorded_generations_are_settled_with_their_row(
    serve_alone: Serve, gemini: Emulator, tmp_path: Path, prefer: str, route: str
) -> None:
    secret = await add_key({"data_dir": tmp_path}, budget="5/day", concurrent=2)
    headers = bearer(secret) | {"Idempotency-Key": uuid4().hex} | ({"Prefer": prefer} if prefer else {})
    async with serve_alone() as client:
        response = await client.post(route, json={"prompt": "A lighthouse"}, headers=headers)
        assert response.status_code in (200, 201, 202)
        used = await quiet(client, secret)
        refused = await client.post(
            "/v1/images/generations", json={"prompt": "x", "n": 3}, headers=bearer(secret) | {"Prefer": prefer}
        )

    assert used["images"] == 1
    assert used["spentUsd"] > 0.1
    assert used["limits"]["budget"]["remainingUsd"] == pytest.approx(5 - used["spentUsd"], abs=1e-9)
    assert (refused.status_code, len(gemini.calls)) == (429, 1)


async def test_a_cancelled_generation_gives_its_reservation_back(
    serve_alone: Serve, gemini: Emulator, tmp_path: Path
) -> None:
    secret = await add_key({"data_dir": tmp_path}, budget="5/day")
    gemini.faults.append(Fault(delay_seconds=5))
    headers = bearer(secret) | {"Prefer": "respond-async"}
    async with serve_alone(max_in_flight=1) as client:
        running = await client.post("/generate-image", json=ASK, headers=headers)
        await wait_for_calls(gemini)
        queued = await client.post("/generate-image", json=ASK, headers=headers)
        both = (await usage(client, secret))["reservedUsd"]
        await client.delete(queued.headers["location"], headers=bearer(secret))
        one = (await usage(client, secret))["reservedUsd"]

    assert running.status_code == queued.status_code == 202
    assert both == pytest.approx(2 * one)


async def test_turns_of_a_chat_are_limited_and_booked(serve_alone: Serve, gemini: Emulator, tmp_path: Path) -> None:
    secret = await add_key({"data_dir": tmp_path}, budget="0.55/day")
    async with serve_alone() as client:
        first = await client.post("/chats", json=ASK, headers=bearer(secret))
        turns = f"/chats/{first.json()['chatId']}/turns"
        second = await client.post(turns, json=ASK, headers=bearer(secret))
        keyed = bearer(secret) | {"Idempotency-Key": uuid4().hex}
        third = await client.post(turns, json=ASK, headers=keyed)
        fourth = await client.post(turns, json=ASK, headers=bearer(secret))
        fifth = await client.post("/chats", json=ASK, headers=bearer(secret))
        chats = (await client.get("/chats", headers=bearer(secret))).json()["chats"]
        used = await usage(client, secret)

    paid = [one.json()["usage"]["estimatedCostUsd"] for one in (first, second, third)]
    assert [one.status_code for one in (first, second, third, fourth, fifth)] == [201, 200, 200, 429, 429]
    assert used["spentUsd"] == pytest.approx(sum(paid), abs=1e-9)
    assert len(chats) == 1


async def test_events_and_forms_are_limited_before_the_response_begins(
    serve_alone: Serve, gemini: Emulator, tmp_path: Path
) -> None:
    secret = await add_key({"data_dir": tmp_path}, rate="1/hour")
    async with serve_alone() as client:
        events = bearer(secret) | {"Accept": "text/event-stream"}
        streamed = await client.post("/generate-image", json=ASK, headers=events)
        second = await client.post("/generate-image", json=ASK, headers=events)
        form = await client.post(
            "/generate-image/with-references", data={"prompt": "x"}, files=EDITED, headers=bearer(secret)
        )

    assert streamed.status_code == 200
    assert streamed.headers["ratelimit"].startswith('"requests";r=0;t=')
    assert (second.status_code, form.status_code) == (429, 429)
    assert second.headers["content-type"] == "application/problem+json"


async def test_callers_without_limits_see_what_they_have_used(
    serve_alone: Serve, gemini: Emulator, tmp_path: Path
) -> None:
    secret = await add_key({"data_dir": tmp_path})
    async with serve_alone() as client:
        images = [await client.post("/generate-image", json=ASK, headers=bearer(secret)) for _ in range(2)]
        used = await usage(client, secret)

    assert used["images"] == 2
    assert used["spentUsd"] == pytest.approx(sum(one.json()["usage"]["estimatedCostUsd"] for one in images), abs=1e-9)
    assert used["limits"] == {"rate": None, "concurrent": None, "budget": None}
    assert not limits_of(images[0])


async def test_forty_requests_at_once_never_exceed_a_budget(
    serve_alone: Serve, gemini: Emulator, tmp_path: Path
) -> None:
    budget = round(8.2 * ESTIMATE, 6)
    secret = await add_key({"data_dir": tmp_path}, budget=f"{budget}/month")
    gemini.faults.append(Fault(delay_seconds=2, times=99))
    async with serve_alone() as client, serve_alone() as replica:
        requests = [
            asyncio.create_task(one.post("/generate-image", json=ASK, headers=bearer(secret)))
            for one in (client, replica) * 20
        ]
        watched = []
        while not all(request.done() for request in requests):
            now = await usage(client, secret)
            watched.append(now["spentUsd"] + now["reservedUsd"])
        statuses = Counter([(await request).status_code for request in requests])
        used = await quiet(client, secret)

    assert statuses == {200: 8, 429: 32}
    assert max(watched) <= budget
    assert used["images"] == len(gemini.calls) == 8


async def test_limits_are_decided_by_the_database_so_without_it_they_are_refused(
    serve_alone: Serve, gemini: Emulator, tmp_path: Path
) -> None:
    limited = await add_key({"data_dir": tmp_path}, "limited", budget="5/day")
    free = await add_key({"data_dir": tmp_path}, "free")
    async with serve_alone() as client:
        before = [await client.post("/generate-image", json=ASK, headers=bearer(one)) for one in (limited, free)]
        break_database(tmp_path)
        after = [await client.post("/generate-image", json=ASK, headers=bearer(one)) for one in (limited, free)]

    assert [one.status_code for one in before] == [200, 200]
    assert [one.status_code for one in after] == [503, 200]
    assert after[0].json()["code"] == "storage_unavailable"


async def test_metrics_count_by_caller(serve_alone: Serve, gemini: Emulator, tmp_path: Path) -> None:
    secret = await add_key({"data_dir": tmp_path}, budget="0.20/day")
    async with serve_alone(metrics_access="open") as client:
        for _ in range(2):
            await client.post("/generate-image", json=ASK, headers=bearer(secret))
        text = (await client.get("/metrics")).text

    assert 'gemini_images_caller_images_total{caller="web"} 1.0' in text
    assert 'gemini_images_limit_refusals_total{caller="web",code="budget_exhausted"} 1.0' in text
    assert re.search(r'gemini_images_caller_cost_dollars_total{caller="web"} 0\.1', text)
