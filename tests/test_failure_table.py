"""Each row of tests/failure_table.py, and cases that do not fit in the table."""

import asyncio
import base64
import json
import re
import sys
import time
from dataclasses import replace
from email.utils import formatdate
from pathlib import Path
from typing import Any

import httpx2
import pytest
import trustme

from app.emulator import Emulator, Fault
from tests import failure_table
from tests.conftest import Serve, noise_jpeg, wait_for_calls
from tests.failure_table import TABLE, FailureCase
from tests.held_storage import until
from tests.test_event_stream import read
from tests.tls import served_with_tls

ASK = {"prompt": "A lighthouse", "imageSize": "1K"}
BUSY = Fault(status=503, times=99)


@pytest.mark.parametrize("row", [row for row in TABLE if not row.streamed], ids=lambda row: row.what)
async def test_each_row_of_the_table_is_true(client: httpx2.AsyncClient, gemini: Emulator, row: FailureCase) -> None:
    if row.fault is not None:
        gemini.faults.append(row.fault)
    after = len(gemini.calls)

    response = await client.post("/generate-image", json=ASK, headers=row.headers)

    document = response.json()
    assert (response.status_code, document.get("code", "ok")) == (row.status, row.code), response.text[:500]
    assert len(gemini.calls) - after == row.calls
    assert response.headers["x-upstream-attempts"] == str(row.calls)
    assert response.headers.get("retry-after") == row.retry_after
    if row.code == "ok":
        assert any("attempts" in warning for warning in document["warnings"]) == (row.calls > 1)


@pytest.mark.parametrize("row", [row for row in TABLE if row.streamed], ids=lambda row: row.what)
async def test_each_row_of_the_table_is_true_for_streams(
    client: httpx2.AsyncClient, gemini: Emulator, row: FailureCase
) -> None:
    assert row.fault is not None
    gemini.faults.append(row.fault)

    async with client.stream("POST", "/generate-image", json=ASK, headers=row.headers) as response:
        found = {name: said async for name, said in read(response)}

    said = found["image"] if row.code == "ok" else found["problem"]
    assert (said.get("status", 200), said.get("code", "ok")) == (row.status, row.code)
    assert len(gemini.calls) == row.calls
    assert said.get("retryAfter") == (int(row.retry_after) if row.retry_after else None)
    if row.code == "ok":
        assert any("attempts" in warning for warning in said["warnings"]) == (row.calls > 1)


@pytest.mark.parametrize(
    "row", [row for row in TABLE if row.code != "ok" and not row.streamed], ids=lambda row: row.what
)
async def test_clients_do_not_retry_what_may_have_been_paid(
    client: httpx2.AsyncClient, gemini: Emulator, row: FailureCase
) -> None:
    """
    The SDKs of OpenAI and Vercel retry 408, 409, 429 and 5xx. A refusal has none of these statuses. A failure that may
    have been paid carries `X-Should-Retry: false`.
    """
    assert row.fault is not None
    gemini.faults.append(row.fault)

    response = await client.post("/generate-image", json=ASK, headers=row.headers)

    if row.billed == failure_table.REFUSED:
        assert response.status_code == 422
    if (usage := response.json().get("usage")) is not None:
        assert (usage["estimatedCostUsd"] == 0) == (row.billed == failure_table.NOTHING)
    if row.billed not in (failure_table.NOTHING,) and response.status_code != 422 and response.status_code != 504:
        assert response.headers["x-should-retry"] == "false"


def test_the_failures_page_follows_the_table() -> None:
    """
    `python -m tests.failure_table > docs/failures.md` writes the page.
    """
    assert Path("docs/failures.md").read_text() == failure_table.page()


# Deadlines.


@pytest.mark.parametrize("headers", [{"X-Timeout-Seconds": "1"}, {"Prefer": "wait=1"}])
async def test_a_caller_can_set_a_time_limit(
    client: httpx2.AsyncClient, gemini: Emulator, headers: dict[str, str]
) -> None:
    gemini.faults.append(Fault(delay_seconds=30))
    began = time.perf_counter()

    response = await client.post("/generate-image", json=ASK, headers=headers)

    assert (response.status_code, response.json()["code"]) == (504, "upstream_timeout")
    assert response.json()["waitedFor"] == "first_byte"
    assert time.perf_counter() - began < 10, "far less than Gemini's 30 s"
    assert int(gemini.calls[-1].headers["x-server-timeout"]) <= 1


async def test_a_time_limit_that_is_not_a_number_is_rejected(client: httpx2.AsyncClient) -> None:
    response = await client.post("/generate-image", json=ASK, headers={"X-Timeout-Seconds": "soon"})

    assert response.status_code == 422
    assert response.json()["errors"][0]["field"] == "x-timeout-seconds"


async def test_a_retry_after_the_deadline_is_not_made(serve: Serve, gemini: Emulator) -> None:
    gemini.faults.append(Fault(status=503, headers={"Retry-After": "50"}))
    async with serve() as client:
        began = time.perf_counter()
        response = await client.post("/generate-image", json=ASK, headers={"X-Timeout-Seconds": "20"})

    assert (response.status_code, response.headers["retry-after"]) == (503, "50")
    assert time.perf_counter() - began < 10, "far less than the time limit of 20 s"
    assert len(gemini.calls) == 1


async def test_retry_after_can_be_a_date(client: httpx2.AsyncClient, gemini: Emulator) -> None:
    gemini.faults.append(Fault(status=503, headers={"Retry-After": formatdate(time.time() + 90, usegmt=True)}))

    response = await client.post("/generate-image", json=ASK)

    assert response.status_code == 503
    assert 85 <= int(response.headers["retry-after"]) <= 91


async def test_a_retry_waits_as_long_as_gemini_says(client: httpx2.AsyncClient, gemini: Emulator) -> None:
    gemini.faults.append(Fault(status=503, headers={"Retry-After": "1"}))
    began = time.perf_counter()

    response = await client.post("/generate-image", json=ASK)

    assert response.status_code == 200
    assert time.perf_counter() - began >= 1


@pytest.mark.parametrize(
    ("setting", "fault", "waited_for"),
    [
        ("upstream_first_byte_seconds", Fault(delay_seconds=30), "first_byte"),
        ("upstream_stall_seconds", Fault(stall_seconds=30), "transfer"),
    ],
)
async def test_the_first_byte_and_pauses_have_time_limits(
    serve: Serve, gemini: Emulator, setting: str, fault: Fault, waited_for: str
) -> None:
    gemini.faults.append(fault)
    async with serve(**{setting: 0.3}) as client:
        response = await asyncio.wait_for(client.post("/generate-image", json=ASK), 10)

    assert (response.status_code, response.json()["waitedFor"]) == (504, waited_for)


async def test_the_stall_limit_applies_within_an_event_and_not_between_events(serve: Serve, gemini: Emulator) -> None:
    """
    Gemini may compute for long between a thought and the image, but not in the middle of the image.
    """
    image = base64.b64encode(noise_jpeg(1, 6_000)).decode()
    parts = [{"text": "Hm.", "thought": True}], [{"inlineData": {"mimeType": "image/jpeg", "data": image}}]
    thought, drawn = (
        f"data: {json.dumps({'candidates': [{'content': {'parts': one}, 'finishReason': reason}]})}\n\n"
        for one, reason in zip(parts, (None, "STOP"), strict=True)
    )
    comment = ":" + " " * (len(drawn) - len(thought) - 3) + "\n\n"
    stream = {"Content-Type": "text/event-stream"}
    between = Fault(body=comment + thought + drawn, headers=stream, stall_seconds=1.5)  # half of it, then a pause
    within = Fault(body=thought + drawn, headers=stream, stall_seconds=20)

    async with serve(upstream_stall_seconds=0.5) as client:
        found = []
        for fault in (between, within):
            gemini.faults.append(fault)
            async with client.stream(
                "POST", "/generate-image", json=ASK, headers={"Accept": "text/event-stream"}
            ) as response:
                found.append({name: said async for name, said in read(response)})

    assert "image" in found[0]
    assert (found[1]["problem"]["code"], found[1]["problem"]["waitedFor"]) == ("upstream_timeout", "transfer")


# Failed connections.


async def test_a_refused_connection_is_tried_three_times(serve: Serve) -> None:
    async with serve(google_gemini_base_url="http://127.0.0.1:1") as client:
        response = await client.post("/generate-image", json=ASK)

    assert (response.status_code, response.json()["code"]) == (502, "upstream_error")
    assert response.headers["x-upstream-attempts"] == "3"


async def test_an_unknown_host_is_an_upstream_error(serve: Serve) -> None:
    async with serve(google_gemini_base_url="http://gemini.invalid", deadline_seconds=5) as client:
        response = await asyncio.wait_for(client.post("/generate-image", json=ASK), 8)

    assert response.status_code in (502, 504)


async def test_an_untrusted_certificate_is_not_retried(serve: Serve, gemini: Emulator) -> None:
    async with served_with_tls(gemini, trustme.CA()) as url, serve(google_gemini_base_url=url) as client:
        response = await client.post("/generate-image", json=ASK)

    assert (response.status_code, response.json()["code"]) == (502, "upstream_error")
    assert response.headers["x-upstream-attempts"] == "1"


# Fallback models.


async def test_the_fallback_model_is_called_when_the_model_is_out_of_capacity(
    client: httpx2.AsyncClient, gemini: Emulator
) -> None:
    gemini.faults.append(replace(BUSY, times=2))
    body = ASK | {"fallbackModel": "nano-banana-2.1", "thinkingLevel": "high"}

    response = await client.post("/generate-image", json=body)

    assert response.status_code == 200, response.text
    assert response.json()["model"] == "gemini-nano-banana-2.1"
    assert (
        "gemini-3-pro-image is out of capacity; gemini-nano-banana-2.1 answered instead."
        in (response.json()["warnings"])
    )
    assert [call.model for call in gemini.calls] == ["gemini-3-pro-image"] * 2 + ["gemini-nano-banana-2.1"]
    assert response.headers["x-upstream-attempts"] == "3"


async def test_a_request_is_adapted_to_the_fallback_model(serve: Serve, gemini: Emulator) -> None:
    """
    The image size becomes the largest that the fallback supports below the requested one. Unsupported thinking levels
    are left out.
    """
    gemini.faults.append(replace(BUSY, times=2))
    body = {"prompt": "x", "model": "gemini-nano-banana-2.1", "imageSize": "4K", "thinkingLevel": "medium"}
    async with serve(fallback_model="gemini-3.1-flash-lite-image") as client:
        response = await client.post("/generate-image", json=body)

    assert response.status_code == 200, response.text
    config = gemini.calls[-1].body["generationConfig"]
    assert config["imageConfig"]["imageSize"] == "1K"
    assert "thinkingConfig" not in config
    assert any("1K" in warning for warning in response.json()["warnings"])


@pytest.mark.parametrize(
    "body",
    [
        {"googleSearch": True, "fallbackModel": "gemini-3.1-flash-lite-image"},
        {"aspectRatio": "8:1", "model": "nano-banana-2.1", "fallbackModel": "gemini-3-pro-image"},
        {"fallbackModel": "gemini-3-pro-image"},
        {"fallbackModel": "nano-banana-pro"},
    ],
)
async def test_an_unsuitable_fallback_model_is_not_called(
    client: httpx2.AsyncClient, gemini: Emulator, body: dict[str, Any]
) -> None:
    gemini.faults.append(BUSY)

    response = await client.post("/generate-image", json={"prompt": "x", **body})

    assert (response.status_code, response.json()["code"]) == (503, "upstream_busy")
    assert len(gemini.calls) == 3


async def test_a_refusal_does_not_lead_to_a_fallback(client: httpx2.AsyncClient, gemini: Emulator) -> None:
    gemini.faults.append(Fault(finish_reason="IMAGE_SAFETY"))

    response = await client.post("/generate-image", json=ASK | {"fallbackModel": "nano-banana-2.1"})

    assert response.status_code == 422
    assert len(gemini.calls) == 1


@pytest.mark.parametrize(
    ("most", "calls"),
    [(1, ["pro"]), (2, ["pro", "2.1"]), (3, ["pro", "pro", "2.1"]), (5, ["pro", "pro", "pro", "pro", "2.1"])],
)
async def test_the_number_of_attempts_limits_the_calls_to_all_models_together(
    serve: Serve, gemini: Emulator, most: int, calls: list[str]
) -> None:
    """
    The last attempt is reserved for the fallback model. A single attempt goes to the requested model.
    """
    gemini.faults.append(BUSY)
    async with serve(upstream_attempts=most, fallback_model="nano-banana-2.1") as client:
        response = await client.post("/generate-image", json=ASK)

    assert response.status_code == 503
    assert [{"gemini-3-pro-image": "pro"}.get(call.model, "2.1") for call in gemini.calls] == calls
    assert response.headers["x-upstream-attempts"] == str(most)


async def test_a_fallback_may_use_all_attempts_that_are_left(client: httpx2.AsyncClient, gemini: Emulator) -> None:
    """
    A daily quota is not retried, so two attempts are left for the fallback model.
    """
    quota = Fault(status=429, message="You exceeded your current quota. limit: 0")
    gemini.faults.extend([quota, replace(BUSY, times=9)])

    response = await client.post("/generate-image", json=ASK | {"fallbackModel": "nano-banana-2.1"})

    assert response.status_code == 503
    assert [call.model for call in gemini.calls] == ["gemini-3-pro-image"] + ["gemini-nano-banana-2.1"] * 2


async def test_all_attempts_go_to_the_model_if_a_fallback_cannot_help(
    client: httpx2.AsyncClient, gemini: Emulator
) -> None:
    gemini.faults.append(Fault(status=500, times=9))

    response = await client.post("/generate-image", json=ASK | {"fallbackModel": "nano-banana-2.1"})

    assert response.status_code == 502
    assert [call.model for call in gemini.calls] == ["gemini-3-pro-image"] * 3


@pytest.mark.parametrize(("most", "status"), [(1, 502), (2, 200), (3, 200)])
async def test_repeating_a_turn_without_signatures_counts_as_an_attempt(
    serve: Serve, gemini: Emulator, tmp_path: Path, most: int, status: int
) -> None:
    """
    The first call has signatures, and Gemini rejects them. The second call has none.
    """
    async with serve(upstream_attempts=most, data_dir=tmp_path, fallback_model="nano-banana-2.1") as client:
        chat = (await client.post("/chats", json=ASK)).headers["location"]
        gemini.clear()
        gemini.faults.extend([Fault(status=400, message="Thought signature is not valid."), Fault(), BUSY])
        response = await client.post(f"{chat}/turns", json={"prompt": "Larger"})
        made = len(gemini.calls)
        gemini.clear()
        gemini.faults.extend([Fault(status=400, message="Thought signature is not valid."), BUSY])
        busy = await client.post(f"{chat}/turns", json={"prompt": "Larger", "model": "gemini-3-pro-image"})

    assert (response.status_code, made) == (status, min(most, 2))
    assert busy.status_code in (502, 503)
    assert len(gemini.calls) == most


# The circuit breaker and the retry budget.


async def test_the_circuit_opens_after_failures_and_a_single_trial_call_closes_it(
    serve: Serve, gemini: Emulator
) -> None:
    gemini.faults.append(replace(BUSY, times=4))
    async with serve(circuit_breaker_failures=4, circuit_breaker_open_seconds=1, upstream_attempts=2) as client:
        failed = [await client.post("/generate-image", json=ASK) for _ in range(3)]
        while_open = len(gemini.calls)
        instead = await client.post("/generate-image", json=ASK | {"fallbackModel": "nano-banana-2.1"})
        metrics = (await client.get("/metrics")).text
        await asyncio.sleep(1.1)
        gemini.faults.append(replace(BUSY, times=1))
        probe_failed = await client.post("/generate-image", json=ASK)
        await asyncio.sleep(1.1)
        gemini.hold()
        asking = [asyncio.create_task(client.post("/generate-image", json=ASK)) for _ in range(4)]
        await until(lambda: sum(one.done() for one in asking) == 3)
        gemini.release()
        probes = await asyncio.gather(*asking)
        after = await client.post("/generate-image", json=ASK)

    assert [one.status_code for one in failed] == [503] * 3
    assert while_open == 4
    assert failed[2].headers["retry-after"] == "1"
    assert "x-upstream-attempts" not in failed[2].headers
    assert instead.json()["model"] == "gemini-nano-banana-2.1"
    assert 'gemini_images_circuit_breaker_open{model="gemini-3-pro-image"} 1.0' in metrics
    assert probe_failed.status_code == 503
    assert sorted(one.status_code for one in probes) == [200, 503, 503, 503]
    assert after.status_code == 200


async def test_the_retry_budget_limits_retries_when_everything_fails(serve: Serve, gemini: Emulator) -> None:
    """
    One call in five is retried, instead of every call twice.
    """
    gemini.faults.append(Fault(status=503, times=1000))
    before = len(gemini.calls)
    async with serve(retry_budget=0.2) as client:
        for _ in range(3):
            await asyncio.gather(*(client.post("/generate-image", json=ASK) for _ in range(50)))
        metrics = (await client.get("/metrics")).text

    made = _value(metrics, 'gemini_images_upstream_attempts_total{model="gemini-3-pro-image"}')
    assert before == 0
    assert 150 < made <= 150 * 1.2 + 1


def _value(metrics: str, name: str) -> float:
    return float(next(line for line in metrics.splitlines() if line.startswith(name)).split()[-1])


async def test_short_time_limits_of_callers_do_not_open_the_circuit(serve: Serve, gemini: Emulator) -> None:
    """
    Otherwise one caller could block the model for all other callers.
    """
    gemini.hold()
    async with serve(circuit_breaker_failures=3) as client:
        impatient = [client.post("/generate-image", json=ASK, headers={"X-Timeout-Seconds": "1"}) for _ in range(6)]
        late = await asyncio.gather(*impatient)
        calls = len(gemini.calls)
        gemini.release()
        response = await client.post("/generate-image", json=ASK)

    assert calls == 6
    assert {one.status_code for one in late} == {504}
    assert {one.headers["x-should-retry"] for one in late} == {"false"}
    assert response.status_code == 200


async def test_the_deadline_applies_in_the_queue(serve: Serve, gemini: Emulator) -> None:
    gemini.hold()
    async with serve(max_in_flight=1) as client:
        first = asyncio.create_task(client.post("/generate-image", json=ASK))
        await wait_for_calls(gemini)
        second = await client.post("/generate-image", json=ASK, headers={"X-Timeout-Seconds": "0.4"})
        first.cancel()

    assert (second.status_code, second.json()["waitedFor"]) == (504, "queue")
    assert "x-should-retry" not in second.headers
    assert len(gemini.calls) == 1


async def test_a_retry_delay_in_milliseconds_is_understood(client: httpx2.AsyncClient, gemini: Emulator) -> None:
    gemini.faults.append(Fault(status=429, message="You exceeded your current quota. Please retry in 500ms."))

    response = await client.post("/generate-image", json=ASK)

    assert response.status_code == 200
    assert len(gemini.calls) == 2


async def test_an_unknown_fallback_model_does_not_change_the_problem(serve: Serve, gemini: Emulator) -> None:
    gemini.faults.extend([replace(BUSY, times=2), Fault(status=404)])
    async with serve(fallback_model="gemini-typo-image") as client:
        response = await client.post("/generate-image", json=ASK)

    assert (response.status_code, response.json()["code"]) == (503, "upstream_busy")


async def test_a_second_ambiguous_failure_is_not_retried_on_another_model(serve: Serve, gemini: Emulator) -> None:
    """
    A fourth call would be allowed, but two may have been billed already.
    """
    reset, not_soon = Fault(reset="in_body"), replace(BUSY, times=1, headers={"Retry-After": "77"})
    gemini.faults.extend([reset, not_soon, reset])
    async with serve(upstream_attempts=4) as client:
        response = await client.post("/generate-image", json=ASK | {"fallbackModel": "nano-banana-2.1"})

    assert (response.status_code, response.json()["code"]) == (502, "upstream_error")
    assert len(gemini.calls) == 3


async def test_a_call_that_may_have_been_billed_discourages_a_retry_after_later_calls_that_cost_nothing(
    serve: Serve, gemini: Emulator
) -> None:
    gemini.faults.extend([Fault(reset="in_body"), replace(BUSY, times=2)])
    async with serve() as client:
        response = await client.post("/generate-image", json=ASK)

    assert (response.status_code, response.json()["code"]) == (503, "upstream_busy")
    assert response.headers["x-upstream-attempts"] == "3"
    assert response.headers["x-should-retry"] == "false"


# Metrics, logs and traces.


async def test_metrics_count_outcomes_and_costs(serve: Serve, gemini: Emulator) -> None:
    refused = Fault(finish_reason="IMAGE_SAFETY", finish_message="Unable to show the image.")
    gemini.faults.extend([Fault(status=503), Fault(), refused])
    async with serve() as client:
        good = await client.post("/generate-image", json=ASK)
        await client.post("/generate-image", json=ASK)
        metrics = (await client.get("/metrics")).text

    pro = 'model="gemini-3-pro-image"'
    assert _value(metrics, f'gemini_images_generations_total{{{pro},outcome="ok"}}') == 1
    assert _value(metrics, f'gemini_images_generations_total{{{pro},outcome="content_blocked"}}') == 1
    assert _value(metrics, f"gemini_images_upstream_attempts_total{{{pro}}}") == 3
    assert _value(metrics, f"gemini_images_cost_dollars_total{{{pro}}}") > good.json()["usage"]["estimatedCostUsd"]
    assert _value(metrics, 'gemini_images_buffered_bytes{kind="responses"}') == 0
    assert _value(metrics, "gemini_images_in_flight") == 0


async def test_metrics_need_a_key(serve: Serve) -> None:
    async with serve(service_api_keys="web:secret") as client:
        without = await client.get("/metrics")
        with_key = await client.get("/metrics", headers={"X-API-Key": "secret"})
    async with serve(metrics_access="off") as client:
        off = await client.get("/metrics")

    assert [without.status_code, with_key.status_code, off.status_code] == [401, 200, 404]


async def test_each_generation_has_one_log_line_without_its_prompt(
    serve: Serve, gemini: Emulator, capfd: pytest.CaptureFixture[str]
) -> None:
    gemini.faults.append(Fault(status=503))
    async with serve(log_format="json") as client:
        response = await client.post("/generate-image", json={"prompt": "a very secret prompt", "imageSize": "1K"})

    lines = [json.loads(line) for line in capfd.readouterr().err.splitlines() if line.startswith("{")]
    line = next(line for line in lines if line["message"] == "generation")
    assert line["requestId"] == response.headers["x-request-id"]
    assert (line["model"], line["attempts"], line["outcome"]) == ("gemini-3-pro-image", 2, "ok")
    assert {"queueMs", "firstByteMs", "transferMs", "retryMs", "responseMs", "tokens", "costUsd"} <= line.keys()
    assert line["imageBytes"] == len(base64.b64decode(response.json()["image"]["data"]))
    assert "secret" not in json.dumps(lines)


async def test_spans_and_metrics_follow_the_opentelemetry_conventions(serve: Serve, gemini: Emulator) -> None:
    """
    Each attempt has a span below FastAPI's span. Neither contains the prompt.
    """
    from opentelemetry import metrics, trace
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    spans, reader = InMemorySpanExporter(), InMemoryMetricReader()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(spans))
    trace.set_tracer_provider(provider)
    metrics.set_meter_provider(MeterProvider([reader]))
    gemini.faults.append(Fault(status=503))

    async with serve() as client:
        await client.post("/generate-image", json={"prompt": "a very secret prompt", "imageSize": "1K"})

    finished = spans.get_finished_spans()
    attempts = [span for span in finished if span.name == "generate_content gemini-3-pro-image"]
    assert [dict(span.attributes or {}).get("error.type") for span in attempts] == ["upstream_busy", None]
    good = dict(attempts[1].attributes or {})
    assert good["gen_ai.provider.name"] == "gcp.gemini"
    assert good["gen_ai.output.type"] == "image"
    assert good["gen_ai.response.finish_reasons"] == ("STOP",)
    assert int(str(good["gen_ai.usage.output_tokens"])) > 1000
    server = next(span for span in finished if span.parent is None)
    assert {span.context.trace_id for span in attempts} == {server.context.trace_id}
    data = reader.get_metrics_data()
    assert data is not None
    names = {m.name for r in data.resource_metrics for scope in r.scope_metrics for m in scope.metrics}
    assert {"gen_ai.client.token.usage", "gen_ai.client.operation.duration"} <= names
    assert "secret" not in "".join(span.to_json() for span in finished)


async def test_an_upstream_that_is_killed_during_its_response(serve: Serve) -> None:
    """
    After SIGKILL the second attempt cannot connect. The caller is told that.
    """
    emulator = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "app.emulator",
        "--port",
        "0",
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    assert emulator.stdout
    try:
        while b"http://" not in (line := await emulator.stdout.readline()):
            assert line, "the emulator has not started"
        url = re.search(r"http://[\d.:]+", line.decode())
        assert url
        async with httpx2.AsyncClient(base_url=url[0]) as scripting, serve(google_gemini_base_url=url[0]) as client:
            await scripting.post("/emulator/faults", json={"stall_seconds": 20})
            asked = asyncio.create_task(client.post("/generate-image", json=ASK))
            await asyncio.sleep(1)
            emulator.kill()
            response = await asyncio.wait_for(asked, 5)
    finally:
        if emulator.returncode is None:
            emulator.kill()
        await emulator.wait()

    assert (response.status_code, response.json()["code"]) == (502, "upstream_error")
    assert int(response.headers["x-upstream-attempts"]) >= 2
