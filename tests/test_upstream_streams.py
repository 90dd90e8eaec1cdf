"""Gemini's streams in the forms that gateways send, and streams that break."""

import base64
import json
from typing import Any

import httpx2
import pytest

from app.emulator import Emulator, Fault
from app.gemini.transport.sse import SseParser
from tests.conftest import image_file
from tests.test_event_stream import ASK, events

JPEG = image_file("JPEG", (1024, 1024), "navy")
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
async def test_an_image_arrives_in_every_form_of_stream(
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
def test_a_stream_is_parsed_for_any_cut_into_pieces(written: str, size: int) -> None:
    text = WRITTEN[written].replace(base64.b64encode(JPEG).decode(), "QUJD").encode()
    reader = SseParser()

    found = [one for start in range(0, len(text), size) for one in reader.feed(text[start : start + size])]
    found += reader.close()

    assert len(found) == 3
    assert [json.loads(one)["candidates"][0].get("finishReason") for one in found] == [None, None, "STOP"]


@pytest.mark.parametrize(
    "body", ["", "\r\n\r\n", ": nothing to say\r\n\r\n", "null", data(CHUNKS[0]), data(CHUNKS[0])[:-40], "<html>"]
)
async def test_an_incomplete_stream_is_an_invalid_response(
    client: httpx2.AsyncClient, gemini: Emulator, body: str
) -> None:
    gemini.faults.append(Fault(body=body, headers={"Content-Type": "text/event-stream"}))

    _, found = await events(client, ASK)

    name, problem = found[-1]
    assert (name, problem["status"], problem["code"]) == ("problem", 502, "upstream_invalid_response")
    assert len(gemini.calls) == 1


ERROR = json.dumps({"error": {"code": 503, "message": "overloaded", "status": "UNAVAILABLE"}})


@pytest.mark.parametrize(("before", "calls"), [(CHUNKS[:1], 2), (CHUNKS[:2], 1)])
async def test_an_error_after_some_output_is_retried_once_at_most(
    client: httpx2.AsyncClient, gemini: Emulator, before: list[str], calls: int
) -> None:
    """
    After thoughts it is retried once, after an image never.
    """
    gemini.faults.append(Fault(times=9, body=data(*before, ERROR), headers={"Content-Type": "text/event-stream"}))

    _, found = await events(client, ASK)

    name, problem = found[-1]
    assert (name, problem["code"]) == ("problem", "upstream_busy")
    assert len(gemini.calls) == calls


def written(code: int = 503, status: str = "UNAVAILABLE", end: str = "\r\n") -> str:
    """Return an error as Google writes it into a stream: over several lines, without `data:`."""
    error = {"error": {"code": code, "message": '{Overloaded}, "so" it says [', "status": status, "details": []}}
    return json.dumps(error, indent=2).replace("\n", end)


FIRST = data(CHUNKS[0])
ERRORS = {
    "as Google writes it": FIRST + written() + "\r\n\r\n",
    "with LF": data(CHUNKS[0], end="\n") + written(end="\n") + "\n",
    "with CR": data(CHUNKS[0], end="\r") + written(end="\r") + "\r",
    "with lines between": data(CHUNKS[0]) + written(end="\r\n\r\n"),
    "at the end, without a line end": FIRST + written(),
    "at the beginning": written() + "\r\n\r\n" + FIRST,
    "between events": FIRST + written() + "\r\n\r\n" + FIRST,
    "in front of an event, without a line between": FIRST + written() + "\r\n" + FIRST,
    "behind an event, without a line between": FIRST.rstrip() + "\r\n" + written(),
    "in one line": FIRST + json.dumps(json.loads(written())) + "\r\n\r\n",
    "in an array": FIRST + f"[{written()}]\r\n",
    "in an array of chunks": f"[{CHUNKS[0]},\r\n{written()}]\r\n",
    "in an array without an end": f"[{CHUNKS[0]},\r\n{written()}\r\n",
    "in an array with data": FIRST + data(json.dumps([json.loads(written())])),
    "with its name": FIRST + "event: error\r\n" + written() + "\r\n",
    "with its name and data": FIRST + "event: error\r\n" + data(ERROR),
    "with its name and no envelope": FIRST + "event: error\r\n" + data(json.dumps(json.loads(ERROR)["error"])),
    "several in a row": FIRST + written() + "\r\n" + written(499, "CANCELLED") + written(500, "INTERNAL"),
    "with data in its first line": FIRST + f"data: {written()}\r\n\r\n",
    "with data in each line": FIRST + data(written(end="\r\ndata: ")),
    "with a last word": FIRST + written() + "\r\n\r\ndata: [DONE]\r\n\r\n",
    "by name only": FIRST + data(json.dumps({"error": {"message": "x", "status": "UNAVAILABLE"}})),
    "with its code as a string": FIRST + data(json.dumps({"error": {"message": "x", "code": "503"}})),
    "behind JSON that was broken off": '{"candidates": [\r\n' + data(ERROR),
}


@pytest.mark.parametrize("how", ERRORS)
@pytest.mark.parametrize("size", [None, 1, 7])
async def test_an_error_in_a_stream_is_read_in_every_form(
    client: httpx2.AsyncClient, gemini: Emulator, how: str, size: int | None
) -> None:
    """
    It becomes the same problem as outside a stream, and the call is retried once at most.
    """
    gemini.faults.append(
        Fault(times=9, body=ERRORS[how], headers={"Content-Type": "text/event-stream"}, chunk_bytes=size)
    )

    _, found = await events(client, ASK)

    name, problem = found[-1]
    assert (name, problem["status"], problem["code"]) == ("problem", 503, "upstream_busy")
    assert len(gemini.calls) == 2


@pytest.mark.parametrize(
    ("code", "status", "ours", "calls"),
    [
        (503, "UNAVAILABLE", (503, "upstream_busy"), 2),
        (429, "RESOURCE_EXHAUSTED", (503, "upstream_busy"), 2),
        (500, "INTERNAL", (502, "upstream_error"), 2),
        (504, "DEADLINE_EXCEEDED", (504, "upstream_timeout"), 2),
        (499, "CANCELLED", (502, "upstream_error"), 1),
        (400, "INVALID_ARGUMENT", (422, "invalid_request"), 1),
        (403, "PERMISSION_DENIED", (502, "upstream_rejected_credentials"), 1),
        (404, "NOT_FOUND", (422, "invalid_request"), 1),
    ],
)
async def test_an_error_in_a_stream_is_mapped_by_its_code(
    client: httpx2.AsyncClient, gemini: Emulator, code: int, status: str, ours: tuple[int, str], calls: int
) -> None:
    gemini.faults.append(Fault(times=9, body=FIRST + written(code, status)))

    _, found = await events(client, ASK)

    assert (found[-1][1]["status"], found[-1][1]["code"]) == ours
    assert len(gemini.calls) == calls


@pytest.mark.parametrize("image", [base64.b64encode(JPEG).decode(), base64.b64encode(image_file("JPEG")).decode()])
@pytest.mark.parametrize("thought", [True, False])
async def test_an_error_after_part_of_an_image_is_not_retried(
    client: httpx2.AsyncClient, gemini: Emulator, image: str, thought: bool
) -> None:
    drawn = chunk({"inlineData": {"mimeType": "image/jpeg", "data": image}, "thought": thought})
    gemini.faults.append(Fault(times=9, body=data(json.dumps(drawn)) + written()))

    _, found = await events(client, ASK)

    assert (found[-1][0], found[-1][1]["code"]) == ("problem", "upstream_busy")
    assert len(gemini.calls) == 1


ENDED = json.dumps({**IMAGE, "candidates": [{**IMAGE["candidates"][0], "finishReason": "STOP"}]})
AFTER_THE_IMAGE = {
    "an error": written(),
    "an error as data": data(ERROR),
    "a last word": data("[DONE]"),
    "an event that is no JSON": data("{no JSON"),
    "an event of another shape": data('{"candidates": 7}'),
    "an event that is broken off": data(CHUNKS[2])[:-30],
    "a web page": "<html>\r\n<body>\r\n",
    "bytes": "\u0000\ufffd\r\n{\u0000",
    "too much": ": still here\r\n" * 300_000,
}


@pytest.mark.parametrize("after", AFTER_THE_IMAGE)
@pytest.mark.parametrize("image", [data(ENDED), data(*CHUNKS)])
async def test_errors_after_a_complete_image_do_not_affect_it(
    client: httpx2.AsyncClient, gemini: Emulator, image: str, after: str
) -> None:
    gemini.faults.append(Fault(body=image + AFTER_THE_IMAGE[after], headers={"Content-Type": "text/event-stream"}))

    _, found = await events(client, ASK)

    assert [name for name, _ in found if name not in ("comment", "started")] == ["image", "done"], found[-1]
    answer = next(said for name, said in found if name == "image")
    assert base64.b64decode(answer["image"]["data"]) == JPEG
    harmless = after in ("a last word", "a web page")
    assert len(answer["warnings"]) == (0 if harmless else 1), answer["warnings"]
    assert len(gemini.calls) == 1


async def test_an_image_is_delivered_after_a_broken_event(client: httpx2.AsyncClient, gemini: Emulator) -> None:
    gemini.faults.append(Fault(body=data(CHUNKS[0][:-5], *CHUNKS[1:])))

    _, found = await events(client, ASK)

    image = next(said for name, said in found if name == "image")
    assert base64.b64decode(image["image"]["data"]) == JPEG
    assert image["warnings"]


async def test_an_error_after_a_refusal_is_ignored(client: httpx2.AsyncClient, gemini: Emulator) -> None:
    gemini.faults.append(Fault(body=data(json.dumps(chunk(finishReason="IMAGE_SAFETY"))) + written(), times=9))

    _, found = await events(client, ASK)

    assert found[-1][1]["code"] == "content_blocked"
    assert len(gemini.calls) == 1


async def test_sources_from_several_chunks_are_all_delivered(client: httpx2.AsyncClient, gemini: Emulator) -> None:
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


async def test_a_block_reason_in_one_chunk_is_enough(client: httpx2.AsyncClient, gemini: Emulator) -> None:
    said = [{"promptFeedback": {"blockReason": "OTHER"}}, {"promptFeedback": {}, "usageMetadata": USAGE}]
    gemini.faults.append(Fault(body=data(*map(json.dumps, said)), headers={"Content-Type": "text/event-stream"}))

    _, found = await events(client, ASK)

    assert found[-1][1]["code"] == "content_blocked"


async def test_a_problem_in_a_stream_has_retry_after(client: httpx2.AsyncClient, gemini: Emulator) -> None:
    gemini.faults.append(Fault(status=503, headers={"Retry-After": "77"}))

    _, found = await events(client, ASK)

    assert found[-1][1]["retryAfter"] == 77


async def test_a_connection_that_breaks_behind_the_image_is_not_retried(
    client: httpx2.AsyncClient, gemini: Emulator
) -> None:
    """
    The image has arrived, so a second call would only cost money.
    """
    body = data(*CHUNKS[:2]) + " " * len(data(*CHUNKS[:2]))
    gemini.faults.append(Fault(body=body, headers={"Content-Type": "text/event-stream"}, reset="in_body"))

    _, found = await events(client, ASK)

    assert [name for name, _ in found if name != "comment"] == ["started", "image", "done"]
    assert len(gemini.calls) == 1
