"""How many chats and bytes one caller may store, and for how long."""

import asyncio
import base64

import pytest

from app.emulator import Emulator
from app.settings import Settings
from tests.conftest import Serve, noise_jpeg
from tests.storages import Overrides
from tests.test_chats import begin


async def test_the_number_of_chats_per_caller_is_limited(serve: Serve, gemini: Emulator, storage: Overrides) -> None:
    keys = "anna:anna-secret-anna-secret,ben:ben-secret-ben-secret"
    async with serve(**storage, max_chats_per_caller=3, service_api_keys=keys) as client:
        client.headers["X-API-Key"] = "anna-secret-anna-secret"
        created = await asyncio.gather(*(client.post("/chats", json={}) for _ in range(8)))
        url = next(one.headers["location"] for one in created if one.is_success)
        fork = await client.post(f"{url}/fork")
        paid = await client.post("/chats", json={"prompt": "A cat"})
        calls = len(gemini.calls)
        turn = await client.post(f"{url}/turns", json={"prompt": "A cat"})
        other = await client.post("/chats", json={}, headers={"X-API-Key": "ben-secret-ben-secret"})
        await client.delete(url)
        again = await client.post("/chats", json={})

    assert sorted(one.status_code for one in created) == [201] * 3 + [409] * 5
    for refused in (fork, paid):
        assert (refused.status_code, refused.json()["code"]) == (409, "chat_limit_reached")
        assert (refused.json()["limit"], refused.json()["most"]) == ("chats", 3)
        assert refused.headers["x-should-retry"] == "false"
    assert calls == 0
    assert (turn.status_code, other.status_code, again.status_code) == (200, 201, 201)


async def test_expired_chats_do_not_count(serve: Serve, storage: Overrides) -> None:
    async with serve(**storage, max_chats_per_caller=1, chat_ttl="1s") as client:
        first = await client.post("/chats", json={})
        await asyncio.sleep(1.05)
        second = await client.post("/chats", json={})

    assert (first.status_code, second.status_code) == (201, 201)


async def test_the_stored_bytes_per_caller_are_limited(serve: Serve, gemini: Emulator, storage: Overrides) -> None:
    """
    Uploads, images and texts count. A request that would exceed the limit is refused before Gemini is called.
    """
    upload = noise_jpeg(2, 300_000)
    async with serve(**storage, max_stored_bytes_per_caller=900_000) as client:
        chat = await begin(client)
        first = await chat.upload("A cat", upload)
        fork = await client.post(f"{chat.url}/fork")
        calls = len(gemini.calls)
        refused = [
            await chat.upload("Another", noise_jpeg(3, 300_000)),
            await client.post(f"{chat.url}/fork"),
            await client.post(
                "/chats", json={"prompt": "A cat", "referenceImages": [{"data": base64.b64encode(upload).decode()}]}
            ),
            await client.post("/chats", json={"systemInstruction": "水" * 100_000}),
        ]
        called_again = len(gemini.calls)
        chats = (await client.get("/chats")).json()["chats"]
        await client.delete(fork.json()["url"])
        more = await client.post(f"{chat.url}/fork")

    assert (first.status_code, fork.status_code) == (200, 201)
    assert {(one.status_code, one.json()["code"], one.json()["limit"]) for one in refused} == {
        (409, "chat_limit_reached", "bytes")
    }
    assert (calls, called_again, len(chats)) == (1, 1, 2)
    assert more.status_code == 201


@pytest.mark.parametrize(
    ("written", "seconds"), [("30d", 2_592_000), ("12h", 43_200), ("90m", 5_400), ("45", 45), ("P1D", 86_400), ("0", 0)]
)
def test_the_time_to_live_of_chats_accepts_several_formats(written: str, seconds: int) -> None:
    assert Settings(_env_file=None, gemini_api_key="x", chat_ttl=written).chat_ttl.total_seconds() == seconds
