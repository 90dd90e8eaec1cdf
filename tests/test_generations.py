"""Recorded generations over HTTP: their documents, images and events, waiting for them, and deleting them."""

import asyncio
import base64
import io
import json
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from PIL import Image

from app.emulator import Emulator, Fault
from tests.conftest import Serve, noise_jpeg, wait_for_calls
from tests.processes import process
from tests.storages import Overrides

PROMPT = {"prompt": "A lighthouse", "imageSize": "1K"}
ASYNC = {"Prefer": "respond-async"}
KEYS = "anna:first-key,bert:second-key"
ANNA, BERT = {"X-API-Key": "first-key"}, {"X-API-Key": "second-key"}

Document = dict[str, Any]


async def ordered(
    client: httpx2.AsyncClient, path: str = "/generate-image", *, headers: dict[str, str] | None = None, **fields: Any
) -> Document:
    """Order an asynchronous generation, and return its first document."""
    response = await client.post(path, json=PROMPT | fields, headers=ASYNC | (headers or {}))
    assert response.status_code == 202, response.text
    document: Document = response.json()
    return document


async def finished(client: httpx2.AsyncClient, document: Document, headers: dict[str, str] | None = None) -> Document:
    """Wait until a generation is over, and return its document."""
    wait = {"Prefer": "wait=20"} | (headers or {})
    found: Document = (await client.get(f"/generations/{document['id']}", headers=wait)).json()
    assert found["finishedAt"], found
    return found


async def drawn(client: httpx2.AsyncClient, path: str = "/generate-image", **fields: Any) -> Document:
    """Order a generation, and wait for its end."""
    return await finished(client, await ordered(client, path, **fields))


async def events_of(lines: AsyncIterator[str]) -> AsyncIterator[dict[str, Any]]:
    """Yield the events of a stream, as browsers understand them. A comment has the name `comment`."""
    event: dict[str, Any] = {}
    async for line in lines:
        name, _, value = line.partition(": ")
        if name == "":
            yield {"event": "comment"}
        elif name in ("id", "event", "data"):
            event[name] = json.loads(value) if name == "data" else value
        if not line and event:
            yield event
            event = {}


async def watched(client: httpx2.AsyncClient, url: str, **headers: str) -> list[dict[str, Any]]:
    """Return the events of a generation until the stream ends, without comments."""
    async with client.stream("GET", url, headers=headers) as response:
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/event-stream")
        return [event async for event in events_of(response.aiter_lines()) if event["event"] != "comment"]


async def test_a_generation_ends_with_the_plain_answer_and_links_in_place_of_images(
    client: httpx2.AsyncClient, gemini: Emulator
) -> None:
    document = await drawn(client)

    plain = (await client.post("/generate-image", json=PROMPT)).json()
    assert document["status"] == "succeeded"
    assert document["attempts"] == 1
    assert document["createdAt"] <= document["startedAt"] <= document["finishedAt"]
    assert document["links"]["self"] == f"{str(client.base_url).rstrip('/')}/generations/{document['id']}"
    assert set(document["result"]) == set(plain)
    assert document["result"]["image"] == {
        "url": document["links"]["image"],
        **{name: plain["image"][name] for name in ("mimeType", "width", "height")},
    }
    file = await client.get(document["links"]["image"])
    assert file.headers["content-type"] == plain["image"]["mimeType"]
    with Image.open(io.BytesIO(file.content)) as opened:
        assert opened.size == (plain["image"]["width"], plain["image"]["height"])


async def test_each_image_of_a_v1_request_has_a_link(client: httpx2.AsyncClient, gemini: Emulator) -> None:
    pictures = [noise_jpeg(seed, 20_000) for seed in range(3)]
    gemini.faults.extend(Fault(image_base64=base64.b64encode(picture).decode()) for picture in pictures)
    body = {"prompt": "A lighthouse", "n": 3}
    ordered_ = await client.post("/v1/images/generations", json=body, headers=ASYNC)
    assert ordered_.status_code == 202, ordered_.text

    document = await finished(client, ordered_.json())

    links = [item["url"] for item in document["result"]["data"]]
    files = [await client.get(link) for link in links]
    assert {file.content for file in files} == set(pictures)
    assert links[0] == document["links"]["image"]
    assert (await client.get(f"/generations/{document['id']}/image?index=3")).json()["code"] == "image_not_found"


async def test_a_refused_generation_has_a_problem(client: httpx2.AsyncClient, gemini: Emulator) -> None:
    gemini.faults.append(Fault(finish_reason="IMAGE_SAFETY"))

    document = await drawn(client)

    assert document["status"] == "failed"
    assert document["problem"]["code"] == "content_blocked"
    assert document["mayHaveCost"] is True
    assert "requestId" not in document["problem"]
    assert set(document["links"]) == {"self", "events"}
    image = await client.get(f"/generations/{document['id']}/image")
    assert (image.status_code, image.json()["code"]) == (404, "image_not_found")


async def test_generations_are_listed_newest_first_and_page_by_page(serve_alone: Serve, storage: Overrides) -> None:
    async with serve_alone(**storage, service_api_keys=KEYS) as client:
        orders = [await ordered(client, headers=ANNA) for _ in range(5)]
        other = await ordered(client, headers=BERT)
        found, cursor = [], ""
        for _ in range(3):
            page = (await client.get(f"/generations?limit=2&cursor={cursor}", headers=ANNA)).json()
            found += [one["id"] for one in page["generations"]]
            cursor = page["nextCursor"]

    assert cursor is None
    assert found == [one["id"] for one in reversed(orders)]
    assert other["id"] not in found


@pytest.mark.parametrize("cursor", ["x", "WzEsICJ4Il0", "WzEsICJjaGF0XzRmN2MxZTBiOWQyYTRjNmU4ZjBhMWIyYzNkNGU1ZjYwIl0"])
async def test_a_cursor_of_another_list_is_refused(client: httpx2.AsyncClient, cursor: str) -> None:
    response = await client.get(f"/generations?cursor={cursor}")

    assert (response.status_code, response.json()["code"]) == (422, "invalid_request")


async def test_a_generation_does_not_exist_for_others(serve_alone: Serve, gemini: Emulator) -> None:
    async with serve_alone(service_api_keys=KEYS) as client:
        document = await finished(client, await ordered(client, headers=ANNA), ANNA)
        path = f"/generations/{document['id']}"
        answers = [
            await client.request(method, path + suffix, headers=BERT)
            for method, suffix in (("GET", ""), ("GET", "/image"), ("GET", "/events"), ("DELETE", ""))
        ]
        keyless = [await client.get(path + suffix) for suffix in ("", "/image", "/events")]
        kept = await client.get(path, headers=ANNA)

    assert {(answer.status_code, answer.json()["code"]) for answer in answers} == {(404, "generation_not_found")}
    assert {answer.status_code for answer in keyless} == {401}
    assert kept.status_code == 200


@pytest.mark.parametrize("id_", ["x", "gen_" + "0" * 32, "gen_" + "A" * 32, "gen_" + "0" * 33, "%00"])
async def test_an_unknown_id_is_not_found(client: httpx2.AsyncClient, id_: str) -> None:
    response = await client.get(f"/generations/{id_}")

    assert (response.status_code, response.json()["code"]) == (404, "generation_not_found")


async def test_a_long_poll_ends_with_the_generation(client: httpx2.AsyncClient, gemini: Emulator) -> None:
    gemini.faults.append(Fault(delay_seconds=0.7))
    document = await ordered(client)

    began = time.monotonic()
    response = await client.get(f"/generations/{document['id']}", headers={"Prefer": "wait=20"})

    assert response.json()["status"] == "succeeded"
    assert response.headers["preference-applied"] == "wait=20"
    assert "retry-after" not in response.headers
    assert time.monotonic() - began < 5


async def test_a_long_poll_ends_after_its_time(client: httpx2.AsyncClient, gemini: Emulator) -> None:
    gemini.hold()
    document = await ordered(client)
    path = f"/generations/{document['id']}"
    await wait_for_calls(gemini)

    began = time.monotonic()
    response = await client.get(path, headers={"Prefer": "wait=1"})
    unchanged = await client.get(path, headers={"Prefer": "wait=1", "If-None-Match": response.headers["etag"]})
    seconds = time.monotonic() - began

    assert response.json()["status"] == "running"
    assert int(response.headers["retry-after"]) > 0
    assert (unchanged.status_code, unchanged.headers["preference-applied"]) == (304, "wait=1")
    assert 1.9 < seconds < 10
    gemini.release()
    await finished(client, document)


async def test_a_long_poll_with_an_entity_tag_ends_with_the_next_change(serve_alone: Serve, gemini: Emulator) -> None:
    gemini.hold()
    gemini.faults.extend([Fault(), Fault(delay_seconds=1)])
    async with serve_alone(max_in_flight=1) as client:
        first, second = await ordered(client), await ordered(client)
        path = f"/generations/{second['id']}"
        queued = await client.get(path)
        gemini.release()
        changed = await client.get(path, headers={"Prefer": "wait=20", "If-None-Match": queued.headers["etag"]})
        await finished(client, first)
        await finished(client, second)

    assert (queued.json()["status"], changed.json()["status"]) == ("queued", "running")
    assert queued.headers["etag"] != changed.headers["etag"]


async def test_a_wait_is_at_most_the_deadline(serve_alone: Serve, gemini: Emulator) -> None:
    async with serve_alone(deadline_seconds=30) as client:
        document = await drawn(client)
        response = await client.get(f"/generations/{document['id']}", headers={"Prefer": "wait=999999"})
        prefer = {"Prefer": "respond-async, wait=999999"}
        plain = await client.post("/generate-image", json=PROMPT, headers=prefer)
        shorter = await client.post("/generate-image", json=PROMPT, headers=prefer | {"X-Timeout-Seconds": "20"})
        as_wished = await client.post("/generate-image", json=PROMPT, headers={"Prefer": "respond-async, wait=10"})

    responses = (response, plain, shorter, as_wished)
    assert [one.status_code for one in responses] == [200] * 4
    assert [one.headers["preference-applied"] for one in responses] == ["wait=30", "wait=30", "wait=20", "wait=10"]


async def test_a_known_state_is_not_sent_again(client: httpx2.AsyncClient, gemini: Emulator) -> None:
    path = f"/generations/{(await drawn(client))['id']}"

    first = await client.get(path)
    again = await client.get(path)
    unchanged = await client.get(path, headers={"If-None-Match": first.headers["etag"], "Prefer": "wait=20"})

    assert first.content == again.content
    assert (unchanged.status_code, unchanged.content) == (304, b"")
    assert unchanged.headers["etag"] == first.headers["etag"]


async def test_an_image_is_a_file_that_never_changes(client: httpx2.AsyncClient, gemini: Emulator) -> None:
    link = (await drawn(client))["links"]["image"]

    file = await client.get(link)
    part = await client.get(link, headers={"Range": "bytes=10-19"})
    beyond = await client.get(link, headers={"Range": "bytes=999999999-"})
    unchanged = await client.get(link, headers={"If-None-Match": file.headers["etag"]})
    small = await client.get(f"{link}&width=64")
    head = await client.head(link)

    assert "immutable" in file.headers["cache-control"]
    assert file.headers["x-content-type-options"] == "nosniff"
    assert file.headers["content-security-policy"] == "default-src 'none'; sandbox"
    assert file.headers["cross-origin-resource-policy"] == "cross-origin"
    assert (part.status_code, part.content) == (206, file.content[10:20])
    assert (beyond.status_code, beyond.headers["content-range"]) == (416, f"bytes */{len(file.content)}")
    assert (unchanged.status_code, unchanged.content) == (304, b"")
    assert head.headers["content-length"] == file.headers["content-length"]
    with Image.open(io.BytesIO(small.content)) as opened:
        assert opened.width == 64


async def test_an_image_that_is_still_being_made_is_a_conflict(client: httpx2.AsyncClient, gemini: Emulator) -> None:
    gemini.hold()
    document = await ordered(client)

    response = await client.get(f"/generations/{document['id']}/image")
    gemini.release()

    assert (response.status_code, response.json()["code"]) == (409, "in_progress")
    assert response.headers["location"] == f"/generations/{document['id']}"
    assert int(response.headers["retry-after"]) > 0
    assert response.headers["x-should-retry"] == "false"
    await finished(client, document)


async def test_a_signed_link_works_without_a_key_for_any_page(serve_alone: Serve, gemini: Emulator) -> None:
    async with serve_alone(service_api_keys=KEYS) as client:
        document = await finished(client, await ordered(client, headers=ANNA), ANNA)
        link = document["links"]["image"]
        page = {"Origin": "https://shop.example", "Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "cors"}
        fetched = await client.get(link, headers=page)
        shown = await client.get(link, headers={"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Dest": "image"})
        refused = [
            await client.get(changed, headers=headers)
            for headers in ({}, ANNA, BERT)
            for changed in (f"{link}x", link.replace("expires=", "expires=9"), link.split("&")[0] + "&signature=")
        ]
        for_events = await client.get(link.replace("/image?", "/events?"))
        without = [await client.get(link.split("?")[0]), await client.get(link.split("&")[0])]

    assert fetched.status_code == shown.status_code == 200
    assert fetched.headers["access-control-allow-origin"] == "*"
    assert fetched.headers["cross-origin-resource-policy"] == "cross-origin"
    assert {(one.status_code, one.json()["code"]) for one in [*refused, for_events]} == {(403, "invalid_link")}
    assert {one.status_code for one in without} == {401}


async def test_a_signed_link_is_for_reading_only(serve_alone: Serve, gemini: Emulator) -> None:
    async with serve_alone(service_api_keys=KEYS) as client:
        document = await finished(client, await ordered(client, headers=ANNA), ANNA)
        query = document["links"]["image"].partition("?")[2]
        path = f"/generations/{document['id']}"
        answers = [
            await client.get(f"{path}?{query}"),
            await client.delete(f"{path}?{query}"),
            await client.post(f"{path}/image?{query}"),
            await client.get(f"/generations?{query}"),
            await client.get(f"/generations/../chats?{query}"),
        ]

    assert {answer.status_code for answer in answers} == {401}


async def test_without_keys_a_signed_link_works_under_any_host_name(
    client: httpx2.AsyncClient, gemini: Emulator
) -> None:
    link = (await drawn(client))["links"]["image"]
    behind_proxy = {"Host": "images.example", "X-Forwarded-For": "203.0.113.7"}

    signed = await client.get(link, headers=behind_proxy)
    unsigned = await client.get(link.split("?")[0], headers=behind_proxy)

    assert (signed.status_code, unsigned.status_code) == (200, 403)


async def test_an_expired_link_says_so_and_the_generation_has_a_new_one(serve_alone: Serve, gemini: Emulator) -> None:
    async with serve_alone(image_url_ttl="1") as client:
        document = await drawn(client)
        await asyncio.sleep(2.1)
        expired = await client.get(document["links"]["image"])
        renewed = (await client.get(f"/generations/{document['id']}")).json()["links"]["image"]
        file = await client.get(renewed)

    assert (expired.status_code, expired.json()["code"]) == (403, "expired_link")
    assert file.status_code == 200


async def test_a_link_outlives_a_restart_and_works_on_each_replica(
    serve_alone: Serve, storage: Overrides, gemini: Emulator
) -> None:
    async with serve_alone(**storage, public_url="https://images.example/api/") as client:
        link = (await drawn(client))["links"]["image"]
        assert link.startswith("https://images.example/api/generations/gen_")
    async with serve_alone(**storage) as client:
        file = await client.get(link.removeprefix("https://images.example/api"))

    assert file.status_code == 200


async def test_events_report_each_state_once(client: httpx2.AsyncClient, gemini: Emulator) -> None:
    gemini.faults.append(Fault(delay_seconds=0.5))
    document = await ordered(client)

    events = await watched(client, document["links"]["events"])
    again = await watched(client, document["links"]["events"])
    later = await watched(client, f"/generations/{document['id']}/events", **{"Last-Event-ID": "2"})
    by_query = await watched(client, f"{document['links']['events']}&lastEventId=1")
    nothing = await client.get(document["links"]["events"], headers={"Last-Event-ID": "3"})

    assert [(one["id"], one["event"]) for one in events] == [("1", "queued"), ("2", "running"), ("3", "succeeded")]
    assert [one["data"]["status"] for one in events] == [one["event"] for one in events]
    assert later[-1]["data"] == await finished(client, document)
    assert [one["id"] for one in again] == ["1", "2", "3"]
    assert [one["id"] for one in later] == ["3"]
    assert [one["id"] for one in by_query] == ["2", "3"]
    assert nothing.status_code == 204


async def test_a_stream_without_events_has_heartbeats(serve_alone: Serve, gemini: Emulator) -> None:
    gemini.faults.append(Fault(delay_seconds=1))
    async with serve_alone(heartbeat_seconds=0.2) as client:
        document = await ordered(client)
        async with client.stream("GET", document["links"]["events"]) as response:
            names = [event["event"] async for event in events_of(response.aiter_lines())]

    assert names[-1] == "succeeded"
    assert names.count("comment") >= 2


async def test_a_stop_ends_long_polls_and_event_streams_at_once(
    gemini: Emulator, gemini_url: str, tmp_path: Path
) -> None:
    """
    Their clients ask again, and reach another replica.
    """
    gemini.hold()
    async with (
        process(gemini_url, data_dir=tmp_path, max_in_flight=1) as (service, url),
        httpx2.AsyncClient(base_url=url, timeout=30) as client,
    ):
        await ordered(client)
        await wait_for_calls(gemini)
        queued = await ordered(client)
        polled = asyncio.create_task(client.get(f"/generations/{queued['id']}", headers={"Prefer": "wait=30"}))
        watching = asyncio.create_task(watched(client, queued["links"]["events"]))
        await asyncio.sleep(0.3)
        service.send_signal(signal.SIGTERM)
        document, events = (await polled).json(), await watching
        gemini.release()
        code = await asyncio.wait_for(service.wait(), 15)

    assert document["status"] == "queued"
    assert [one["event"] for one in events] == ["queued"]
    assert code == 0
    assert len(gemini.calls) == 1


async def test_a_generation_goes_on_when_its_watchers_leave(client: httpx2.AsyncClient, gemini: Emulator) -> None:
    gemini.hold()
    document = await ordered(client)

    async with client.stream("GET", document["links"]["events"]) as response:
        await anext(events_of(response.aiter_lines()))
    with pytest.raises(httpx2.ReadTimeout):
        await client.get(f"/generations/{document['id']}", headers={"Prefer": "wait=20"}, timeout=0.2)
    gemini.release()

    assert (await finished(client, document))["status"] == "succeeded"
    assert len(gemini.calls) == 1


async def test_a_waiting_generation_is_cancelled_and_nothing_is_asked(serve_alone: Serve, gemini: Emulator) -> None:
    gemini.hold()
    async with serve_alone(max_in_flight=1) as client:
        first = await ordered(client)
        await wait_for_calls(gemini)
        second = await ordered(client)
        watching = asyncio.create_task(watched(client, second["links"]["events"]))
        await asyncio.sleep(0.2)
        deleted = await client.delete(f"/generations/{second['id']}")
        found = (await client.get(f"/generations/{second['id']}")).json()
        events = await watching
        gemini.release()
        await finished(client, first)
        await asyncio.sleep(0.2)

    assert deleted.status_code == 204
    assert (found["status"], found["problem"]["code"], found["mayHaveCost"]) == ("cancelled", "cancelled", False)
    assert [one["event"] for one in events] == ["queued", "cancelled"]
    assert len(gemini.calls) == 1


async def test_a_generation_that_was_asked_cannot_be_cancelled(client: httpx2.AsyncClient, gemini: Emulator) -> None:
    gemini.hold()
    document = await ordered(client)
    await wait_for_calls(gemini)

    response = await client.delete(f"/generations/{document['id']}")
    gemini.release()

    assert (response.status_code, response.json()["code"]) == (409, "already_asked")
    assert (await finished(client, document))["status"] == "succeeded"


async def test_a_generation_that_is_over_is_forgotten_with_its_image(
    client_of_either: httpx2.AsyncClient, gemini: Emulator
) -> None:
    client = client_of_either
    document = await drawn(client)
    path = f"/generations/{document['id']}"

    deleted = await client.delete(path)

    assert deleted.status_code == 204
    gone = [await client.get(path), await client.get(document["links"]["image"]), await client.delete(path)]
    assert {(one.status_code, one.json()["code"]) for one in gone} == {(404, "generation_not_found")}
