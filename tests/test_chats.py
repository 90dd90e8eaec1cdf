"""Chats: each turn continues the conversation, and Gemini gets all context it needs."""

import asyncio
import base64
import io
import json
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import httpx2
import pytest
from google import genai
from google.genai import types
from PIL import Image

from app.emulator import Emulator, Fault
from tests.conftest import Serve, image_file, image_of, soon, wait_for_calls
from tests.held_storage import until
from tests.storages import Overrides

PRO = "gemini-3-pro-image"
NEWER = "gemini-nano-banana-2.1"
UNSIGNED = "gemini-2.5-flash-image"
"""Its answers carry no signatures, so that a test can change their parts."""


@dataclass
class Chat:
    """A chat as its caller sees it."""

    client: httpx2.AsyncClient
    url: str

    async def say(self, prompt: str, *, headers: dict[str, str] | None = None, **fields: Any) -> httpx2.Response:
        return await self.client.post(f"{self.url}/turns", json={"prompt": prompt, **fields}, headers=headers)

    async def upload(self, prompt: str, *files: bytes, **fields: Any) -> httpx2.Response:
        images = [("images", (f"{place}.png", one, "image/png")) for place, one in enumerate(files)]
        return await self.client.post(f"{self.url}/turns", data={"prompt": prompt, **fields}, files=images)

    async def quiet(self) -> None:
        """Wait until no turn is running."""
        while (await self.read())["turnInProgress"]:  # noqa: ASYNC110 - there is no event to wait for
            await asyncio.sleep(0.02)

    async def read(self) -> dict[str, Any]:
        response = await self.client.get(self.url)
        response.raise_for_status()
        document: dict[str, Any] = response.json()
        return document


async def begin(client: httpx2.AsyncClient, **fields: Any) -> Chat:
    response = await client.post("/chats", json={"imageSize": "1K", **fields})
    assert response.status_code == 201, response.text
    return Chat(client, response.headers["location"])


@pytest.fixture
def client(client_of_either: httpx2.AsyncClient) -> httpx2.AsyncClient:
    """A client of a service with each storage in turn; with PostgreSQL and S3 only in slow tests, to save time."""
    return client_of_either


@pytest.fixture
async def chat(client: httpx2.AsyncClient) -> Chat:
    return await begin(client)


def events_of(text: str) -> list[tuple[str, dict[str, Any]]]:
    """Names and data of a stream of server-sent events."""
    events = []
    for block in text.split("\n\n"):
        lines = dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith(":"))
        if lines:
            events.append((lines["event"], json.loads(lines["data"])))
    return events


def contents(gemini: Emulator, call: int = -1) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = gemini.calls[call].body["contents"]
    return found


def images_in(content: dict[str, Any]) -> list[bytes]:
    return [base64.b64decode(part["inlineData"]["data"]) for part in content["parts"] if "inlineData" in part]


async def test_an_empty_chat_costs_nothing(client: httpx2.AsyncClient, gemini: Emulator) -> None:
    response = await client.post("/chats", json={"model": "nano-banana-pro", "aspectRatio": "3:4"})

    chat = response.json()
    assert response.status_code == 201
    assert response.headers["location"] == chat["url"] == f"/chats/{chat['id']}"
    assert (chat["turns"], chat["lastTurn"], chat["title"], chat["estimatedCostUsd"]) == ([], 0, None, 0)
    assert (chat["defaults"]["model"], chat["defaults"]["aspectRatio"]) == ("nano-banana-pro", "3:4")
    assert not gemini.calls


async def test_a_chat_can_be_created_with_its_first_turn(client: httpx2.AsyncClient, gemini: Emulator) -> None:
    response = await client.post("/chats", json={"prompt": "An infographic on rain", "aspectRatio": "16:9"})

    turn = response.json()
    assert response.status_code == 201
    assert response.headers["location"] == f"/chats/{turn['chatId']}"
    assert (turn["turn"], turn["image"]["width"], turn["warnings"]) == (1, 2752, [])
    assert gemini.calls[-1].body["generationConfig"]["imageConfig"]["aspectRatio"] == "16:9"


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"seed": 7}, "body"),
        ({"prompt": " "}, "prompt"),
        ({"prompt": "A cat", "aspectRatio": "8:1"}, "aspectRatio"),
        ({"aspectRatio": "8:1"}, "aspectRatio"),
        ({"model": "../x"}, "model"),
        ({"colour": "red"}, "colour"),
    ],
)
async def test_an_invalid_chat_is_rejected_and_not_created(
    client: httpx2.AsyncClient, gemini: Emulator, body: dict[str, Any], field: str
) -> None:
    before = (await client.get("/chats", params={"limit": 100})).json()["chats"]

    response = await client.post("/chats", json=body)

    assert response.status_code == 422
    assert [error["field"] for error in response.json()["errors"]] == [field]
    assert (await client.get("/chats", params={"limit": 100})).json()["chats"] == before


async def test_a_turn_edits_the_image_of_the_previous_turn(chat: Chat, gemini: Emulator) -> None:
    first = await chat.say("An infographic on rain")
    second = await chat.say("Now in Spanish, keep everything else")

    turn = second.json()
    assert (turn["turn"], turn["text"]) == (2, "Here it is, changed (turn 2).")
    user, model, asked = contents(gemini)
    assert [one["role"] for one in (user, model, asked)] == ["user", "model", "user"]
    assert images_in(model) == [image_of(first)]
    assert asked["parts"] == [{"text": "Now in Spanish, keep everything else"}]


async def test_gemini_gets_the_same_parts_as_from_google_s_own_chat(
    client: httpx2.AsyncClient, gemini: Emulator, gemini_url: str
) -> None:
    """
    The exchange has uploads, several images in one response, thoughts, and text after the image. Only thoughts differ,
    because they need not be sent back.
    """
    faults = [None, Fault(shape="unflagged_drafts"), Fault(shape="image_first"), None, Fault(text="A cat."), None]
    thoughts = [False, True, False, False, True, False]
    uploads = [[image_file()], [], [], [], [image_file(colour="red"), image_file("JPEG")], []]
    config = types.GenerateContentConfig(
        response_modalities=["TEXT", "IMAGE"], image_config=types.ImageConfig(image_size="1K")
    )
    options = types.HttpOptions(base_url=gemini_url, api_version="v1beta")
    official = genai.Client(api_key="any", http_options=options).aio.chats.create(model=PRO, config=config)
    chat = await begin(client)
    heard: list[tuple[Any, Any]] = []

    for number, (fault, thinks, files) in enumerate(zip(faults, thoughts, uploads, strict=True), start=1):
        gemini.faults += [fault, fault] if fault else []
        parts: list[Any] = [types.Part.from_bytes(data=one, mime_type=_type_of(one)) for one in files]
        turn_config = config.model_copy(
            update={"thinking_config": types.ThinkingConfig(include_thoughts=True)} if thinks else {}
        )
        await official.send_message([f"Turn {number}", *parts], turn_config)
        theirs = contents(gemini)
        ask = partial(chat.upload, f"Turn {number}", *files) if files else partial(chat.say, f"Turn {number}")
        response = await ask(includeThoughts="true" if thinks else "false")
        assert response.is_success, response.text
        heard.append((theirs, contents(gemini)))

    for theirs, ours in heard:
        assert _without_thoughts(theirs) == _canonical(ours)
    assert len(heard[-1][1]) == 11


def _type_of(image: bytes) -> str:
    return "image/png" if image.startswith(b"\x89PNG") else "image/jpeg"


def _canonical(value: Any) -> Any:
    """Replace base64 by its bytes, because the alphabet may differ."""
    if isinstance(value, dict):
        return {
            key: base64.urlsafe_b64decode(child.replace("+", "-").replace("/", "_") + "===")
            if key in ("data", "thoughtSignature")
            else _canonical(child)
            for key, child in value.items()
        }
    return [_canonical(child) for child in value] if isinstance(value, list) else value


def _without_thoughts(said: list[dict[str, Any]]) -> Any:
    return _canonical([{**one, "parts": [part for part in one["parts"] if not part.get("thought")]} for one in said])


async def test_uploads_are_sent_again_in_their_own_turns(chat: Chat, gemini: Emulator) -> None:
    logo, mug = image_file(colour="red"), image_file("JPEG", colour="blue")

    await chat.upload("Put the logo on the mug", logo, mug, roles=["object", ""], names=["the logo", ""])
    await chat.say("Make it larger")

    first, _, _ = contents(gemini)
    assert images_in(first) == [logo, mug]
    assert first["parts"][1] == {"text": "Reference image 1 shows the object the logo:"}
    references = (await chat.read())["turns"][0]["references"]
    assert [(one["role"], one["name"]) for one in references] == [("object", "the logo"), (None, None)]
    assert (await chat.client.get(references[1]["url"])).content == mug


async def test_a_turn_takes_inline_references(chat: Chat, gemini: Emulator) -> None:
    logo = image_file(colour="red")

    response = await chat.say("A mug", referenceImages=[{"data": base64.b64encode(logo).decode()}])

    assert response.is_success
    assert images_in(contents(gemini)[0]) == [logo]


async def test_a_turn_uses_the_chat_s_defaults_unless_it_overrides_them(
    client: httpx2.AsyncClient, gemini: Emulator
) -> None:
    chat = await begin(client, aspectRatio="21:9", systemInstruction="No words.", googleSearch=True, model=NEWER)

    await chat.say("Rain")
    await chat.say("Snow", aspectRatio="1:1", googleSearch=False, systemInstruction="Words.")
    await chat.say("Hail")

    rain, snow, hail = [call.body for call in gemini.calls]
    assert rain["generationConfig"]["imageConfig"] == {"aspectRatio": "21:9", "imageSize": "1K"}
    assert rain["systemInstruction"]["parts"] == [{"text": "No words."}]
    assert rain["tools"]
    assert snow["generationConfig"]["imageConfig"]["aspectRatio"] == "1:1"
    assert snow["systemInstruction"]["parts"] == [{"text": "Words."}]
    assert "tools" not in snow
    assert hail["tools"] == rain["tools"]


async def test_without_an_aspect_ratio_a_turn_keeps_the_previous_one(chat: Chat) -> None:
    await chat.say("A river", aspectRatio="21:9")

    response = await chat.say("Add a bridge")

    assert response.json()["image"]["width"] == 1584


async def test_a_turn_can_return_raw_bytes(chat: Chat) -> None:
    response = await chat.say("A cat", headers={"Accept": "image/*"})

    assert response.headers["content-type"] == "image/jpeg"
    assert response.headers["x-turn"] == "1"
    assert response.headers["x-chat-id"] == chat.url.removeprefix("/chats/")
    assert Image.open(io.BytesIO(response.content)).size == (1024, 1024)


async def test_a_turn_can_return_events(chat: Chat, gemini: Emulator) -> None:
    """
    The service also streams from Gemini then. The parts are sent back unchanged in the next turn.
    """
    gemini.faults.append(Fault(shape="unflagged_drafts"))

    response = await chat.say("A cat", includeThoughts=True, headers={"Accept": "text/event-stream"})
    following = await chat.say("Make it blue")

    events = events_of(response.text)
    assert [name for name, _ in events] == ["started", "thought", "image", "done"]
    assert events[2][1]["turn"] == 1
    assert following.json()["turn"] == 2
    assert len(images_in(contents(gemini)[1])) == 3


async def test_creating_a_chat_can_return_events(client: httpx2.AsyncClient, gemini: Emulator) -> None:
    response = await client.post("/chats", json={"prompt": "A cat"}, headers={"Accept": "text/event-stream"})

    assert response.status_code == 201
    (image,) = [data for name, data in events_of(response.text) if name == "image"]
    assert response.headers["location"] == f"/chats/{image['chatId']}"


async def test_a_chat_can_be_read(chat: Chat, gemini: Emulator) -> None:
    gemini.faults.append(Fault(finish_reason="IMAGE_SAFETY", finish_message="No."))
    refused = await chat.say("Something awful")
    image = image_of(await chat.say("A   cat\n with a hat"))

    response = await chat.client.get(chat.url)

    found = response.json()
    first, second = found["turns"]
    assert response.headers["etag"] == '"2"'
    assert response.headers["content-length"] == str(len(response.content))
    assert found["title"] == "Something awful"
    assert (first["state"], first["image"], first["finishReason"]) == ("refused", None, "IMAGE_SAFETY")
    assert first["problem"] == {
        "code": "content_blocked", "title": "Gemini refused the content", "status": 422, "detail": "No.",
    }  # fmt: skip
    assert (refused.json()["chatId"], refused.json()["turn"]) == (found["id"], 1)
    assert (second["state"], second["prompt"], second["text"]) == ("succeeded", "A   cat\n with a hat", "Here it is.")
    assert (await chat.client.get(second["image"]["url"])).content == image
    paid = first["usage"]["estimatedCostUsd"] + second["usage"]["estimatedCostUsd"]
    assert found["estimatedCostUsd"] == pytest.approx(paid, abs=1e-6)
    assert found["expiresAt"] > found["updatedAt"] >= second["createdAt"] >= found["createdAt"]


@pytest.mark.parametrize(
    ("fault", "state", "code"),
    [
        (Fault(finish_reason="IMAGE_SAFETY"), "refused", "content_blocked"),
        (Fault(block_reason="OTHER"), "refused", "content_blocked"),
        (Fault(shape="text_only"), "refused", "no_image"),
        (Fault(status=500, times=3), "failed", "upstream_error"),
        (Fault(status=400, message="Aspect ratio is not enabled for this model"), "failed", "invalid_request"),
        (Fault(image_base64="bm90IGFuIGltYWdl"), "failed", "upstream_invalid_response"),
    ],
)
async def test_a_turn_without_an_image_is_stored_and_not_used_as_context(
    chat: Chat, gemini: Emulator, fault: Fault, state: str, code: str
) -> None:
    first = image_of(await chat.say("A cat"))
    gemini.faults.append(fault)
    failed = await chat.upload("A hat", image_file())

    third = await chat.say("Blue, please")

    assert failed.json()["code"] == code
    assert failed.json()["turn"] == 2
    assert third.json()["turn"] == 3
    turns = (await chat.read())["turns"]
    assert [turn["state"] for turn in turns] == ["succeeded", state, "succeeded"]
    assert len(turns[1]["references"]) == 1
    cat, model, blue = contents(gemini)
    assert (cat["parts"], blue["parts"]) == ([{"text": "A cat"}], [{"text": "Blue, please"}])
    assert images_in(model) == [first]


@pytest.mark.parametrize(
    "patch",
    [
        {"mediaResolution": "HIGH"},
        {"functionCall": "x"},
        {"videoMetadata": {"fps": "x"}},
        {"inlineData": {"mimeType": 5}},
        {"inlineData": {"displayName": "cat.jpg", "brandNew": 1}, "brandNew": {"a": []}},
    ],
)
async def test_a_chat_continues_after_unknown_kinds_of_parts(
    chat: Chat, gemini: Emulator, patch: dict[str, Any]
) -> None:
    gemini.faults.append(Fault(patch={"candidates": {"0": {"content": {"parts": {"1": patch}}}}}))
    first = image_of(await chat.say("A cat"))

    second = await chat.say("Blue, please")

    assert second.is_success, second.text
    assert first in [image for content in contents(gemini) for image in images_in(content)]


async def test_a_chat_continues_after_empty_parts(chat: Chat, gemini: Emulator) -> None:
    """
    Gemini sends `{}` and `{"text": ""}`, and rejects both in a request. An empty text with a signature is kept.
    """
    gemini.faults.append(Fault(shape="empty_parts", times=2))
    first = image_of(await chat.say("A cat"))

    second = await chat.say("Blue, please")
    third = await chat.say("Larger", headers={"Accept": "text/event-stream"})

    assert (second.status_code, second.json()["warnings"]) == (200, [])
    assert [name for name, _ in events_of(third.text)][-1] == "done"
    sent = contents(gemini)
    assert len(sent) == 5
    for content in (sent[1], sent[3]):
        text, image, empty = content["parts"]
        assert text["text"].startswith("Here it is")
        assert image["inlineData"]
        assert empty.keys() == {"text", "thoughtSignature"}
        assert empty["text"] == ""
    assert images_in(sent[1]) == [first]


@pytest.mark.parametrize(
    "part",
    [
        {"someNewThing": 1},
        {"thought": False},
        {"text": "", "thoughtSignature": ""},
        {"text": "", "someNewThing": {"a": []}},
        {"inlineData": {"mimeType": "image/jpeg", "data": ""}},
        {"inlineData": {}},
        {"videoMetadata": {"fps": 1}},
        {"functionCall": {}},
    ],
    ids=str,
)
async def test_a_part_that_becomes_empty_is_not_sent_back(
    client: httpx2.AsyncClient, gemini: Emulator, part: dict[str, Any]
) -> None:
    chat = await begin(client, model=UNSIGNED)
    image = {"inlineData": {"mimeType": "image/png", "data": base64.b64encode(image_file()).decode()}}
    gemini.faults.append(Fault(patch={"candidates": {"0": {"content": {"parts": [part, image, part]}}}}))
    first = image_of(await chat.say("A cat"))

    second = await chat.say("Blue, please")

    assert second.headers["x-upstream-attempts"] == "1", second.text
    assert [images_in(content) for content in contents(gemini)] == [[], [first], []]
    assert len(contents(gemini)[1]["parts"]) == 1


async def test_a_signature_without_data_is_sent_back_with_an_empty_text(
    client: httpx2.AsyncClient, gemini: Emulator
) -> None:
    chat = await begin(client, model=UNSIGNED)
    image = {"inlineData": {"mimeType": "image/png", "data": base64.b64encode(image_file()).decode()}}
    signature = {"thoughtSignature": "c2lnbmVk"}
    gemini.faults.append(Fault(patch={"candidates": {"0": {"content": {"parts": [image, signature]}}}}))
    await chat.say("A cat")

    second = await chat.say("Blue, please")

    assert second.status_code == 200, second.text
    assert contents(gemini)[1]["parts"][1] == {"text": "", **signature}


async def test_a_chat_that_was_stored_with_empty_parts_continues(
    serve: Serve, gemini: Emulator, tmp_path: Path
) -> None:
    """
    Earlier versions of the service stored empty parts.
    """
    async with serve(data_dir=tmp_path) as client:
        chat = await begin(client)
        first = image_of(await chat.say("A cat"))
    with closing(sqlite3.connect(tmp_path / "chats.db")) as database, database:
        (text,) = database.execute("select document from turns").fetchone()
        document = json.loads(text)
        document["answer"] += [{"fields": {}}, {"fields": {"text": ""}}, {"fields": {"someNewThing": 1}}]
        document["user"] += [{"fields": {"text": ""}}]
        database.execute("update turns set document = ?", [json.dumps(document)])

    async with serve(data_dir=tmp_path) as client:
        second = await Chat(client, chat.url).say("Blue, please")

    assert (second.status_code, second.json()["warnings"]) == (200, [])
    assert [images_in(content) for content in contents(gemini)] == [[], [first], []]


async def test_an_image_of_an_unacceptable_type_is_stored_before_the_406(serve: Serve, gemini: Emulator) -> None:
    """
    The settings list the model without its type. The image is paid for, so it is stored.
    """
    gemini.faults.append(Fault(image_base64=base64.b64encode(image_file("WEBP")).decode()))
    async with serve(extra_models={"gemini-3-pro-image": {"output_type": None}}) as client:
        chat = await begin(client)

        response = await chat.say("A cat", headers={"Accept": "image/heic"})

        assert (response.status_code, response.json()["turn"]) == (406, 1)
        (turn,) = (await chat.read())["turns"]
    assert (turn["state"], turn["image"]["mimeType"]) == ("succeeded", "image/webp")
    assert turn["usage"]["totalTokens"]


async def test_a_request_that_never_reached_gemini_is_not_a_turn(chat: Chat, gemini: Emulator) -> None:
    refused = await chat.say("A cat", aspectRatio="8:1")

    assert refused.status_code == 422
    assert "turn" not in refused.json()
    assert (await chat.read())["turns"] == []
    assert (await chat.say("A cat")).json()["turn"] == 1


async def test_the_same_request_after_a_failure_is_not_stale(chat: Chat, gemini: Emulator) -> None:
    """
    A turn without an image changes nothing, so the same precondition still holds.
    """
    await chat.say("A cat")
    gemini.faults.append(Fault(status=503, times=3))

    busy = await chat.say("Blue, please", afterTurn=1)
    again = await chat.say("Blue, please", afterTurn=1)
    stale = await chat.say("Red, please", afterTurn=2)

    assert (busy.status_code, busy.json()["turn"]) == (503, 2)
    assert again.json()["turn"] == 3
    assert stale.status_code == 412


@pytest.mark.parametrize("precondition", ["afterTurn", "If-Match"])
async def test_two_tabs_do_not_overwrite_each_other(chat: Chat, gemini: Emulator, precondition: str) -> None:
    await chat.say("A cat")

    async def say(prompt: str, known: int) -> httpx2.Response:
        if precondition == "afterTurn":
            return await chat.say(prompt, afterTurn=known)
        return await chat.say(prompt, headers={"If-Match": f'"{known}"'})

    here = await say("Blue, please", 1)
    there = await say("Red, please", 1)

    assert here.json()["turn"] == 2
    assert (there.status_code, there.json()["code"], there.json()["lastTurn"]) == (412, "stale_turn", 2)
    assert len(gemini.calls) == 2


async def test_one_matching_etag_of_several_is_enough(chat: Chat) -> None:
    headers = [("If-Match", '"77"'), ("If-Match", '"0"')]

    assert (await chat.client.post(f"{chat.url}/turns", json={"prompt": "A cat"}, headers=headers)).is_success


@pytest.mark.parametrize("tag", ['"0"', '"x"', '"1", "2"', 'W/"3"'])
async def test_an_outdated_etag_is_rejected(chat: Chat, tag: str) -> None:
    assert (await chat.say("A cat", headers={"If-Match": tag})).status_code == (200 if tag == '"0"' else 412)


async def test_a_chat_runs_one_turn_at_a_time(chat: Chat, gemini: Emulator) -> None:
    """
    Of many simultaneous requests one runs. The others are told how long the lease lasts.
    """
    gemini.hold()
    first = asyncio.create_task(chat.say("A cat"))
    await wait_for_calls(gemini)

    others = await asyncio.gather(*(chat.say("A dog") for _ in range(5)))

    assert {response.json()["code"] for response in others} == {"turn_in_progress"}
    assert {response.status_code for response in others} == {409}
    assert all(1 <= int(response.headers["retry-after"]) <= 15 for response in others)
    assert (await chat.read())["turnInProgress"]
    assert (await chat.client.delete(chat.url)).status_code == 409
    gemini.release()
    assert (await first).json()["turn"] == 1
    assert not (await chat.read())["turnInProgress"]
    assert len(gemini.calls) == 1


async def test_simultaneous_requests_create_one_turn(chat: Chat, gemini: Emulator) -> None:
    gemini.hold()
    asking = [asyncio.create_task(chat.say(f"Cat {number}")) for number in range(8)]
    await until(lambda: sum(one.done() for one in asking) == 7)
    gemini.release()
    responses = await asyncio.gather(*asking)

    assert sorted(response.status_code for response in responses) == [200, *[409] * 7]
    assert [turn["turn"] for turn in (await chat.read())["turns"]] == [1]


async def test_a_lease_is_renewed_during_a_generation(serve: Serve, gemini: Emulator, storage: Overrides) -> None:
    """
    Two replicas share the chat. The generation takes longer than a lease.
    """
    gemini.hold()
    async with serve(**storage, chat_lease_seconds=1) as here, serve(**storage, chat_lease_seconds=1) as there:
        chat = await begin(here)
        first = asyncio.create_task(chat.say("A cat"))
        await wait_for_calls(gemini)
        codes = []
        for _ in range(8):
            codes.append((await Chat(there, chat.url).say("A dog")).status_code)
            await asyncio.sleep(0.2)
        gemini.release()
        done = await first
        following = await Chat(there, chat.url).say("Blue, please")

    assert done.is_success
    assert set(codes) == {409}
    assert following.json()["turn"] == 2


async def test_a_turn_is_stored_if_its_caller_disconnects_during_the_generation(chat: Chat, gemini: Emulator) -> None:
    """
    The generation is paid for in any case.
    """
    gemini.hold()
    asking = asyncio.create_task(chat.say("A cat"))
    await wait_for_calls(gemini)

    asking.cancel()
    await asyncio.sleep(0.1)
    meanwhile = await chat.say("A dog")
    gemini.release()
    await chat.quiet()

    (turn,) = (await chat.read())["turns"]
    assert meanwhile.status_code == 409
    assert (turn["state"], turn["prompt"]) == ("succeeded", "A cat")
    assert (await chat.client.get(turn["image"]["url"])).is_success


async def test_a_turn_is_stored_if_its_caller_disconnects_from_the_event_stream(chat: Chat, gemini: Emulator) -> None:
    gemini.hold()
    async with chat.client.stream(
        "POST", f"{chat.url}/turns", json={"prompt": "A cat"}, headers={"Accept": "text/event-stream"}
    ):
        await wait_for_calls(gemini)

    await asyncio.sleep(0.1)
    gemini.release()
    await chat.quiet()

    assert [turn["state"] for turn in (await chat.read())["turns"]] == ["succeeded"]


async def test_a_disconnect_before_the_call_to_gemini_stores_nothing(serve: Serve, gemini: Emulator) -> None:
    gemini.hold()
    async with serve(max_in_flight=1) as client:
        chat = await begin(client)
        other = asyncio.create_task(client.post("/generate-image", json={"prompt": "A dog"}))
        await wait_for_calls(gemini)
        asking = asyncio.create_task(chat.say("A cat"))
        assert await soon(client, "gemini_images_queued", 1)

        asking.cancel()
        assert await soon(client, "gemini_images_queued", 0)
        await chat.quiet()
        found = await chat.read()
        gemini.release()
        await other

    assert (found["turns"], found["turnInProgress"]) == ([], False)
    assert len(gemini.calls) == 1


async def test_a_turn_can_replace_the_latest_turn(chat: Chat, gemini: Emulator) -> None:
    first = image_of(await chat.say("A cat"))
    replaced = image_of(await chat.say("Blue, please"))

    response = await chat.say("Red, please", replaceTurn=2)
    following = await chat.say("Larger")

    assert response.json()["turn"] == 3
    assert following.json()["turn"] == 4
    assert [images_in(one) for one in contents(gemini) if one["role"] == "model"] == [[first], [image_of(response)]]
    turns = (await chat.read())["turns"]
    assert [turn["replacedBy"] for turn in turns] == [None, 3, None, None]
    assert (await chat.client.get(turns[1]["image"]["url"])).content == replaced


async def test_a_failed_replacement_changes_nothing(chat: Chat, gemini: Emulator) -> None:
    await chat.say("A cat")
    gemini.faults.append(Fault(finish_reason="IMAGE_SAFETY"))

    await chat.say("Something awful", replaceTurn=1)
    await chat.say("Blue, please")

    assert [turn["replacedBy"] for turn in (await chat.read())["turns"]] == [None, None, None]
    assert len(contents(gemini)) == 3


@pytest.mark.parametrize("number", [1, 5])
async def test_only_the_latest_turn_can_be_replaced(chat: Chat, gemini: Emulator, number: int) -> None:
    await chat.say("A cat")
    await chat.say("Blue, please")

    response = await chat.say("A dog", replaceTurn=number)

    assert response.status_code == 422
    assert response.json()["errors"][0]["field"] == "replaceTurn"
    assert len(gemini.calls) == 2


async def test_a_fork_and_its_original_are_independent(chat: Chat, gemini: Emulator) -> None:
    first = image_of(await chat.say("A cat"))
    await chat.say("Blue, please")
    await chat.say("Red, please", replaceTurn=2)

    response = await chat.client.post(f"{chat.url}/fork", json={"fromTurn": 1})
    fork = Chat(chat.client, response.headers["location"])
    green = await fork.say("Green, please")

    assert response.status_code == 201
    assert response.json()["forkedFrom"] == {"chatId": chat.url.removeprefix("/chats/"), "turn": 1}
    assert (green.json()["turn"], green.json()["warnings"]) == (2, [])
    assert images_in(contents(gemini)[1]) == [first]
    found = await fork.read()
    assert [turn["copied"] for turn in found["turns"]] == [True, False]
    assert found["estimatedCostUsd"] == green.json()["usage"]["estimatedCostUsd"]
    assert (await chat.read())["lastTurn"] == 3
    await chat.client.delete(chat.url)
    assert (await chat.client.get(found["turns"][0]["image"]["url"])).content == first


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({}, 201),
        ({"content": b"", "headers": {}}, 201),
        ({"json": {}}, 201),
        ({"json": {"fromTurn": None}}, 201),
        ({"json": {"fromTurn": -1}}, 422),
        ({"json": {"turn": 1}}, 422),
        ({"content": b"{", "headers": {"Content-Type": "application/json"}}, 400),
        ({"content": b"1", "headers": {"Content-Type": "text/plain"}}, 415),
    ],
)
async def test_a_fork_needs_no_body(chat: Chat, body: dict[str, Any], status: int) -> None:
    assert (await chat.client.post(f"{chat.url}/fork", **body)).status_code == status


async def test_a_fork_keeps_a_turn_that_is_replaced_later(chat: Chat, gemini: Emulator) -> None:
    await chat.say("A cat")
    await chat.say("Blue, please")
    await chat.say("Red, please", replaceTurn=2)

    fork = (await chat.client.post(f"{chat.url}/fork", json={"fromTurn": 2})).json()
    whole = (await chat.client.post(f"{chat.url}/fork")).json()

    assert [turn["replacedBy"] for turn in fork["turns"]] == [None, None]
    assert [turn["replacedBy"] for turn in whole["turns"]] == [None, 3, None]
    assert (await chat.client.post(f"{chat.url}/fork", json={"fromTurn": 4})).status_code == 422


async def test_chats_are_listed_page_by_page(serve: Serve, gemini: Emulator, storage: Overrides) -> None:
    async with serve(**storage) as client:
        made = [(await begin(client)).url.removeprefix("/chats/") for _ in range(7)]
        oldest = Chat(client, f"/chats/{made[0]}")
        await oldest.say("A cat")

        seen, cursor = [], None
        while True:
            page = (await client.get("/chats", params={"limit": 3, **({"cursor": cursor} if cursor else {})})).json()
            seen.append([chat["id"] for chat in page["chats"]])
            cursor = page["nextCursor"]
            if cursor is None:
                break

    assert seen == [[made[0], made[6], made[5]], made[4:1:-1], [made[1]]]


@pytest.mark.parametrize(
    "cursor", ["x", "WzFd", "bnVsbA", "W3t9LCAxXQ", "é", "WzEsIlx1ZDgwMCJd", "W05hTiwiY2hhdF8wIl0"]
)
async def test_an_invalid_cursor_is_rejected(client: httpx2.AsyncClient, cursor: str) -> None:
    response = await client.get("/chats", params={"cursor": cursor})

    assert response.status_code == 422
    assert response.json()["errors"][0]["field"] == "cursor"


async def test_a_deleted_chat_is_not_found(chat: Chat) -> None:
    await chat.say("A cat")

    assert (await chat.client.delete(chat.url)).status_code == 204
    for response in (
        await chat.client.get(chat.url),
        await chat.client.delete(chat.url),
        await chat.client.get(f"{chat.url}/turns/1/image"),
        await chat.client.post(f"{chat.url}/fork"),
        await chat.say("Blue, please"),
    ):
        assert (response.status_code, response.json()["code"]) == (404, "chat_not_found")


async def test_only_its_owner_finds_a_chat(serve: Serve, gemini: Emulator, storage: Overrides) -> None:
    """
    A key with the name of callers without keys does not see their chats.
    """
    async with serve(**storage) as client:
        before = await begin(client)
    async with serve(**storage, service_api_keys="anna:a,ben:b,local:c,anna:d") as client:
        anna, ben, local, again = ({"X-API-Key": key} for key in "abcd")
        made = await client.post("/chats", json={"prompt": "A cat"}, headers=anna)
        url = made.headers["location"]
        others = [
            *[await client.get(url, headers=one) for one in (ben, local)],
            await client.get(f"{url}/turns/1/image", headers=ben),
            await client.post(f"{url}/turns", json={"prompt": "A dog"}, headers=ben),
            await client.post(f"{url}/fork", headers=ben),
            await client.delete(url, headers=ben),
            await client.get(before.url, headers=local),
        ]
        listed = [(await client.get("/chats", headers=one)).json()["chats"] for one in (anna, ben, local)]
        mine = await client.get(url, headers=again)

    assert {(response.status_code, response.json()["code"]) for response in others} == {(404, "chat_not_found")}
    assert [len(chats) for chats in listed] == [1, 0, 0]
    assert mine.is_success
    assert len(gemini.calls) == 1


async def test_grounding_is_stored_with_its_turn(chat: Chat, gemini: Emulator) -> None:
    response = await chat.say("Weather in Bern today", googleSearch=True)
    await chat.say("Blue, please")

    first, second = (await chat.read())["turns"]
    assert first["grounding"] == response.json()["grounding"]
    assert first["grounding"]["searchSuggestionsHtml"]
    assert second["grounding"] is None


async def test_another_model_gets_the_images_as_references(chat: Chat, gemini: Emulator) -> None:
    """
    Signatures are valid for one model only. After that each model has a conversation of its own.
    """
    logo = image_file(colour="red")
    one = image_of(await chat.upload("A mug with the logo", logo))
    two = image_of(await chat.say("Larger"))

    switched = await chat.say("Blue, please", model=NEWER)
    third = contents(gemini)
    following = await chat.say("Rounder", model=NEWER)
    fourth = contents(gemini)
    back = await chat.say("Redder")
    fifth = contents(gemini)

    assert switched.json()["warnings"] == [
        f"Earlier images of this chat were sent as references, because {PRO} made them and {NEWER} is asked now."
    ]
    assert [images_in(content) for content in third] == [[logo, one, two]]
    assert third[0]["parts"][0] == {"text": "Blue, please"}
    assert {"text": "Drawn in turn 1 for: A mug with the logo"} in third[0]["parts"]
    assert following.json()["warnings"] == []
    assert [images_in(content) for content in fourth] == [[logo, one, two], [image_of(switched)], []]
    assert back.json()["warnings"]
    assert [images_in(content) for content in fifth] == [[logo, one, two, image_of(switched), image_of(following)]]


async def test_a_fallback_model_gets_the_images_as_references(chat: Chat, gemini: Emulator) -> None:
    first = image_of(await chat.say("A cat"))
    gemini.faults.append(Fault(status=503, times=2))

    response = await chat.say("Blue, please", fallbackModel=NEWER)
    following = await chat.say("Larger", model=NEWER)

    assert response.json()["model"] == NEWER
    assert len(response.json()["warnings"]) == 2
    assert following.json()["warnings"] == []
    assert images_in(contents(gemini)[0]) == [first]


@pytest.mark.parametrize(
    "fault",
    [
        Fault(status=400, message="Thought signature is not valid in content position 2, part position 1."),
        Fault(status=400, message="Image part is missing a thought_signature in content position 2, part position 1."),
        Fault(finish_reason="MISSING_THOUGHT_SIGNATURE"),
    ],
)
async def test_a_chat_continues_if_gemini_rejects_its_signatures(chat: Chat, gemini: Emulator, fault: Fault) -> None:
    first = image_of(await chat.say("A cat"))
    gemini.faults.append(fault)

    response = await chat.say("Blue, please")
    following = await chat.say("Larger")

    assert response.headers["x-upstream-attempts"] == "2"
    assert "does not accept their thought signatures" in response.json()["warnings"][0]
    assert [images_in(content) for content in contents(gemini, 2)] == [[first]]
    assert following.json()["warnings"] == []
    assert len(contents(gemini)) == 3


async def test_an_image_that_was_a_thought_is_sent_as_a_reference(chat: Chat, gemini: Emulator) -> None:
    gemini.faults.append(Fault(shape="image_in_thought"))
    first = image_of(await chat.say("A cat"))

    response = await chat.say("Blue, please")

    assert [images_in(content) for content in contents(gemini)] == [[first]]
    assert "as a thought" in response.json()["warnings"][0]


async def test_a_model_without_signatures_can_continue_a_conversation(
    client: httpx2.AsyncClient, gemini: Emulator
) -> None:
    response = await client.post("/chats", json={"model": "gemini-2.5-flash-image", "prompt": "A cat"})
    chat = Chat(client, response.headers["location"])

    following = await chat.say("Blue, please")

    assert following.json()["warnings"] == response.json()["warnings"]
    assert [images_in(content) for content in contents(gemini)] == [[], [image_of(response)], []]


async def test_an_image_is_sent_back_with_the_type_that_gemini_declared(chat: Chat, gemini: Emulator) -> None:
    """
    Google has called a JPEG a PNG. Google's own chat sends that type back.
    """
    gemini.faults.append(Fault(mime_type="image/png"))
    first = await chat.say("A cat")

    await chat.say("Blue, please")

    assert first.json()["image"]["mimeType"] == "image/jpeg"
    (image,) = [part["inlineData"] for part in contents(gemini)[1]["parts"] if "inlineData" in part]
    assert image["mimeType"] == "image/png"


async def test_the_oldest_turns_of_a_long_chat_are_not_sent(chat: Chat, gemini: Emulator) -> None:
    """
    Nano Banana Pro accepts 14 images. The first uploads and the newest images are among them.
    """
    logo = image_file(colour="red")
    small = base64.b64encode(image_file("JPEG")).decode()
    gemini.faults.append(Fault(times=100, image_base64=small))
    await chat.upload("Turn 1", logo)
    for number in range(2, 15):
        assert (await chat.say(f"Turn {number}")).json()["warnings"] == []

    response = await chat.say("Turn 15")

    assert response.json()["warnings"] == [f"Turn 1 was not sent: the chat exceeds the input limit of {PRO}."]
    sent = contents(gemini)
    assert [content["role"] for content in sent] == ["user", "model"] * 13 + ["user"]
    assert images_in(sent[0]) == [logo]
    assert sent[0]["parts"][0] == {"text": "Turn 2"}
    assert sum(len(images_in(content)) for content in sent) == 14
    assert len((await chat.read())["turns"]) == 15


async def test_uploads_must_leave_one_input_image_for_the_image_to_edit(chat: Chat, gemini: Emulator) -> None:
    files = [image_file(colour=colour) for colour in ["red", "blue"] * 7]
    first = await chat.upload("A crowd", *files)

    beyond = await chat.upload("Another crowd", *files)
    fitting = await chat.say("Larger")

    assert first.is_success
    assert beyond.status_code == 422
    assert "the newest image of the chat is sent together with them" in beyond.json()["detail"]
    assert "1 of the first uploads were not sent" in fitting.json()["warnings"][0]
    assert len(images_in(contents(gemini)[0])) == 13


@pytest.fixture
async def image_url(chat: Chat) -> tuple[Chat, str, bytes]:
    image = image_of(await chat.say("A cat"))
    return chat, f"{chat.url}/turns/1/image", image


async def test_an_image_is_served_as_an_immutable_file(image_url: tuple[Chat, str, bytes]) -> None:
    chat, url, image = image_url

    response = await chat.client.get(url)
    again = await chat.client.get(url, headers={"If-None-Match": f'"x", {response.headers["etag"]}'})
    head = await chat.client.head(url, headers={"Range": "bytes=0-1"})

    assert response.content == image
    assert response.headers["content-type"] == "image/jpeg"
    assert "immutable" in response.headers["cache-control"]
    assert (again.status_code, again.content) == (304, b"")
    assert again.headers["etag"] == response.headers["etag"]
    assert (head.status_code, head.content, head.headers["content-length"]) == (200, b"", str(len(image)))


@pytest.mark.parametrize(
    ("asked", "span"),
    [
        ("bytes=0-99", slice(0, 100)),
        ("bytes=100-", slice(100, None)),
        ("bytes=-100", slice(-100, None)),
        ("bytes=0-99999999999", slice(0, None)),
        ("Bytes = 5-5", slice(5, 6)),
    ],
)
async def test_a_range_returns_a_part_of_an_image(image_url: tuple[Chat, str, bytes], asked: str, span: slice) -> None:
    chat, url, image = image_url

    response = await chat.client.get(url, headers={"Range": asked})

    start, stop, _ = span.indices(len(image))
    assert response.status_code == 206
    assert response.content == image[span]
    assert response.headers["content-range"] == f"bytes {start}-{stop - 1}/{len(image)}"


@pytest.mark.parametrize(
    "headers",
    [
        {"Range": "bytes=5-3"},
        {"Range": "bytes=0-1,4-5"},
        {"Range": "lines=0-1"},
        {"Range": "bytes=-"},
        {"Range": "bytes=0-1", "If-Range": '"another"'},
    ],
)
async def test_an_invalid_range_returns_the_complete_image(
    image_url: tuple[Chat, str, bytes], headers: dict[str, str]
) -> None:
    chat, url, image = image_url

    response = await chat.client.get(url, headers=headers)

    assert (response.status_code, response.content) == (200, image)


@pytest.mark.parametrize("asked", ["bytes=99999999-", "bytes=-0"])
async def test_a_range_after_the_end_is_rejected(image_url: tuple[Chat, str, bytes], asked: str) -> None:
    chat, url, image = image_url

    response = await chat.client.get(url, headers={"Range": asked})

    assert (response.status_code, response.json()["code"]) == (416, "range_not_satisfiable")
    assert response.headers["content-range"] == f"bytes */{len(image)}"


@pytest.mark.parametrize("path", ["turns/2/image", "turns/1/references/1"])
async def test_a_missing_image_is_not_found(image_url: tuple[Chat, str, bytes], path: str) -> None:
    chat, _, _ = image_url

    response = await chat.client.get(f"{chat.url}/{path}")

    assert (response.status_code, response.json()["code"]) == (404, "turn_not_found")


@pytest.mark.parametrize("chat_id", ["chat_0", "chat_" + "0" * 32, "gen_x", "chat_" + "A" * 32, "%00"])
async def test_a_missing_chat_is_not_found(client: httpx2.AsyncClient, chat_id: str) -> None:
    response = await client.get(f"/chats/{chat_id}")

    assert (response.status_code, response.json()["code"]) == (404, "chat_not_found")


async def test_texts_with_nul_and_lone_surrogates_are_stored_unchanged(
    serve: Serve, gemini: Emulator, storage: Overrides
) -> None:
    """
    PostgreSQL's text type accepts no NUL, and its JSON no lone surrogate. Prompts and Gemini's texts may contain both.
    """
    prompt = "明天会更好 \0 🐈 \" \\u0000 '; DROP TABLE chats; --"
    patch = {"candidates": {"0": {"content": {"parts": {"0": {"text": "half \ud83d\0"}}}}}}
    gemini.faults.append(Fault(patch=patch))
    async with serve(**storage) as client:
        chat = await begin(client)
        first = await chat.say(prompt)
        # The emulator signs before it applies the patch, so it rejects its own text here.
        await chat.say("Blue, please")
        found = await chat.read()

    assert first.is_success
    assert found["turns"][0]["prompt"] == prompt
    assert first.json()["text"] == found["turns"][0]["text"] == "half \ufffd\0"
    assert contents(gemini, 1)[0]["parts"] == [{"text": prompt}]
