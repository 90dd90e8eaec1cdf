"""More requests than slots, and a graceful shutdown."""

import asyncio
import base64
import signal
import sqlite3
import time
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import closing
from pathlib import Path

import httpx2
import pytest

from app.domain.errors import Overloaded
from app.emulator import Emulator, Fault
from app.lib.byte_budget import ByteBudget, Reservation
from app.service.resilience.admission import AdmissionController
from tests.conftest import Serve, image_file, metric, soon, wait_for_calls
from tests.held_storage import until
from tests.processes import process

ASK = {"prompt": "A lighthouse", "imageSize": "1K"}
JPEG = image_file("JPEG", (1024, 1024), "navy")
IMAGE = base64.b64encode(JPEG).decode()


# Admission control and the byte budget.


async def test_slots_are_shared_fairly_between_callers() -> None:
    admission, order = AdmissionController(1, 100, 60), list[str]()

    async def work(caller: str) -> None:
        async with admission.admit(caller).slot():
            order.append(caller)
            await asyncio.sleep(0.001)

    await asyncio.gather(*(work(caller) for caller in "aaaaaabbc"))

    assert order == list("aabcabaaa") or order[1:5] == list("abca"), order
    assert admission.in_flight == admission.queued == 0


async def test_a_full_queue_drops_a_request_of_the_caller_with_the_most() -> None:
    admission, served = AdmissionController(1, 4, 60), list[str]()

    async def work(caller: str) -> None:
        async with admission.admit(caller).slot():
            served.append(caller)
            await asyncio.sleep(0.01)

    greedy = [asyncio.create_task(work("a")) for _ in range(5)]
    await asyncio.sleep(0)
    with pytest.raises(Overloaded):
        admission.check_capacity("a")
    admission.check_capacity("b")
    modest = asyncio.create_task(work("b"))
    await asyncio.gather(modest, *greedy, return_exceptions=True)

    assert served == list("aabaa") or served == list("abaaa"), served
    assert sum(isinstance(one.exception(), Overloaded) for one in greedy) == 1
    assert admission.in_flight == admission.queued == 0


async def test_a_request_that_would_wait_too_long_is_rejected_at_once() -> None:
    """
    The wait is estimated from recent generations. `Retry-After` has the estimate.
    """
    admission = AdmissionController(1, 100, 1)
    async with admission.admit("a").slot():
        await asyncio.sleep(0.6)

    async def work() -> None:
        async with admission.admit("a").slot():
            await asyncio.sleep(0.6)

    running = [asyncio.create_task(work()) for _ in range(2)]
    await asyncio.sleep(0.01)
    began = time.perf_counter()
    with pytest.raises(Overloaded) as refused:
        admission.check_capacity("c")

    assert time.perf_counter() - began < 0.6, "the time of one generation"
    assert refused.value.retry_after == 2
    await asyncio.gather(*running)


async def test_a_full_queue_and_a_queue_timeout_are_overload() -> None:
    admission = AdmissionController(1, 1, 0.05)
    async with admission.admit("a").slot():
        waiting = asyncio.create_task(admission.admit("b").slot().__aenter__())
        await asyncio.sleep(0)
        with pytest.raises(Overloaded):
            admission.check_capacity("c")
        with pytest.raises(Overloaded, match=r"0\.05"):
            await waiting

    assert admission.in_flight == admission.queued == 0


async def test_cancelled_waiters_lose_no_slot() -> None:
    """
    This holds even if a waiter is cancelled at the moment in which it gets its slot.
    """
    admission = AdmissionController(1, 100, 60)

    async def work() -> None:
        async with admission.admit("a").slot():
            await asyncio.sleep(0)

    for _ in range(200):
        first, second, third = (asyncio.create_task(work()) for _ in range(3))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        second.cancel()
        await asyncio.gather(first, second, third, return_exceptions=True)

    assert admission.in_flight == admission.queued == 0


async def test_the_byte_budget_is_granted_in_order_and_released() -> None:
    budget = ByteBudget(100)
    one, two, three = Reservation(budget), Reservation(budget), Reservation(budget)
    await one.acquire(80)
    waiting = [asyncio.create_task(two.acquire(50)), asyncio.create_task(three.acquire(10))]
    await asyncio.sleep(0)
    assert budget.used == 80
    assert not budget.fits(1), "a new request must not overtake a waiting one"

    one.resize(20)
    await asyncio.gather(*waiting)

    assert budget.used == 80
    for reservation in (one, two, three):
        reservation.resize(0)
    assert budget.used == 0
    await one.acquire(1000)  # alone, anything fits
    cancelled = asyncio.create_task(two.acquire(1))
    await asyncio.sleep(0)
    cancelled.cancel()
    await asyncio.gather(cancelled, return_exceptions=True)
    one.resize(0)
    assert budget.used == 0


# The service under overload.


async def test_rejections_and_health_checks_are_fast_under_overload(serve: Serve, gemini: Emulator) -> None:
    """
    They wait for no slot.
    """
    gemini.faults.append(Fault(times=1000, image_base64=IMAGE))
    gemini.hold()
    async with serve(max_in_flight=4, max_queued=4) as client:
        asking = [asyncio.create_task(client.post("/generate-image", json=ASK)) for _ in range(30)]
        await until(lambda: sum(one.done() for one in asking) == 22)
        refused = [one.result() for one in asking if one.done()]
        health = await client.get("/healthz")
        gemini.release()
        answers = await asyncio.gather(*asking)

    assert Counter(one.status_code for one in answers) == {200: 8, 503: 22}
    assert {(one.status_code, one.json()["code"]) for one in refused} == {(503, "overloaded")}
    assert all(int(one.headers["retry-after"]) >= 1 for one in refused)
    assert health.status_code == 200
    assert len(gemini.calls) == 8


async def test_uploads_above_the_memory_budget_are_rejected_unread(serve: Serve, gemini: Emulator) -> None:
    """
    A single upload may have any size. A second one that does not fit beside it is rejected.
    """
    gemini.faults.append(Fault(image_base64=IMAGE))
    gemini.hold()
    large = image_file(size=(900, 900), compress_level=0)
    async with serve(max_buffered_bytes=4_000_000) as client:
        upload = {"data": {"prompt": "x", "imageSize": "1K"}, "files": [("images", ("a.png", large))]}
        first = asyncio.create_task(client.post("/generate-image/with-references", **upload))  # type: ignore[arg-type]
        await wait_for_calls(gemini)
        second = await client.post("/generate-image/with-references", **upload)  # type: ignore[arg-type]
        small = asyncio.create_task(client.post("/generate-image", json=ASK))
        await wait_for_calls(gemini, 2)
        gemini.release()
        assert (await first).status_code == 200
        third = await client.post("/generate-image/with-references", **upload)  # type: ignore[arg-type]

    assert (second.status_code, second.json()["code"]) == (503, "overloaded")
    assert ((await small).status_code, third.status_code) == (200, 200)


async def test_references_of_a_stream_stay_in_memory_during_the_generation(serve: Serve, gemini: Emulator) -> None:
    gemini.faults.append(Fault(image_base64=IMAGE))
    gemini.hold()
    files = [("images", ("a.png", image_file(size=(300, 300), compress_level=0)))]
    async with serve() as client:
        asking = asyncio.create_task(
            client.post(
                "/generate-image/with-references",
                data={"prompt": "x", "imageSize": "1K"},
                files=files,
                headers={"Accept": "text/event-stream"},
            )
        )
        await wait_for_calls(gemini)
        drawing = await metric(client, 'gemini_images_buffered_bytes{kind="uploads"}')
        gemini.release()
        await asking

        assert drawing > 0
        assert await soon(client, 'gemini_images_buffered_bytes{kind="uploads"}', 0, seconds=10)


async def test_responses_wait_for_memory_and_all_arrive(serve: Serve, gemini: Emulator) -> None:
    gemini.faults.append(Fault(times=100, image_base64=IMAGE))
    async with serve(max_buffered_bytes=2_200_000) as client:
        answers = await asyncio.gather(*(client.post("/generate-image", json=ASK) for _ in range(20)))
        metrics = (await client.get("/metrics")).text

    assert {one.status_code for one in answers} == {200}
    assert 'gemini_images_buffered_bytes{kind="responses"} 0.0' in metrics


# Shutdown.


async def late_body(client: httpx2.AsyncClient, gemini: Emulator, path: str, accept: str) -> httpx2.Response:
    """Send a request whose body ends only after another request has taken the only slot."""
    gemini.hold()

    async def body() -> AsyncGenerator[bytes]:
        yield b'{"prompt": "A lighthouse",'
        await asyncio.sleep(0.3)  # the service has checked its capacity meanwhile
        other = asyncio.create_task(client.post("/generate-image", json=ASK))
        others.append(other)
        await wait_for_calls(gemini)
        yield b'"imageSize": "1K"}'

    others: list[asyncio.Task[httpx2.Response]] = []
    headers = {"Accept": accept, "Content-Type": "application/json"}
    response = await client.post(path, content=body(), headers=headers)
    gemini.release()
    assert (await others[0]).status_code == 200
    return response


async def test_a_stream_is_rejected_with_a_plain_problem_when_the_last_slot_was_taken_during_its_upload(
    serve: Serve, gemini: Emulator
) -> None:
    gemini.faults.append(Fault(image_base64=IMAGE))
    async with serve(max_in_flight=1, max_queued=0) as client:
        response = await late_body(client, gemini, "/generate-image", "text/event-stream")
        metrics = (await client.get("/metrics")).text

    assert (response.status_code, response.json()["code"]) == (503, "overloaded")
    assert response.headers["content-type"] == "application/problem+json"
    assert 'gemini_images_rejections_total{code="overloaded"} 1.0' in metrics
    assert "gemini_images_in_flight 0.0" in metrics
    assert len(gemini.calls) == 1


@pytest.mark.parametrize("accept", ["application/json", "text/event-stream"])
async def test_no_empty_chat_is_left_when_the_first_turn_is_rejected_for_capacity(
    serve: Serve, gemini: Emulator, tmp_path: Path, accept: str
) -> None:
    gemini.faults.append(Fault(image_base64=IMAGE))
    async with serve(max_in_flight=1, max_queued=0, data_dir=tmp_path) as client:
        response = await late_body(client, gemini, "/chats", accept)
        chats = (await client.get("/chats")).json()["chats"]

    assert (response.status_code, response.json()["code"]) == (503, "overloaded")
    assert chats == []
    assert len(gemini.calls) == 1


async def test_a_slot_that_was_never_used_is_released() -> None:
    admission = AdmissionController(1, 2, 60)
    first, second = admission.admit("a"), admission.admit("b")
    assert (admission.in_flight, admission.queued) == (1, 1)

    first.release()
    first.release()
    assert (admission.in_flight, admission.queued) == (1, 0)
    async with second.slot():
        third = admission.admit("c")
        third.release()
        assert (admission.in_flight, admission.queued) == (1, 0)

    assert (admission.in_flight, admission.queued) == (0, 0)


async def test_a_request_that_is_rejected_at_once_is_counted(serve: Serve, gemini: Emulator) -> None:
    gemini.hold()
    async with serve(max_in_flight=1, max_queued=0) as client:
        asking = asyncio.create_task(client.post("/generate-image", json=ASK))
        await wait_for_calls(gemini)
        refused = await client.post("/generate-image", json=ASK)
        gemini.release()
        await asking
        metrics = (await client.get("/metrics")).text

    assert refused.status_code == 503
    assert 'gemini_images_rejections_total{code="overloaded"} 1.0' in metrics


async def test_requests_in_flight_are_finished_before_the_process_exits(gemini: Emulator, gemini_url: str) -> None:
    """
    60 generations run when SIGTERM arrives. All 60 are delivered, readiness fails at once, and new requests are
    rejected. The process exits with 0 as soon as the slowest is done.
    """
    gemini.faults.append(Fault(times=60, image_base64=IMAGE))
    gemini.hold()
    async with process(gemini_url) as (service, url), httpx2.AsyncClient(base_url=url, timeout=30) as client:
        idle = httpx2.AsyncClient(base_url=url, timeout=30)
        assert (await idle.get("/readyz")).status_code == 200
        asked = [asyncio.create_task(client.post("/generate-image", json=ASK)) for _ in range(60)]
        await until(lambda: not gemini.faults)
        assert await metric(idle, "gemini_images_in_flight") == 60
        service.send_signal(signal.SIGTERM)
        async with asyncio.timeout(10):
            while (await idle.get("/readyz")).status_code == 200:  # noqa: ASYNC110 - a signal has no event
                await asyncio.sleep(0.005)
        ready, refused = await idle.get("/readyz"), await idle.post("/generate-image", json=ASK)
        began = time.perf_counter()
        gemini.release()
        answers = await asyncio.gather(*asked)
        await idle.aclose()
        code = await asyncio.wait_for(service.wait(), 10)
        took = time.perf_counter() - began

    assert (ready.status_code, refused.status_code, refused.json()["code"]) == (503, 503, "overloaded")
    assert [one.status_code for one in answers] == [200] * 60
    assert {base64.b64decode(one.json()["image"]["data"]) for one in answers} == {JPEG}
    assert code == 0
    assert took < 10, "far less than the grace period"


async def test_requests_that_exceed_the_shutdown_grace_get_a_problem(gemini: Emulator, gemini_url: str) -> None:
    gemini.faults.append(Fault(times=2, delay_seconds=30))
    async with (
        process(gemini_url, shutdown_grace_seconds=0.5) as (service, url),
        httpx2.AsyncClient(base_url=url, timeout=30) as client,
    ):
        plain = asyncio.create_task(client.post("/generate-image", json=ASK))
        streamed = asyncio.create_task(
            client.post("/generate-image", json=ASK, headers={"Accept": "text/event-stream"})
        )
        await wait_for_calls(gemini, 2)
        service.send_signal(signal.SIGTERM)
        answers = await asyncio.gather(plain, streamed)
        code = await asyncio.wait_for(service.wait(), 10)

    assert (answers[0].status_code, answers[0].json()["code"]) == (503, "overloaded")
    assert b"event: problem" in answers[1].content
    assert code == 0


@pytest.mark.slow
async def test_a_turn_that_waits_for_the_database_does_not_begin_after_the_shutdown_grace(
    gemini: Emulator, gemini_url: str, tmp_path: Path
) -> None:
    """
    The request has a slot when SIGTERM arrives, and its chat is created only after the grace period.
    """
    async with (
        process(gemini_url, shutdown_grace_seconds=0.3, data_dir=tmp_path) as (service, url),
        httpx2.AsyncClient(base_url=url, timeout=30) as client,
    ):
        assert (await client.post("/chats", json={})).status_code == 201
        with closing(sqlite3.connect(tmp_path / "chats.db", isolation_level=None)) as other:
            other.execute("BEGIN EXCLUSIVE")
            asking = asyncio.create_task(client.post("/chats", json=ASK))
            await asyncio.sleep(0.5)
            service.send_signal(signal.SIGTERM)
            await asyncio.sleep(2)
            other.rollback()
        response = await asking
        await asyncio.wait_for(service.wait(), 10)

    assert (response.status_code, response.json()["code"]) == (503, "overloaded")
    assert "x-should-retry" not in response.headers
    assert not gemini.calls


async def test_an_unfinished_upload_does_not_delay_the_exit(gemini_url: str) -> None:
    async with process(gemini_url) as (service, url):
        parsed = httpx2.URL(url)
        reader, writer = await asyncio.open_connection(parsed.host, parsed.port)
        writer.write(b"POST /generate-image HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n")
        writer.write(b"Content-Length: 400\r\n\r\n{")
        await asyncio.sleep(0.3)
        began = time.perf_counter()
        service.send_signal(signal.SIGTERM)
        answer = await asyncio.wait_for(reader.read(), 10)
        writer.close()
        code = await asyncio.wait_for(service.wait(), 10)

    assert answer.startswith(b"HTTP/1.1 503")
    assert b'"overloaded"' in answer
    assert code == 0
    assert time.perf_counter() - began < 10, "far less than the upload timeout"


async def test_a_second_signal_ends_the_process_at_once(gemini: Emulator, gemini_url: str) -> None:
    gemini.faults.append(Fault(delay_seconds=30))
    async with process(gemini_url) as (service, url), httpx2.AsyncClient(base_url=url, timeout=30) as client:
        asked = asyncio.create_task(client.post("/generate-image", json=ASK))
        await wait_for_calls(gemini)
        service.send_signal(signal.SIGTERM)
        await asyncio.sleep(0.3)
        began = time.perf_counter()
        service.send_signal(signal.SIGTERM)
        await asyncio.wait_for(service.wait(), 10)
        answer = await asked

    assert time.perf_counter() - began < 10, "far less than Gemini's 30 s"
    assert (answer.status_code, answer.json()["code"]) == (503, "overloaded")
