"""What was paid is given, although something else fails after Gemini has answered."""

import asyncio
import base64
import secrets
import shutil
import sqlite3
from collections.abc import AsyncGenerator
from contextlib import closing
from pathlib import Path

import httpx2
import pytest

from app.emulator import Emulator, Fault
from tests.conftest import Serve, wait_for_calls
from tests.test_generations import finished, ordered

PROMPT = {"prompt": "A lighthouse", "imageSize": "1K"}


@pytest.fixture
async def alone(serve_alone: Serve) -> AsyncGenerator[httpx2.AsyncClient]:
    """A client of a service with a storage of its own, which the test damages."""
    async with serve_alone() as client:
        yield client


async def test_a_keyed_turn_gives_its_image_although_its_chat_is_gone(
    alone: httpx2.AsyncClient, gemini: Emulator, tmp_path: Path
) -> None:
    chat = (await alone.post("/chats", json={})).json()["id"]
    gemini.hold()
    key = {"Idempotency-Key": "deleted-chat"}
    request = asyncio.create_task(alone.post(f"/chats/{chat}/turns", json=PROMPT, headers=key))
    await wait_for_calls(gemini)
    with closing(sqlite3.connect(tmp_path / "chats.db")) as database, database:
        database.execute("DELETE FROM chats")
    gemini.release()
    first = await request
    again = await alone.post(f"/chats/{chat}/turns", json=PROMPT, headers=key)

    assert (first.status_code, again.status_code) == (200, 200), first.text[:500]
    assert first.json()["image"] == again.json()["image"]
    assert "not in its chat" in first.json()["warnings"][-1]
    assert len(gemini.calls) == 1


async def test_an_image_that_cannot_be_converted_stays_available_as_gemini_made_it(
    client: httpx2.AsyncClient, gemini: Emulator
) -> None:
    broken = (
        bytes.fromhex(
            "ffd8ffe000104a46494600010100000100010000ffc00011080400040003012200021101031101ffda000c03010002110311003f00"
        )
        + bytes(5000)
        + b"\xff\xd9"
    )
    gemini.faults.append(Fault(image_base64=base64.b64encode(broken).decode()))
    first = await client.post(
        "/generate-image", json=PROMPT | {"outputFormat": "png"}, headers={"Idempotency-Key": "broken"}
    )
    listed = (await client.get("/generations")).json()["generations"]
    file = await client.get(listed[0]["links"]["image"])

    assert first.status_code == 502
    assert first.headers["x-should-retry"] == "false"
    assert file.content == broken
    assert len(gemini.calls) == 1


@pytest.mark.slow
async def test_a_link_to_an_image_that_could_not_be_stored_is_an_error_that_clients_do_not_repeat(
    alone: httpx2.AsyncClient, gemini: Emulator, tmp_path: Path
) -> None:
    await alone.post("/generate-image", json=PROMPT, headers={"Idempotency-Key": secrets.token_hex(8)})
    gemini.hold()
    link = {"responseFormat": "url"}
    request = asyncio.create_task(alone.post("/generate-image", json=PROMPT | link, timeout=60))
    await wait_for_calls(gemini, 2)
    shutil.rmtree(tmp_path / "blobs")
    gemini.release()
    response = await request

    assert response.status_code == 503
    assert response.headers["x-should-retry"] == "false"
    assert len(gemini.calls) == 2


async def test_an_asynchronous_order_of_several_images_gets_its_slots(serve_alone: Serve, gemini: Emulator) -> None:
    gemini.faults.append(Fault(delay_seconds=0.4, times=9))
    async with serve_alone(max_in_flight=1, max_queued=2, queue_timeout_seconds=0.1) as client:
        wanted = {"prompt": "A lighthouse", "n": 3}
        made = await client.post("/v1/images/generations", json=wanted, headers={"Prefer": "respond-async"})
        document = await finished(client, made.json())

    assert document["status"] == "succeeded"
    assert len(document["result"]["data"]) == 3
    assert document["result"]["warnings"] == []


async def test_a_queued_first_turn_creates_one_chat(serve_alone: Serve, gemini: Emulator) -> None:
    async with serve_alone(max_in_flight=1) as client:
        document = await finished(client, await ordered(client, "/chats"))
        chats = (await client.get("/chats")).json()["chats"]

    assert [chat["id"] for chat in chats] == [document["result"]["chatId"]]


async def test_queued_turns_of_a_chat_are_made_in_their_order(serve_alone: Serve, gemini: Emulator) -> None:
    gemini.faults.append(Fault(delay_seconds=0.2, times=9))
    async with serve_alone(max_in_flight=4) as client:
        chat = (await client.post("/chats", json={})).json()["id"]
        prompts = [f"Lighthouse {number}" for number in range(4)]
        documents = [await ordered(client, f"/chats/{chat}/turns", prompt=prompt) for prompt in prompts]
        ended = [await finished(client, document) for document in documents]
        turns = (await client.get(f"/chats/{chat}")).json()["turns"]

    assert [one["status"] for one in ended] == ["succeeded"] * 4
    assert [turn["prompt"] for turn in turns] == prompts


async def test_a_link_that_takes_longer_than_the_caller_waits_is_in_progress(
    alone: httpx2.AsyncClient, gemini: Emulator, tmp_path: Path
) -> None:
    await alone.post("/generate-image", json=PROMPT, headers={"Idempotency-Key": secrets.token_hex(8)})
    gemini.hold()
    link, limit = {"responseFormat": "url"}, {"X-Timeout-Seconds": "2"}
    request = asyncio.create_task(alone.post("/generate-image", json=PROMPT | link, headers=limit))
    await wait_for_calls(gemini, 2)
    with closing(sqlite3.connect(tmp_path / "chats.db", isolation_level=None)) as database:
        database.execute("BEGIN IMMEDIATE")
        gemini.release()
        response = await request
        database.execute("ROLLBACK")
    again = await alone.get(response.headers["location"], headers={"Prefer": "wait=20"})

    assert (response.status_code, response.json()["code"]) == (409, "in_progress")
    assert response.headers["x-should-retry"] == "false"
    assert again.json()["status"] == "succeeded"


async def test_what_ended_is_over_for_the_next_request(client: httpx2.AsyncClient) -> None:
    for number in range(5):
        made = await client.post("/generate-image", json=PROMPT, headers={"Idempotency-Key": f"ended-{number}"})
        path = f"/generations/{made.json()['id']}"
        assert (await client.get(path)).json()["status"] == "succeeded"
        assert (await client.delete(path)).status_code == 204


async def test_a_watcher_of_events_gets_no_links_that_outlast_its_own(serve_alone: Serve) -> None:
    async with serve_alone(image_url_ttl=4, service_api_keys="anna:0123456789abcdef") as client:
        headers = {"X-API-Key": "0123456789abcdef"}
        document = await finished(client, await ordered(client, headers=headers), headers)
        await asyncio.sleep(2.5)
        events = (await client.get(document["links"]["events"])).text
        document_again = (await client.get(document["links"]["self"], headers=headers)).json()

    def expiry(link: str) -> str:
        return httpx2.URL(link).params["expires"]

    assert expiry(document_again["links"]["events"]) > expiry(document["links"]["events"])
    assert expiry(document_again["links"]["events"]) not in events
