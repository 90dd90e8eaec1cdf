"""One `Idempotency-Key` is one generation. Gemini is asked once, and a repeated request gets the same answer."""

import asyncio
import base64
import json
import re
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx2
import pytest

from app.emulator import Emulator, Fault
from tests.conftest import Serve, image_file, image_of, noise_jpeg, soon, wait_for_calls
from tests.storages import Overrides
from tests.test_chats import begin, events_of
from tests.test_metrics import Increases

ASK = {"prompt": "A lighthouse", "imageSize": "1K"}
EDIT = {"prompt": "Make it blue", "imageSize": "1K"}
PICTURE = image_file()

Send = Callable[..., Any]


@pytest.fixture
def client(client_of_either: httpx2.AsyncClient) -> httpx2.AsyncClient:
    return client_of_either


@pytest.fixture
def key() -> str:
    return uuid4().hex


async def generate(
    client: httpx2.AsyncClient, key: str, *, headers: dict[str, str] | None = None, **fields: Any
) -> Any:
    """Send a keyed request for an image; return the response."""
    return await client.post("/generate-image", json=ASK | fields, headers={"Idempotency-Key": key, **(headers or {})})


def is_replay(response: httpx2.Response) -> bool:
    return "idempotent-replayed" in response.headers and response.headers["idempotent-replayed"] == "true"


def answer(response: httpx2.Response) -> tuple[int, str]:
    """Return the status and the digest of the body. A digest makes a short message if a test fails."""
    return response.status_code, sha256(response.content).hexdigest()


# One key, one call.


async def test_ten_requests_at_once_make_one_image(client: httpx2.AsyncClient, gemini: Emulator, key: str) -> None:
    gemini.faults.append(Fault(delay_seconds=0.5))

    responses = await asyncio.gather(*(generate(client, key) for _ in range(10)))

    assert {response.status_code for response in responses} == {200}
    assert len({answer(response) for response in responses}) == 1
    assert sorted(map(is_replay, responses)) == [False] + [True] * 9
    assert len(gemini.calls) == 1


async def test_a_later_request_gets_the_same_answer(client: httpx2.AsyncClient, gemini: Emulator, key: str) -> None:
    first = await generate(client, key)
    second = await generate(client, key)

    assert image_of(first)
    assert answer(first) == answer(second)
    assert (is_replay(first), is_replay(second)) == (False, True)
    assert first.headers["content-type"] == second.headers["content-type"]
    assert len(gemini.calls) == 1


async def test_requests_at_two_replicas_make_one_image(
    serve: Serve, gemini: Emulator, storage: Overrides, key: str
) -> None:
    gemini.faults.append(Fault(delay_seconds=0.5))
    async with serve(**storage) as here, serve(**storage) as there:
        responses = await asyncio.gather(*(generate(client, key) for client in (here, there) * 5))

    assert len({answer(response) for response in responses}) == 1
    assert sum(map(is_replay, responses)) == 9
    assert len(gemini.calls) == 1


async def json_of(client: httpx2.AsyncClient, path: str, body: dict[str, Any], headers: dict[str, str]) -> Any:
    return await client.post(path, json=body, headers=headers)


async def edit(client: httpx2.AsyncClient, headers: dict[str, str], *names: str, **fields: Any) -> Any:
    """Send a form. The boundary is a new one each time."""
    files = [("images", (name, PICTURE, "image/png")) for name in names or ("a.png",)]
    return await client.post("/generate-image/with-references", data=EDIT | fields, files=files, headers=headers)


async def openai_edit(client: httpx2.AsyncClient, headers: dict[str, str]) -> Any:
    files = [("image[]", (f"{uuid4().hex}.png", PICTURE, "image/png"))]
    return await client.post("/v1/images/edits", data={"prompt": "Make it blue"}, files=files, headers=headers)


async def turn(client: httpx2.AsyncClient, headers: dict[str, str], chat: str) -> Any:
    return await json_of(client, f"{chat}/turns", {"prompt": "A cat"}, headers)


async def uploaded_turn(client: httpx2.AsyncClient, headers: dict[str, str], chat: str) -> Any:
    files = [("images", (f"{uuid4().hex}.png", PICTURE, "image/png"))]
    return await client.post(f"{chat}/turns", data={"prompt": "This cat"}, files=files, headers=headers)


ROUTES: dict[str, tuple[Callable[[httpx2.AsyncClient, dict[str, str], str], Any], int]] = {
    "/generate-image": (lambda client, headers, _: json_of(client, "/generate-image", ASK, headers), 1),
    "/generate-image/with-references": (lambda client, headers, _: edit(client, headers, uuid4().hex), 1),
    "/generate-image/with-search": (
        lambda client, headers, _: json_of(client, "/generate-image/with-search", ASK, headers),
        1,
    ),
    "/v1/images/generations": (
        lambda client, headers, _: json_of(
            client, "/v1/images/generations", {"prompt": "A cat", "size": "1024x1024", "n": 2}, headers
        ),
        2,
    ),
    "/v1/images/edits": (lambda client, headers, _: openai_edit(client, headers), 1),
    "/chats": (
        lambda client, headers, _: json_of(client, "/chats", {"prompt": "A cat", "imageSize": "1K"}, headers),
        1,
    ),
    "/chats/…/turns": (turn, 1),
    "/chats/…/turns with files": (uploaded_turn, 1),
}
"""A request of each route that may cost, and the number of its images. Boundaries and file names differ each time."""


@pytest.mark.parametrize("route", ROUTES)
async def test_a_repeated_request_is_replayed_on_every_route(
    client: httpx2.AsyncClient, gemini: Emulator, key: str, route: str
) -> None:
    send, images = ROUTES[route]
    chat = (await begin(client)).url

    first = await send(client, {"Idempotency-Key": key}, chat)
    second = await send(client, {"Idempotency-Key": key}, chat)

    assert first.is_success, first.text
    assert answer(first) == answer(second)
    assert (is_replay(first), is_replay(second)) == (False, True)
    assert first.headers.get("location") == second.headers.get("location")
    assert len(gemini.calls) == images


@pytest.mark.parametrize("route", ROUTES)
async def test_requests_at_once_are_one_on_every_route(
    client: httpx2.AsyncClient, gemini: Emulator, key: str, route: str
) -> None:
    send, images = ROUTES[route]
    chat = (await begin(client)).url
    gemini.faults.append(Fault(times=images, delay_seconds=0.3))

    responses = await asyncio.gather(*(send(client, {"Idempotency-Key": key}, chat) for _ in range(3)))

    assert len({answer(response) for response in responses}) == 1, [response.text[:200] for response in responses]
    assert responses[0].is_success
    assert sum(map(is_replay, responses)) == 2
    assert len(gemini.calls) == images


async def test_a_repeated_turn_adds_nothing_to_its_chat(client: httpx2.AsyncClient, key: str) -> None:
    """
    It may name the turn after which it is made, although that is no longer the last one.
    """
    chat = await begin(client)
    headers = {"Idempotency-Key": key}

    first = await chat.say("A cat", headers=headers, afterTurn=0)
    await chat.say("Blue, please")
    again = await chat.say("A cat", headers=headers, afterTurn=0)

    assert answer(first) == answer(again)
    assert [one["prompt"] for one in (await chat.read())["turns"]] == ["A cat", "Blue, please"]


async def test_a_repeated_first_turn_makes_no_second_chat(client: httpx2.AsyncClient, key: str) -> None:
    body = {"prompt": f"A cat of {key}", "imageSize": "1K"}

    responses = [await json_of(client, "/chats", body, {"Idempotency-Key": key}) for _ in range(2)]

    chats = (await client.get("/chats", params={"limit": 100})).json()["chats"]
    assert len({response.json()["chatId"] for response in responses}) == 1
    assert sum(chat["id"] == responses[0].json()["chatId"] for chat in chats) == 1
    assert sum(chat["title"] == body["prompt"] for chat in chats) == 1


FORMATS = {"JSON": "application/json", "bytes": "image/*", "events": "text/event-stream"}


def image_in(response: httpx2.Response) -> bytes:
    type_ = response.headers["content-type"]
    if type_.startswith("image/"):
        return response.content
    if type_.startswith("text/event-stream"):
        [data] = [data for name, data in events_of(response.text) if name == "image"]
        return base64.b64decode(data["image"]["data"])
    return image_of(response)


@pytest.mark.parametrize("first", FORMATS)
async def test_the_answer_is_there_in_every_format(
    client: httpx2.AsyncClient, gemini: Emulator, key: str, first: str
) -> None:
    formats = [FORMATS[first], *FORMATS.values()]

    responses = [await generate(client, key, headers={"Accept": accept}) for accept in formats]

    assert len({sha256(image_in(response)).hexdigest() for response in responses}) == 1
    assert list(map(is_replay, responses)) == [False, True, True, True]
    for response, accept in zip(responses, formats, strict=True):
        assert response.headers["content-type"].startswith(accept.rstrip("*"))
    assert len(gemini.calls) == 1


async def test_requests_at_once_may_have_different_formats(
    client: httpx2.AsyncClient, gemini: Emulator, key: str
) -> None:
    gemini.faults.append(Fault(delay_seconds=0.5))

    responses = await asyncio.gather(*(generate(client, key, headers={"Accept": one}) for one in FORMATS.values()))

    assert len({sha256(image_in(response)).hexdigest() for response in responses}) == 1
    assert len(gemini.calls) == 1


async def test_a_converted_image_is_replayed_as_it_was(client: httpx2.AsyncClient, gemini: Emulator, key: str) -> None:
    first, second = [await generate(client, key, outputFormat="webp") for _ in range(2)]

    assert first.json()["image"]["mimeType"] == "image/webp"
    assert answer(first) == answer(second)
    assert len(gemini.calls) == 1


async def test_a_large_image_is_replayed_bit_for_bit(client: httpx2.AsyncClient, gemini: Emulator, key: str) -> None:
    image = noise_jpeg(3, 9_000_000)
    gemini.faults.append(Fault(image_base64=base64.b64encode(image).decode()))

    first, second = [await generate(client, key) for _ in range(2)]

    assert sha256(image_of(second)).digest() == sha256(image).digest()
    assert answer(first) == answer(second)


# Keys.


async def test_a_key_may_be_quoted(client: httpx2.AsyncClient, gemini: Emulator, key: str) -> None:
    bare = await generate(client, key)
    quoted = await generate(client, f'"{key}"')

    assert answer(bare) == answer(quoted)
    assert len(gemini.calls) == 1


@pytest.mark.parametrize("text", ["x", "!~'()*/:;<=>?@[]^_`{|}", "k" * 255, '"a\\"b\\\\c"'])
async def test_keys_have_1_to_255_visible_characters(client: httpx2.AsyncClient, gemini: Emulator, text: str) -> None:
    first, second = [await generate(client, text) for _ in range(2)]

    assert answer(first) == answer(second)
    assert len(gemini.calls) == 1


@pytest.mark.parametrize("text", ["", "k" * 256, "two words", '""', '"two words"', "schlüssel"])
async def test_other_keys_are_rejected(client: httpx2.AsyncClient, gemini: Emulator, text: str) -> None:
    response = await client.post("/generate-image", json=ASK, headers=[(b"Idempotency-Key", text.encode("latin-1"))])

    assert response.status_code == 422
    assert response.json()["code"] == "invalid_request"
    assert "idempotency-key" in response.json()["detail"].lower()
    assert not gemini.calls


async def test_two_keys_in_one_request_are_rejected(client: httpx2.AsyncClient, gemini: Emulator, key: str) -> None:
    response = await client.post(
        "/generate-image", json=ASK, headers=[("Idempotency-Key", key), ("Idempotency-Key", "other")]
    )

    assert response.status_code == 422
    assert not gemini.calls


OTHERS: dict[str, dict[str, Any]] = {
    "prompt": {"prompt": "Another lighthouse"},
    "imageSize": {"imageSize": "2K"},
    "aspectRatio": {"aspectRatio": "16:9"},
    "model": {"model": "nano-banana-2.1"},
    "outputFormat": {"outputFormat": "png"},
}


@pytest.mark.parametrize("field", OTHERS)
async def test_a_key_belongs_to_one_request(client: httpx2.AsyncClient, gemini: Emulator, key: str, field: str) -> None:
    first = await generate(client, key)
    other = await generate(client, key, **OTHERS[field])
    again = await generate(client, key)

    assert (other.status_code, other.json()["code"]) == (422, "idempotency_key_reused")
    assert not is_replay(other)
    assert answer(first) == answer(again)
    assert len(gemini.calls) == 1


async def test_another_request_is_rejected_while_the_first_one_runs(
    client: httpx2.AsyncClient, gemini: Emulator, key: str
) -> None:
    gemini.hold()
    first = asyncio.create_task(generate(client, key))
    await wait_for_calls(gemini)

    other = await generate(client, key, prompt="Another lighthouse")
    gemini.release()

    assert other.status_code == 422
    assert (await first).is_success
    assert len(gemini.calls) == 1


async def test_another_file_is_another_request(client: httpx2.AsyncClient, gemini: Emulator, key: str) -> None:
    async def send(*files: bytes) -> Any:
        parts = [("images", ("a.png", file, "image/png")) for file in files]
        headers = {"Idempotency-Key": key}
        return await client.post("/generate-image/with-references", data=EDIT, files=parts, headers=headers)

    responses = [await send(*files) for files in ([PICTURE], [image_file(colour="red")], [PICTURE] * 2, [PICTURE])]

    assert [response.status_code for response in responses] == [200, 422, 422, 200]
    assert len(gemini.calls) == 1


async def test_another_route_is_another_request(client: httpx2.AsyncClient, gemini: Emulator, key: str) -> None:
    headers = {"Idempotency-Key": key}
    await generate(client, key)

    search = await client.post("/generate-image/with-search", json=ASK, headers=headers)
    openai = await client.post("/v1/images/generations", json={"prompt": "A lighthouse"}, headers=headers)

    assert (search.status_code, search.json()["code"]) == (422, "idempotency_key_reused")
    assert (openai.status_code, openai.json()["error"]["code"]) == (400, "idempotency_key_reused")
    assert len(gemini.calls) == 1


async def test_two_callers_never_share_a_key(serve: Serve, gemini: Emulator, tmp_path: Path, key: str) -> None:
    async with serve(service_api_keys="anna:secret-of-anna,ben:secret-of-ben", data_dir=tmp_path) as client:
        anna = await generate(client, key, headers={"Authorization": "Bearer secret-of-anna"})
        ben = await generate(client, key, headers={"Authorization": "Bearer secret-of-ben"}, prompt="Another one")
        again = await generate(client, key, headers={"Authorization": "Bearer secret-of-anna"})

    assert (is_replay(anna), is_replay(ben), is_replay(again)) == (False, False, True)
    assert ben.is_success
    assert answer(anna) == answer(again) != answer(ben)
    assert len(gemini.calls) == 2


async def test_a_key_expires(serve: Serve, gemini: Emulator, tmp_path: Path, key: str) -> None:
    async with serve(data_dir=tmp_path, idempotency_ttl="1s") as client:
        first = await generate(client, key)
        await asyncio.sleep(1.2)
        later = await generate(client, key, prompt="Another lighthouse")

    assert (is_replay(first), is_replay(later)) == (False, False)
    assert later.is_success
    assert len(gemini.calls) == 2


# What is kept.


@pytest.mark.parametrize("status", [429, 503])
async def test_a_failure_that_cost_nothing_frees_the_key(
    client: httpx2.AsyncClient, gemini: Emulator, key: str, status: int
) -> None:
    gemini.faults.append(Fault(times=100, status=status))
    failed = await generate(client, key)
    gemini.clear()

    retried = await generate(client, key)
    again = await generate(client, key)

    assert failed.status_code in (429, 503)
    assert not is_replay(failed)
    assert image_of(retried)
    assert (is_replay(retried), is_replay(again)) == (False, True)
    assert len(gemini.calls) == 1


async def test_an_invalid_request_leaves_the_key_free(client: httpx2.AsyncClient, gemini: Emulator, key: str) -> None:
    invalid = await generate(client, key, aspectRatio="8:1")
    valid = await generate(client, key)

    assert invalid.status_code == 422
    assert image_of(valid)
    assert not is_replay(valid)


async def test_a_request_that_gemini_rejects_leaves_the_key_free(
    client: httpx2.AsyncClient, gemini: Emulator, key: str
) -> None:
    gemini.faults.append(Fault(status=400, message="Something is not valid."))
    rejected = await generate(client, key)
    valid = await generate(client, key, prompt="Another lighthouse")

    assert rejected.is_client_error
    assert image_of(valid)


REFUSALS = {
    "the prompt is blocked": Fault(block_reason="PROHIBITED_CONTENT"),
    "the image is not safe": Fault(finish_reason="IMAGE_SAFETY"),
    "there is no image": Fault(shape="text_only"),
}


@pytest.mark.parametrize("path", ["/generate-image", "/v1/images/generations"])
@pytest.mark.parametrize("refusal", REFUSALS)
async def test_a_refusal_is_replayed(
    client: httpx2.AsyncClient, gemini: Emulator, key: str, refusal: str, path: str
) -> None:
    gemini.faults.append(REFUSALS[refusal])

    first, second = [await json_of(client, path, {"prompt": "X"}, {"Idempotency-Key": key}) for _ in range(2)]

    assert first.is_client_error
    assert answer(first) == answer(second)
    assert first.headers["x-should-retry"] == second.headers["x-should-retry"] == "false"
    assert (is_replay(first), is_replay(second)) == (False, True)
    assert len(gemini.calls) == 1


async def test_a_failure_that_may_have_cost_is_replayed(client: httpx2.AsyncClient, gemini: Emulator, key: str) -> None:
    gemini.faults.append(Fault(times=5, body="This is not JSON."))

    first = await generate(client, key)
    calls = len(gemini.calls)
    gemini.faults.clear()
    second = await generate(client, key)

    assert (first.status_code, first.json()["code"]) == (502, "upstream_invalid_response")
    assert answer(first) == answer(second)
    assert second.headers["x-should-retry"] == "false"
    assert len(gemini.calls) == calls


async def test_a_refused_turn_is_replayed(client: httpx2.AsyncClient, gemini: Emulator, key: str) -> None:
    chat = await begin(client)
    gemini.faults.append(Fault(block_reason="PROHIBITED_CONTENT"))

    first, second = [await chat.say("X", headers={"Idempotency-Key": key}) for _ in range(2)]

    assert first.status_code == 422
    assert answer(first) == answer(second)
    assert len(gemini.calls) == 1


# Callers who leave, and callers who have no time.


@pytest.mark.parametrize("accept", FORMATS.values())
async def test_a_caller_who_leaves_can_come_back(
    client: httpx2.AsyncClient, gemini: Emulator, key: str, accept: str
) -> None:
    gemini.faults.append(Fault(delay_seconds=0.4))
    leaving = asyncio.create_task(generate(client, key, headers={"Accept": accept}))
    await wait_for_calls(gemini)
    leaving.cancel()
    await asyncio.sleep(0.2)

    while_running = await generate(client, key)
    afterwards = await generate(client, key)

    assert image_of(while_running)
    assert answer(while_running) == answer(afterwards)
    assert is_replay(while_running)
    assert len(gemini.calls) == 1


async def test_an_image_is_kept_for_a_caller_who_has_left(
    client: httpx2.AsyncClient, gemini: Emulator, key: str
) -> None:
    gemini.faults.append(Fault(delay_seconds=0.3))
    leaving = asyncio.create_task(generate(client, key))
    await wait_for_calls(gemini)
    leaving.cancel()
    await asyncio.sleep(0.5)

    response = await generate(client, key)

    assert image_of(response)
    assert is_replay(response)
    assert len(gemini.calls) == 1


async def test_a_chat_s_turn_goes_on_without_its_caller(client: httpx2.AsyncClient, gemini: Emulator, key: str) -> None:
    chat = await begin(client)
    gemini.faults.append(Fault(delay_seconds=0.5))
    leaving = asyncio.create_task(chat.say("A cat", headers={"Idempotency-Key": key}))
    await wait_for_calls(gemini)
    leaving.cancel()
    await asyncio.sleep(0.1)

    response = await chat.say("A cat", headers={"Idempotency-Key": key})

    assert image_of(response)
    assert (await chat.read())["lastTurn"] == 1
    assert len(gemini.calls) == 1


@pytest.mark.parametrize("patience", [{"X-Timeout-Seconds": "1"}, {"Prefer": "wait=1"}])
async def test_a_caller_without_time_gets_an_address_to_come_back_to(
    client: httpx2.AsyncClient, gemini: Emulator, key: str, patience: dict[str, str]
) -> None:
    gemini.hold()

    early, other = await asyncio.gather(*(generate(client, key, headers=patience) for _ in range(2)))
    gemini.release()
    late = await generate(client, key)

    for response in (early, other):
        assert (response.status_code, response.json()["code"]) == (409, "in_progress")
        assert re.search(r"/generations/gen_\w+$", response.headers["location"])
        assert int(response.headers["retry-after"]) >= 1
        assert response.headers["x-should-retry"] == "false"
    assert image_of(late)
    assert is_replay(late)
    assert len(gemini.calls) == 1


async def test_the_address_leads_to_the_image(client: httpx2.AsyncClient, gemini: Emulator, key: str) -> None:
    gemini.hold()
    early = await generate(client, key, headers={"X-Timeout-Seconds": "1"})
    gemini.release()

    waited = await client.get(early.headers["location"], headers={"Prefer": "wait=10"})
    image = await client.get(f"{early.headers['location']}/image")

    assert waited.json()["status"] == "succeeded"
    assert image.content == image_of(await generate(client, key))
    assert len(gemini.calls) == 1


# The service in trouble.


async def test_a_full_service_still_replays(serve: Serve, gemini: Emulator, tmp_path: Path, key: str) -> None:
    async with serve(data_dir=tmp_path, max_in_flight=1, max_queued=0) as client:
        first = await generate(client, key)
        assert await soon(client, "gemini_images_in_flight", 0, seconds=10)
        gemini.hold()
        busy = asyncio.create_task(client.post("/generate-image", json=ASK))
        await wait_for_calls(gemini, 2)
        refused = await generate(client, f"{key}-2")
        replayed = await generate(client, key)
        gemini.release()
        await busy
        retried = await generate(client, f"{key}-2")

    assert (refused.status_code, refused.json()["code"]) == (503, "overloaded")
    assert answer(first) == answer(replayed)
    assert image_of(retried)
    assert not is_replay(retried)


async def test_requests_that_join_a_generation_need_no_slots(
    serve: Serve, gemini: Emulator, tmp_path: Path, key: str
) -> None:
    gemini.faults.append(Fault(delay_seconds=0.5))
    async with serve(data_dir=tmp_path, max_in_flight=1, max_queued=0) as client:
        responses = await asyncio.gather(*(generate(client, key) for _ in range(5)))

    assert len({answer(response) for response in responses}) == 1
    assert responses[0].is_success


RECORDED: dict[str, tuple[dict[str, str], dict[str, Any]]] = {
    "keyed": ({"Idempotency-Key": "any"}, {}),
    "asynchronous": ({"Prefer": "respond-async"}, {}),
    "with a link": ({}, {"responseFormat": "url"}),
}


@pytest.mark.parametrize("part", ["database", "blobs"])
async def test_nothing_is_asked_for_that_cannot_be_recorded(
    serve: Serve, gemini: Emulator, tmp_path: Path, part: str
) -> None:
    """
    A plain request is served.
    """
    broken: dict[str, Any] = {"data_dir": tmp_path}
    if part == "database":
        broken["database_url"] = "postgresql://me@127.0.0.1:1/images"
    else:
        (tmp_path / "blobs").write_text("in the way")
    async with serve(**broken) as client:
        refused = [
            await client.post("/generate-image", json=ASK | fields, headers=headers)
            for headers, fields in RECORDED.values()
        ]
        calls = len(gemini.calls)
        plain = await client.post("/generate-image", json=ASK)

    assert [(response.status_code, response.json()["code"]) for response in refused] == [
        (503, "storage_unavailable")
    ] * len(RECORDED)
    assert {response.json()["part"] for response in refused} == {part}
    assert calls == 0
    assert image_of(plain)


async def test_a_plain_request_makes_no_database(serve: Serve, gemini: Emulator, tmp_path: Path) -> None:
    async with serve(data_dir=tmp_path) as client:
        plain = await client.post("/generate-image", json=ASK)
        files = list(tmp_path.iterdir())
        await generate(client, "any")

    assert image_of(plain)
    assert files == []
    assert (tmp_path / "chats.db").exists()


# Money.


async def dollars(client: httpx2.AsyncClient, name: str) -> float:
    """Return the sum of a metric over its labels."""
    found = re.findall(rf"^gemini_images_{name}(?:\{{.*\}})? (\S+)$", (await client.get("/metrics")).text, re.MULTILINE)
    return sum(map(float, found))


async def test_a_replay_is_not_spending(client: httpx2.AsyncClient, gemini: Emulator, key: str) -> None:
    before = await dollars(client, "cost_dollars_total")
    first = await generate(client, key)
    cost = first.json()["usage"]["estimatedCostUsd"]
    async with asyncio.timeout(10):
        while (spent := await dollars(client, "cost_dollars_total")) == before:  # noqa: ASYNC110 - it has no event
            await asyncio.sleep(0.01)
    saved = await dollars(client, "saved_dollars_total")
    async with Increases(client) as increases:
        for accept in FORMATS.values():
            await generate(client, key, headers={"Accept": accept})

        assert await increases.become({})

    assert await dollars(client, "cost_dollars_total") == spent
    assert await dollars(client, "saved_dollars_total") == pytest.approx(saved + 3 * cost)


async def test_a_refusal_that_is_replayed_saves_what_it_cost(
    client: httpx2.AsyncClient, gemini: Emulator, key: str
) -> None:
    gemini.faults.append(Fault(finish_reason="IMAGE_SAFETY"))
    refused = await generate(client, key)
    cost = (json.loads(refused.text)["usage"] or {}).get("estimatedCostUsd") or 0
    await asyncio.sleep(0.1)
    saved = await dollars(client, "saved_dollars_total")

    await generate(client, key)

    assert await dollars(client, "saved_dollars_total") == pytest.approx(saved + cost)
