"""Streams of Gemini's as gateways on the way write them, and the ones that break."""

import base64
import json
from typing import Any

import httpx2
import pytest

from app.emulator import Emulator, Fault
from app.gemini.eventstream import EventReader
from tests.conftest import picture
from tests.test_events import ASK, events

JPEG = picture("JPEG", (1024, 1024), "navy")
THOUGHT = {"candidates": [{"content": {"parts": [{"text": "I plan.", "thought": True}]}, "index": 0}]}
USAGE = {"promptTokenCount": 5, "candidatesTokenCount": 1120, "totalTokenCount": 1125}


def chunk(*parts: dict[str, Any], **candidate: Any) -> dict[str, Any]:
    return {"candidates": [{"content": {"role": "model", "parts": list(parts)}, "index": 0, **candidate}]}


IMAGE = chunk({"inlineData": {"mimeType": "image/jpeg", "data": base64.b64encode(JPEG).decode()}})
LAST = {"candidates": [{"finishReason": "STOP", "index": 0}], "usageMetadata": USAGE}
CHUNKS = [json.dumps(one) for one in (THOUGHT, IMAGE, LAST)]


def data(*documents: str, end: str = "\r\n") -> str:
    return "".join(f"data: {document}{end}{end}" for document in documents)


WRITTEN = {
    "as Google writes it": data(*CHUNKS),
    "with LF": data(*CHUNKS, end="\n"),
    "with CR": data(*CHUNKS, end="\r"),
    "without the space": data(*CHUNKS).replace("data: ", "data:"),
    "with comments": f": hello\r\n\r\n: again\r\n{data(CHUNKS[0])}: still here\r\n\r\n{data(*CHUNKS[1:])}",
    "with other fields": "retry: 10\r\n\r\n" + data(*CHUNKS).replace("data:", "event: message\r\nid: 7\r\ndata:"),
    "with a byte order mark": "\ufeff" + data(*CHUNKS),
    "with empty events": "\r\n\r\ndata:\r\n\r\n" + data(*CHUNKS),
    "with a last word": data(*CHUNKS, "[DONE]"),
    "without its last line": data(*CHUNKS).rstrip(),
    "over several lines": data(*CHUNKS).replace('"candidates": ', '"candidates":\r\ndata: '),
    "as an array": f"[{','.join(CHUNKS)}]",
    "as a plain answer": json.dumps({**IMAGE, "candidates": [{**IMAGE["candidates"][0], "finishReason": "STOP"}]}),
}


@pytest.mark.parametrize("written", WRITTEN)
@pytest.mark.parametrize("size", [None, 1000])
async def test_an_image_arrives_however_its_stream_is_written(
    client: httpx2.AsyncClient, gemini: Emulator, written: str, size: int | None
) -> None:
    gemini.faults.append(Fault(body=WRITTEN[written], headers={"Content-Type": "text/event-stream"}, chunk_bytes=size))

    _, found = await events(client, ASK)

    assert [name for name, _ in found if name != "comment"] == ["started", "image", "done"], found
    image = next(said for name, said in found if name == "image")
    assert base64.b64decode(image["image"]["data"]) == JPEG
    assert len(gemini.calls) == 1


@pytest.mark.parametrize("size", [1, 2, 3, 7])
@pytest.mark.parametrize("written", [name for name in WRITTEN if name not in ("as an array", "as a plain answer")])
def test_a_stream_may_be_cut_anywhere(written: str, size: int) -> None:
    text = WRITTEN[written].replace(base64.b64encode(JPEG).decode(), "QUJD").encode()
    reader = EventReader()

    found = [one for start in range(0, len(text), size) for one in reader.feed(text[start : start + size])]
    found += reader.close()

    assert len(found) == 3
    assert [json.loads(one)["candidates"][0].get("finishReason") for one in found] == [None, None, "STOP"]


@pytest.mark.parametrize(
    "body", ["", "\r\n\r\n", ": nothing to say\r\n\r\n", "null", data(CHUNKS[0]), data(CHUNKS[0])[:-40], "<html>"]
)
async def test_a_stream_without_an_end_is_no_refusal(client: httpx2.AsyncClient, gemini: Emulator, body: str) -> None:
    gemini.faults.append(Fault(body=body, headers={"Content-Type": "text/event-stream"}))

    _, found = await events(client, ASK)

    name, problem = found[-1]
    assert (name, problem["status"], problem["code"]) == ("problem", 502, "upstream_invalid_response")
    assert len(gemini.calls) == 1


ERROR = json.dumps({"error": {"code": 503, "message": "overloaded", "status": "UNAVAILABLE"}})


@pytest.mark.parametrize(("before", "calls"), [(CHUNKS[:1], 2), (CHUNKS[:2], 1)])
async def test_an_error_after_work_was_done_is_not_free(
    client: httpx2.AsyncClient, gemini: Emulator, before: list[str], calls: int
) -> None:
    """
    After thoughts it is tried once more, after an image not at all.
    """
    gemini.faults.append(Fault(times=9, body=data(*before, ERROR), headers={"Content-Type": "text/event-stream"}))

    _, found = await events(client, ASK)

    name, problem = found[-1]
    assert (name, problem["code"]) == ("problem", "upstream_busy")
    assert len(gemini.calls) == calls


async def test_sources_may_come_in_several_chunks_and_none_of_them_is_lost(
    client: httpx2.AsyncClient, gemini: Emulator
) -> None:
    said = [
        chunk(
            {"text": "Look."},
            groundingMetadata={"webSearchQueries": ["q"], "searchEntryPoint": {"renderedContent": "<b>"}},
        ),
        chunk(groundingMetadata={"groundingChunks": [{"web": {"uri": "https://a.example", "title": "a"}}]}),
        IMAGE,
        {**LAST, "candidates": [{**LAST["candidates"][0], "groundingMetadata": {}}]},  # type: ignore[index]
    ]
    gemini.faults.append(Fault(body=data(*map(json.dumps, said)), headers={"Content-Type": "text/event-stream"}))

    _, found = await events(client, ASK)

    grounding = next(said for name, said in found if name == "image")["grounding"]
    assert grounding["queries"] == ["q"]
    assert grounding["searchSuggestionsHtml"] == "<b>"
    assert grounding["sources"] == [{"title": "a", "uri": "https://a.example"}]


async def test_a_block_that_is_not_repeated_is_a_block(client: httpx2.AsyncClient, gemini: Emulator) -> None:
    said = [{"promptFeedback": {"blockReason": "OTHER"}}, {"promptFeedback": {}, "usageMetadata": USAGE}]
    gemini.faults.append(Fault(body=data(*map(json.dumps, said)), headers={"Content-Type": "text/event-stream"}))

    _, found = await events(client, ASK)

    assert found[-1][1]["code"] == "content_blocked"


async def test_a_problem_in_a_stream_says_when_to_come_back(client: httpx2.AsyncClient, gemini: Emulator) -> None:
    gemini.faults.append(Fault(status=503, headers={"Retry-After": "77"}))

    _, found = await events(client, ASK)

    assert found[-1][1]["retryAfter"] == 77


async def test_the_rest_of_a_transfer_is_not_waited_for(client: httpx2.AsyncClient, gemini: Emulator) -> None:
    """
    A connection that breaks behind the image costs nobody a second one.
    """
    body = data(*CHUNKS[:2]) + " " * len(data(*CHUNKS[:2]))
    gemini.faults.append(Fault(body=body, headers={"Content-Type": "text/event-stream"}, reset="in_body"))

    _, found = await events(client, ASK)

    assert [name for name, _ in found if name != "comment"] == ["started", "image", "done"]
    assert len(gemini.calls) == 1
