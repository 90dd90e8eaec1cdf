"""A generation as a stream of events."""

import asyncio
import base64
import itertools
import json
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest

from app.emulator import Emulator, Fault
from tests.conftest import Serve, image_file, soon
from tests.programs import require

ASK = {"prompt": "A lighthouse", "imageSize": "1K"}
EVENTS = {"Accept": "text/event-stream"}
JPEG = image_file("JPEG", (1024, 1024), "navy")

Event = tuple[str, dict[str, Any]]


async def events(
    client: httpx2.AsyncClient, body: dict[str, Any], **options: Any
) -> tuple[httpx2.Response, list[Event]]:
    """Return the response's status and headers, and its events. A comment is an event without data."""
    async with client.stream("POST", "/generate-image", json=body, headers=EVENTS, **options) as response:
        return response, [event async for event in read(response)]


async def read(response: httpx2.Response) -> AsyncGenerator[Event]:
    name = ""
    async for line in response.aiter_lines():
        if line.startswith(":"):
            yield "comment", {}
        elif line.startswith("event: "):
            name = line.removeprefix("event: ")
        elif line.startswith("data: "):
            yield name, json.loads(line.removeprefix("data: "))


async def test_a_stream_starts_at_once_and_ends_with_done(client: httpx2.AsyncClient, gemini: Emulator) -> None:
    """
    The image event contains the JSON of a plain response. Headers forbid proxies to buffer, change or compress the
    stream.
    """
    gemini.faults.append(Fault(image_base64=base64.b64encode(JPEG).decode()))

    response, found = await events(client, ASK)

    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.headers["x-accel-buffering"] == "no"
    assert "no-transform" in response.headers["cache-control"]
    assert "content-encoding" not in response.headers
    assert "content-length" not in response.headers
    assert [name for name, _ in found] == ["started", "image", "done"]
    assert found[0][1] == {
        "requestId": response.headers["x-request-id"], "model": "gemini-3-pro-image", "attempt": 1,
    }  # fmt: skip
    image = found[1][1]["image"]
    assert base64.b64decode(image["data"]) == JPEG
    assert image["url"] == f"data:image/jpeg;base64,{image['data']}"
    assert found[1][1]["text"] == "Here it is."
    assert found[1][1]["usage"]["totalTokens"] > 1000
    assert gemini.calls[-1].method == "streamGenerateContent"


@pytest.mark.parametrize("route", ["/generate-image/with-search", "/generate-image"])
async def test_a_stream_contains_the_same_as_a_plain_response(
    client: httpx2.AsyncClient, gemini: Emulator, route: str
) -> None:
    gemini.faults.append(Fault(times=2, image_base64=base64.b64encode(JPEG).decode(), shape="unflagged_drafts"))
    body = ASK | {"includeThoughts": True, "includeDrafts": True, "responseFormat": "b64"}

    plain = (await client.post(route, json=body)).json()
    async with client.stream("POST", route, json=body, headers=EVENTS) as response:
        found = [event async for event in read(response)]

    streamed = next(data for name, data in found if name == "image")
    assert streamed | {"id": ""} == plain | {"id": ""}


async def test_thoughts_and_drafts_are_events_as_they_arrive(client: httpx2.AsyncClient, gemini: Emulator) -> None:
    gemini.faults.append(Fault(shape="unflagged_drafts"))

    _, found = await events(client, ASK | {"includeThoughts": True, "includeDrafts": True})

    names = [name for name, _ in found]
    assert names == ["started", "thought", "draft", "draft", "draft", "image", "done"]
    assert "Planning" in found[1][1]["text"]
    drafts = [data["data"] for name, data in found if name == "draft"]
    image = next(data for name, data in found if name == "image")
    assert [draft["data"] for draft in image["drafts"]] == drafts


async def test_uploads_can_be_streamed_too(client: httpx2.AsyncClient) -> None:
    async with client.stream(
        "POST",
        "/generate-image/with-references",
        data={"prompt": "x", "imageSize": "1K"},
        files=[("images", ("a.png", image_file(), "image/png"))],
        headers=EVENTS,
    ) as response:
        found = [event async for event in read(response)]

    assert [name for name, _ in found] == ["started", "image", "done"]


async def test_a_retry_is_an_event(client: httpx2.AsyncClient, gemini: Emulator) -> None:
    gemini.faults.append(Fault(status=503))

    _, found = await events(client, ASK)

    assert [name for name, _ in found] == ["started", "retrying", "started", "image", "done"]
    assert found[1][1]["attempt"] == 2
    assert found[1][1]["reason"] == "upstream_busy"
    assert 0 <= found[1][1]["waitSeconds"] < 1
    assert found[2][1]["attempt"] == 2


@pytest.mark.parametrize(
    ("fault", "status", "code"),
    [
        (Fault(finish_reason="IMAGE_SAFETY"), 422, "content_blocked"),
        (Fault(block_reason="OTHER"), 422, "content_blocked"),
        (Fault(shape="text_only"), 422, "no_image"),
        (Fault(status=400), 422, "invalid_request"),
        (Fault(status=503, times=9), 503, "upstream_busy"),
        (Fault(reset="in_body", times=9), 502, "upstream_error"),
        (Fault(body="data: {\"candidates\": 7}\r\n\r\n", headers={"Content-Type": "text/event-stream"}), 502,
         "upstream_invalid_response"),
        (Fault(body='{"error": {"code": 500, "message": "x", "status": "INTERNAL"}}', times=9), 502, "upstream_error"),
    ],
)  # fmt: skip
async def test_a_problem_event_is_the_same_as_a_problem_response(
    client: httpx2.AsyncClient, gemini: Emulator, fault: Fault, status: int, code: str
) -> None:
    gemini.faults.append(fault)

    response, found = await events(client, ASK)

    assert response.status_code == 200
    name, problem = found[-1]
    assert (name, problem["status"], problem["code"]) == ("problem", status, code)
    assert problem["requestId"] == response.headers["x-request-id"]
    assert problem["error"] == problem["detail"]


async def test_an_invalid_request_gets_a_plain_problem_response(client: httpx2.AsyncClient, gemini: Emulator) -> None:
    answers = [
        await client.post("/generate-image", json={"prompt": ""}, headers=EVENTS),
        await client.post("/generate-image", json={"prompt": "x", "aspectRatio": "8:1"}, headers=EVENTS),
        await client.post("/generate-image", content=b"{", headers=EVENTS | {"Content-Type": "application/json"}),
    ]

    assert [one.status_code for one in answers] == [422, 422, 400]
    assert {one.headers["content-type"] for one in answers} == {"application/problem+json"}
    assert not gemini.calls


async def test_keep_alive_comments_are_sent_during_silence(serve: Serve, gemini: Emulator) -> None:
    gemini.faults.append(Fault(delay_seconds=1.1))
    async with serve(heartbeat_seconds=0.2) as client:
        began = time.perf_counter()
        _, found = await events(client, ASK)
        took = time.perf_counter() - began

    assert found[0][0] == "started"
    assert 3 <= sum(name == "comment" for name, _ in found) <= took / 0.2
    assert found[-1][0] == "done"


async def test_an_image_in_a_stream_is_in_memory_once(serve: Serve, gemini: Emulator) -> None:
    """
    The memory of a response is released after it, streamed or not.
    """
    async with serve() as client:
        await events(client, ASK)

        assert await soon(client, 'gemini_images_buffered_bytes{kind="responses"}', 0)


# Behind a proxy.


@asynccontextmanager
async def nginx(upstream: str, folder: Path) -> AsyncGenerator[str]:
    """nginx with its default buffering, but with a read timeout of 2 s instead of 60 s."""
    program = require("nginx", "nginx-light")
    (folder / "nginx.conf").write_text(f"""
        daemon off; pid {folder}/pid; error_log stderr crit;
        events {{}}
        http {{
          access_log off; client_body_temp_path {folder}/b; proxy_temp_path {folder}/p; fastcgi_temp_path {folder}/f;
          uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s; gzip on; gzip_types *; gzip_proxied any;
          server {{ listen unix:{folder}/socket; location / {{ proxy_pass {upstream}; proxy_read_timeout 2s; }} }}
        }}""")
    process = await asyncio.create_subprocess_exec(
        program, "-p", str(folder), "-c", str(folder / "nginx.conf"), "-e", "stderr"
    )
    try:
        for _ in range(200):
            if (folder / "socket").exists():
                break
            await asyncio.sleep(0.02)
        yield str(folder / "socket")
    finally:
        process.terminate()
        await process.wait()


@pytest.mark.slow
async def test_a_stream_outlasts_the_read_timeout_of_a_proxy(serve: Serve, gemini: Emulator, tmp_path: Path) -> None:
    """
    The timeouts are shortened: 2 s and 3 s stand for 60 s and 90 s. Without events the proxy ends the request.
    """
    gemini.faults.extend([Fault(delay_seconds=3.2), Fault(delay_seconds=3.2)])
    async with serve(heartbeat_seconds=0.5) as client, nginx(str(client.base_url).rstrip("/"), tmp_path) as socket:
        transport = httpx2.AsyncHTTPTransport(uds=socket)
        async with httpx2.AsyncClient(transport=transport, base_url="http://nginx", timeout=20) as through:
            began = time.perf_counter()
            asking = asyncio.create_task(through.post("/generate-image", json=ASK))
            async with through.stream("POST", "/generate-image", json=ASK, headers=EVENTS) as response:
                arrived = [(name, time.perf_counter() - began) async for name, _ in read(response)]
            plain = await asking

    assert arrived[0][0] == "started"
    assert arrived[0][1] < 2, "the read timeout of nginx"
    assert [name for name, _ in arrived if name != "comment"] == ["started", "image", "done"]
    assert max(b[1] - a[1] for a, b in itertools.pairwise(arrived)) < 2
    assert plain.status_code == 504
    assert b"nginx" in plain.content
