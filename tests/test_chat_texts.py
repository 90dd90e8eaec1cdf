"""Long texts are stored once, shared by forks, and shortened in lists."""

from app.domain.chat import Chat as Chats
from app.domain.chat import ChatDefaults, Turn, TurnState
from app.store.blobs import GRACE_SECONDS
from app.store.chats import ChatStore
from tests.conftest import Serve
from tests.storages import Overrides
from tests.stored_chats import execute, open_store, stored_characters
from tests.test_chats import begin

LONG = "Draw in the style of 水墨画, \x00 and \ud83d alone included. " * 1000


async def add_chat_with_long_texts(store: ChatStore) -> Chats:
    """Add a chat with a long system instruction and one turn with long texts."""
    empty = await store.add("anna", ChatDefaults(system_instruction=LONG))
    chat = await store.turns.lease(empty.id, "anna", "me")
    turn = Turn(1, TurnState.SUCCEEDED, LONG, "any", text=LONG, generation_id="gen_1")
    await store.turns.save(chat, "me", turn, None)
    return await store.get(chat.id, "anna")


async def test_lists_have_an_excerpt_of_a_long_system_instruction(serve: Serve, storage: Overrides) -> None:
    instruction = LONG.encode("utf-8", "replace").decode()
    async with serve(**storage) as client:
        for _ in range(3):
            chat = await begin(client, systemInstruction=instruction)
        short = await begin(client, systemInstruction="Short.")
        listed = await client.get("/chats", params={"limit": 100})
        full = await chat.read()

    found = [one["defaults"]["systemInstruction"] for one in listed.json()["chats"]]
    assert found == ["Short.", *[f"{instruction[:200]}…"] * 3]
    assert short.url == listed.json()["chats"][0]["url"]
    assert len(listed.content) < 10_000
    assert full["defaults"]["systemInstruction"] == instruction


async def test_forks_share_long_texts(storage: Overrides) -> None:
    async with open_store(storage) as store:
        chat = await add_chat_with_long_texts(store)
        before = await stored_characters(storage)
        forks = [await store.fork(chat.id, "anna", number % 2) for number in range(12)]
        after = await stored_characters(storage)
        fork = await store.get(forks[1].id, "anna")
        leased = await store.turns.lease(forks[1].id, "anna", "other")

    assert chat.defaults.system_instruction == LONG
    assert after - before < before / 10
    assert fork.defaults == leased.defaults == chat.defaults
    assert [(one.prompt, one.text) for one in fork.turns] == [(LONG, LONG)]


async def test_a_cleanup_deletes_unreferenced_texts(storage: Overrides) -> None:
    async with open_store(storage) as store:
        chat = await add_chat_with_long_texts(store)
        fork = await store.fork(chat.id, "anna", None)
        await store.remove(chat.id, "anna")
        await execute(storage, f"UPDATE texts SET touched_at = touched_at - {GRACE_SECONDS + 1}")
        await store.cleanup()
        remaining = await store.get(fork.id, "anna")
        await store.remove(fork.id, "anna")
        await store.cleanup()
        left = await stored_characters(storage)

    assert (remaining.defaults.system_instruction, remaining.turns[0].prompt) == (LONG, LONG)
    assert left == 0
