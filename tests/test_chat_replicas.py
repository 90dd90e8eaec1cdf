"""Chats survive crashes, and replicas share them."""

import asyncio
import os
import random
import signal

import httpx2
import pytest

from app.domain.chat import ChatDefaults, Turn, TurnState
from app.domain.errors import LeaseLost
from app.emulator import Emulator, served
from tests.conftest import Serve, image_file, image_of
from tests.processes import process
from tests.storages import S3_ENVIRONMENT, Overrides
from tests.stored_chats import open_storage, open_store
from tests.test_chats import Chat, begin, contents, images_in


@pytest.mark.slow
@pytest.mark.parametrize("turns", [2, 12])
async def test_a_chat_survives_many_crashes(storage: Overrides, turns: int) -> None:
    """
    Each turn is sent to one of two replicas (on SQLite, to the only process). The replica is killed during the turn and
    started again. Every acknowledged turn is stored without a changed bit, and Gemini accepts every signature.
    """
    chance = random.Random(20261125 + turns)
    emulator = Emulator(delay_seconds=0.1, signature_bytes=40_000, keep_calls=1000)
    overrides = {**storage, "chat_lease_seconds": 1, **{name.lower(): value for name, value in S3_ENVIRONMENT.items()}}
    overrides["aws_endpoint_url"] = os.environ.get("AWS_ENDPOINT_URL", "")
    replicas = 2 if "database_url" in storage else 1
    acknowledged: dict[int, bytes] = {}
    crashes = 0

    async with served(emulator) as gemini_url:
        running = [process(gemini_url, **overrides) for _ in range(replicas)]
        at = [await one.__aenter__() for one in running]
        try:
            async with httpx2.AsyncClient(timeout=30) as client:
                url = (await client.post(f"{at[0][1]}/chats", json={"imageSize": "1K"})).headers["location"]
                for number in range(1, turns + 1):
                    uploads = [image_file(colour=f"#{number}00000"[:7])] if number in (1, 5) else []
                    crash = True
                    while True:
                        which = chance.randrange(replicas)
                        service, base = at[which]
                        chat = Chat(client, f"{base}{url}")
                        asking = asyncio.create_task(
                            chat.upload(f"Turn {number}", *uploads, afterTurn=number - 1)
                            if uploads
                            else chat.say(f"Turn {number}", afterTurn=number - 1)
                        )
                        if crash:
                            await asyncio.sleep(chance.uniform(0, 0.4))
                            service.send_signal(signal.SIGKILL)
                            crashes += 1
                        try:
                            response = await asking
                        except httpx2.TransportError:
                            response = None
                        if crash:
                            await running[which].__aexit__(None, None, None)
                            running[which] = process(gemini_url, **overrides)
                            at[which] = await running[which].__aenter__()
                            crash = False
                        if response is not None and response.is_success:
                            assert response.json()["warnings"] == []
                            acknowledged[number] = image_of(response)
                            break
                        if response is not None and response.json()["code"] == "stale_turn":
                            break  # the turn was saved before the crash, but its response was lost
                        assert response is None or response.json()["code"] == "turn_in_progress", response.text
                        await asyncio.sleep(0.2)
                found = (await client.get(f"{at[0][1]}{url}")).json()
                stored = [(await client.get(at[0][1] + turn["image"]["url"])).content for turn in found["turns"]]
        finally:
            for one in running:
                await one.__aexit__(None, None, None)

    assert crashes == turns
    assert [turn["turn"] for turn in found["turns"]] == list(range(1, turns + 1))
    assert {turn["state"] for turn in found["turns"]} == {"succeeded"}
    # A warning would say that a signature was not accepted.
    assert [turn["warnings"] for turn in found["turns"]] == [[]] * turns
    assert acknowledged.items() <= dict(enumerate(stored, start=1)).items()
    sent = [images_in(content)[-1] for content in contents(emulator) if content["role"] == "model"]
    assert sent == stored[:-1]


async def test_replicas_share_their_chats(serve: Serve, gemini: Emulator, storage: Overrides) -> None:
    async with serve(**storage) as here, serve(**storage) as there:
        chat = await begin(here)
        first = image_of(await chat.say("A cat"))
        second = image_of(await Chat(there, chat.url).say("Blue, please"))
        third = await chat.say("Larger")
        image = (await there.get(f"{chat.url}/turns/1/image")).content

    assert third.json()["turn"] == 3
    assert image == first
    assert [images_in(content) for content in contents(gemini)] == [[], [first], [], [second], []]


async def test_a_turn_that_lost_its_lease_is_not_saved(storage: Overrides) -> None:
    """
    The turn took longer than its lease, and another replica has added a turn meanwhile. Only that turn is stored.
    """
    turn = Turn(number=1, state=TurnState.SUCCEEDED, prompt="A cat", model="any", generation_id="gen_1")
    async with open_storage(storage, chat_lease_seconds=1) as opened:
        store, leases = await opened.chats(), await opened.leases()
        empty = await store.add("anna", ChatDefaults())
        slow = await store.turns.lease(empty.id, "anna", "slow")
        await asyncio.sleep(1.1)
        fast = await store.turns.lease(empty.id, "anna", "fast")
        await leases.renew(["slow"])
        with pytest.raises(LeaseLost):
            await store.turns.save(slow, "slow", turn, None)
        await store.turns.save(fast, "fast", turn, None)
        with pytest.raises(LeaseLost):
            await store.turns.save(
                slow, "slow", Turn(1, TurnState.SUCCEEDED, "A dog", "any", generation_id="gen_2"), None
            )
        found = await store.get(empty.id, "anna")

    assert [one.prompt for one in found.turns] == ["A cat"]


async def test_saving_a_turn_twice_stores_it_once(storage: Overrides) -> None:
    turn = Turn(number=1, state=TurnState.SUCCEEDED, prompt="A cat", model="any", generation_id="gen_1")
    async with open_store(storage) as store:
        empty = await store.add("anna", ChatDefaults())
        chat = await store.turns.lease(empty.id, "anna", "me")
        await store.turns.save(chat, "me", turn, None)
        await store.turns.save(chat, "me", turn, None)
        found = await store.get(empty.id, "anna")

    assert len(found.turns) == 1
