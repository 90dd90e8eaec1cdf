"""Refusals with status 200, quotas, capacity errors, broken connections: which problem each becomes."""

import asyncio
import base64
import json
import re
from dataclasses import replace
from typing import Any
from urllib.parse import unquote

import httpx2
import pytest

from app.emulator import Emulator, Fault
from tests.conftest import Serve, image_file

LOCAL_REASON = "Unable to show the generated image. Try rephrasing the prompt."


def refusal(reason: str) -> Fault:
    return Fault(finish_reason=reason, finish_message=LOCAL_REASON)


REFUSALS = {
    **{
        reason: (refusal(reason), "content_blocked")
        for reason in (
            "SAFETY", "PROHIBITED_CONTENT", "SPII", "BLOCKLIST", "IMAGE_SAFETY", "IMAGE_PROHIBITED_CONTENT",
            "MODEL_ARMOR",
        )
    },
    **{reason: (refusal(reason), "recitation") for reason in ("RECITATION", "IMAGE_RECITATION")},
    **{
        reason: (refusal(reason), "no_image")
        for reason in ("NO_IMAGE", "IMAGE_OTHER", "OTHER", "LANGUAGE", "MALFORMED_RESPONSE", "SOMETHING_NEW")
    },
    "MAX_TOKENS": (Fault(finish_reason="MAX_TOKENS", shape="text_only"), "no_image"),
}  # fmt: skip


@pytest.mark.parametrize("reason", REFUSALS)
async def test_a_refusal_is_a_422_with_gemini_s_reason(
    client: httpx2.AsyncClient, gemini: Emulator, reason: str
) -> None:
    """
    It has Gemini's own text and the cost. Gemini is called exactly once.
    """
    fault, code = REFUSALS[reason]
    gemini.faults.append(fault)

    response = await client.post("/generate-image", json={"prompt": "something"})

    assert response.status_code == 422
    assert response.headers["content-type"] == "application/problem+json"
    problem = response.json()
    assert problem["code"] == code
    assert problem["finishReason"] == reason
    assert problem["image"] is None
    assert problem["detail"] == problem["error"]
    if fault.finish_message:
        assert problem["detail"] == LOCAL_REASON
    assert problem["usage"]["totalTokens"] > 0
    assert problem["usage"]["estimatedCostUsd"] > 0
    assert len(gemini.calls) == 1


@pytest.mark.parametrize("reason", ["SAFETY", "OTHER", "BLOCKLIST", "PROHIBITED_CONTENT", "IMAGE_SAFETY", "JAILBREAK"])
async def test_a_blocked_prompt_is_content_blocked(client: httpx2.AsyncClient, gemini: Emulator, reason: str) -> None:
    gemini.faults.append(Fault(block_reason=reason))

    response = await client.post("/generate-image", json={"prompt": "something"})

    assert response.status_code == 422
    assert response.json()["code"] == "content_blocked"
    assert response.json()["blockReason"] == reason
    assert len(gemini.calls) == 1


async def test_a_response_with_text_only_is_a_problem_with_the_text(
    client: httpx2.AsyncClient, gemini: Emulator
) -> None:
    gemini.faults.append(Fault(shape="text_only", text="I cannot draw that, but I can describe it."))

    response = await client.post("/generate-image", json={"prompt": "something"})

    assert response.status_code == 422
    problem = response.json()
    assert problem["code"] == "no_image"
    assert problem["text"] == "I cannot draw that, but I can describe it."
    assert problem["finishReason"] == "STOP"
    assert problem["image"] is None
    assert len(gemini.calls) == 1


@pytest.mark.parametrize(
    "fault",
    [
        Fault(shape="empty_candidate"),
        Fault(shape="no_candidates"),
        Fault(body="{}"),
        Fault(body='{"candidates": [{"content": {"parts": null}, "finishReason": "STOP"}]}'),
        Fault(body='{"candidates": [{"content": {"role": "model", "parts": [{"text": ""}]}}]}'),
    ],
)
async def test_an_empty_response_is_the_problem_no_image(
    client: httpx2.AsyncClient, gemini: Emulator, fault: Fault
) -> None:
    gemini.faults.append(fault)

    response = await client.post("/generate-image", json={"prompt": "something"})

    assert (response.status_code, response.json()["code"]) == (422, "no_image")
    assert len(gemini.calls) == 1


async def test_base64_in_a_text_is_not_an_image_and_is_not_forwarded(
    client: httpx2.AsyncClient, gemini: Emulator
) -> None:
    gemini.faults.append(Fault(shape="base64_in_text"))

    response = await client.post("/generate-image", json={"prompt": "something"})

    assert (response.status_code, response.json()["code"]) == (422, "no_image")
    assert len(response.content) < 2000


async def test_the_draft_of_a_refused_image_is_not_returned(client: httpx2.AsyncClient, gemini: Emulator) -> None:
    gemini.faults.append(Fault(shape="image_in_thought", patch={"candidates": {"0": {"finishReason": "IMAGE_SAFETY"}}}))

    response = await client.post("/generate-image", json={"prompt": "something"})

    assert (response.status_code, response.json()["code"]) == (422, "content_blocked")


PER_MINUTE: list[dict[str, Any]] = [
    {
        "@type": "type.googleapis.com/google.rpc.QuotaFailure",
        "violations": [{"quotaId": "GenerateRequestsPerMinutePerProjectPerModel-FreeTier"}],
    },
    {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "34.4s"},
]
PER_DAY: list[dict[str, Any]] = [
    {
        "@type": "type.googleapis.com/google.rpc.QuotaFailure",
        "violations": [{"quotaId": "GenerateRequestsPerDayPerProjectPerModel", "quotaValue": "250"}],
    },
    {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "43424s"},
]
QUOTA = "You exceeded your current quota, please check your plan and billing details."
BAD_KEY: list[dict[str, Any]] = [{"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "API_KEY_INVALID"}]

FAILURES: dict[str, tuple[Fault, int, str, str | None]] = {
    "quota per minute": (Fault(status=429, message=QUOTA, details=PER_MINUTE), 429, "quota_exhausted", "35"),
    "quota per day": (Fault(status=429, message=QUOTA, details=PER_DAY), 429, "quota_exhausted", "43424"),
    "shortage as 429": (
        Fault(status=429, message="Resource has been exhausted (e.g. check quota)."), 503, "upstream_busy", "10",
    ),
    "overloaded": (Fault(status=503, message="The model is overloaded."), 503, "upstream_busy", "10"),
    "overloaded for a while": (Fault(status=503, headers={"Retry-After": "77"}), 503, "upstream_busy", "77"),
    "internal": (Fault(status=500, message="An internal error has occurred."), 502, "upstream_error", None),
    "deadline": (Fault(status=504, message="Deadline expired."), 504, "upstream_timeout", None),
    "quota in words": (
        Fault(status=429, message=f"{QUOTA} Please retry in 4h59m27.7s."), 429, "quota_exhausted", "17968",
    ),
    "endless retry-after": (
        Fault(status=503, headers={"Retry-After": "9" * 5000}), 503, "upstream_busy", "10",
    ),
    "shortage with a header": (
        Fault(status=429, message="Resource exhausted.", headers={"Retry-After": "17"}), 503, "upstream_busy", "17",
    ),
    "nested without end": (Fault(status=500, body="[" * 100_000), 502, "upstream_invalid_response", None),
    "another charset": (
        Fault(body="odd", headers={"Content-Type": "application/json; charset=utf-16"}),
        502, "upstream_invalid_response", None,
    ),
    "too large": (
        Fault(status=400, message="Request payload size exceeds the limit: 104857600 bytes."), 413, "too_large", None,
    ),
    "bad request by a gateway": (Fault(status=400, html=True), 502, "upstream_error", None),
    "not found by a gateway": (Fault(status=404, html=True), 502, "upstream_error", None),
    "odd details": (
        Fault(status=500, body='{"error": {"code": 500, "status": 7, "details": 5}}'), 502, "upstream_error", None,
    ),
    "odd message": (
        Fault(status=429, body='{"error": {"code": 429, "message": {"a": 1}, "details": [7, {"violations": 1}]}}'),
        503, "upstream_busy", "10",
    ),
    "key not found": (
        Fault(status=400, message="API Key not found. Please pass a valid API key."),
        502, "upstream_rejected_credentials", None,
    ),
    "bad key": (
        Fault(status=400, message="API key not valid.", details=BAD_KEY), 502, "upstream_rejected_credentials", None,
    ),
    "unauthenticated": (Fault(status=401), 502, "upstream_rejected_credentials", None),
    "forbidden": (Fault(status=403), 502, "upstream_rejected_credentials", None),
    "limited account": (Fault(finish_reason="PUP_LIMITED_DISABLED"), 502, "upstream_rejected_credentials", None),
    "wrong country": (
        Fault(status=400, error_status="FAILED_PRECONDITION", message="User location is not supported."),
        502, "upstream_error", None,
    ),
    "setting": (Fault(status=400, message="Thinking level MEDIUM is not supported"), 422, "invalid_request", None),
    "web page instead of an error": (Fault(status=502, html=True), 502, "upstream_error", None),
    "web page instead of an answer": (Fault(html=True), 502, "upstream_invalid_response", None),
    "not json": (Fault(body="oops"), 502, "upstream_invalid_response", None),
    "json of another shape": (Fault(body='{"candidates": 7}'), 502, "upstream_invalid_response", None),
    "an error as a 200": (
        Fault(body='{"error": {"code": 503, "message": "busy"}}'), 502, "upstream_invalid_response", None,
    ),
    "a list": (Fault(body="[]"), 502, "upstream_invalid_response", None),
    "cut off": (Fault(truncate=True), 502, "upstream_invalid_response", None),
    "reset before the headers": (Fault(reset="before_headers"), 502, "upstream_error", None),
    "reset in the body": (Fault(reset="in_body"), 502, "upstream_error", None),
    "no base64": (Fault(image_base64="%%%%"), 502, "upstream_invalid_response", None),
    "no image": (Fault(image_base64="aGVsbG8="), 502, "upstream_invalid_response", None),
    "gzip that is none": (
        Fault(body="oops", headers={"Content-Encoding": "gzip"}), 502, "upstream_invalid_response", None,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FAILURES)
async def test_each_failure_becomes_its_problem(client: httpx2.AsyncClient, gemini: Emulator, name: str) -> None:
    """
    tests/failure_table.py says how often each is retried.
    """
    fault, status, code, retry_after = FAILURES[name]
    gemini.faults.append(replace(fault, times=99))

    response = await client.post("/generate-image", json={"prompt": "something"})

    assert (response.status_code, response.json()["code"]) == (status, code), response.text
    assert response.headers.get("retry-after") == retry_after
    problem = response.json()
    assert {"type", "title", "status", "detail", "code", "requestId", "error"} <= problem.keys()
    assert problem["requestId"] == response.headers["x-request-id"]
    assert fault.message not in response.text


async def test_thoughts_of_a_refusal_are_priced_once(client: httpx2.AsyncClient, gemini: Emulator) -> None:
    """
    Gemini counts them as output too, and does not always send the total.
    """
    usage = {"promptTokenCount": 10, "candidatesTokenCount": 200, "thoughtsTokenCount": 200}
    document = {"candidates": [{"finishReason": "NO_IMAGE"}], "usageMetadata": usage}
    gemini.faults.append(Fault(body=json.dumps(document)))

    response = await client.post("/generate-image", json={"prompt": "something"})

    assert response.json()["usage"]["totalTokens"] == 210
    assert response.json()["usage"]["estimatedCostUsd"] == pytest.approx((10 * 2 + 200 * 12) / 1e6)


async def test_a_daily_quota_is_reported_as_daily(client: httpx2.AsyncClient, gemini: Emulator) -> None:
    gemini.faults.append(Fault(status=429, message=QUOTA, details=PER_DAY))

    response = await client.post("/generate-image", json={"prompt": "something"})

    assert "per-day" in response.json()["detail"]
    assert response.json()["quota"] == "day"


async def test_an_option_that_gemini_rejects_is_named(client: httpx2.AsyncClient, gemini: Emulator) -> None:
    gemini.faults.append(Fault(status=400, message="Thinking level MEDIUM is not supported for this model."))

    response = await client.post("/generate-image", json={"prompt": "something", "model": "gemini-9-image"})

    assert response.json()["errors"][0]["field"] == "thinkingLevel"


@pytest.mark.parametrize(
    ("fault", "said"), [(Fault(delay_seconds=30), "0.5 seconds"), (Fault(stall_seconds=30), "in the middle")]
)
async def test_a_silent_upstream_is_a_timeout_at_the_deadline(
    serve: Serve, gemini: Emulator, fault: Fault, said: str
) -> None:
    gemini.faults.append(fault)
    async with serve(upstream_timeout_seconds=0.5) as client:
        response = await asyncio.wait_for(client.post("/generate-image", json={"prompt": "x"}), 10)

    assert (response.status_code, response.json()["code"]) == (504, "upstream_timeout")
    assert said in response.json()["detail"]
    assert len(gemini.calls) == 1


async def test_a_refused_connection_is_an_upstream_error(serve: Serve) -> None:
    async with serve(google_gemini_base_url="http://127.0.0.1:1") as client:
        response = await client.post("/generate-image", json={"prompt": "x"})

    assert (response.status_code, response.json()["code"]) == (502, "upstream_error")


async def test_unreadable_usage_and_grounding_do_not_affect_the_image(
    client: httpx2.AsyncClient, gemini: Emulator
) -> None:
    """
    They are left out, and the image is delivered.
    """
    sent = image_file("JPEG", (2048, 2048))
    patch = {
        "usageMetadata": {"totalTokenCount": "many"},
        "candidates": {"0": {"groundingMetadata": {"groundingChunks": "none"}, "finishReason": "STOP", "news": 1}},
        "modelStatus": 7,
    }
    gemini.faults.append(Fault(image_base64=base64.b64encode(sent).decode(), patch=patch))

    response = await client.post("/generate-image", json={"prompt": "x"})

    assert response.status_code == 200, response.text
    assert base64.b64decode(response.json()["image"]["data"]) == sent


HALVES = "\ud83d a \ude00 b \U0001f600"
"""Two halves of surrogate pairs, and a pair."""
WHOLE = "\ufffd a \ufffd b \U0001f600"

BROKEN_TEXTS: dict[str, Any] = {
    "modelVersion": HALVES,
    "news \udfff": [HALVES],
    "candidates": {
        "0": {
            "finishMessage": HALVES,
            "content": {"parts": {"0": {"text": HALVES, "news \udfff": HALVES}}},
            "groundingMetadata": {
                "webSearchQueries": [HALVES],
                "groundingChunks": [{"web": {"uri": HALVES, "title": HALVES}}, {"image": {"domain": HALVES}}],
                "groundingSupports": [{"segment": {"text": HALVES}}],
                "searchEntryPoint": {"renderedContent": HALVES},
            },
        }
    },
}


@pytest.mark.parametrize("accept", ["application/json", "image/*", "text/event-stream"])
async def test_a_lone_surrogate_in_gemini_s_text_does_not_affect_the_image(
    client: httpx2.AsyncClient, gemini: Emulator, accept: str
) -> None:
    """
    It becomes U+FFFD, as in the decoders of Python and browsers, in any field and any kind of response.
    """
    gemini.faults.append(Fault(patch=BROKEN_TEXTS))

    response = await client.post("/generate-image", json={"prompt": "x"}, headers={"Accept": accept})

    assert response.status_code == 200, response.text
    if accept == "image/*":
        assert response.headers["content-type"] == "image/jpeg"
        assert unquote(response.headers["x-text"]) == WHOLE
        assert unquote(response.headers["x-model-version"]) == WHOLE
        assert json.loads(unquote(response.headers["x-grounding"]))["sources"] == [{"title": WHOLE, "uri": WHOLE}]
        return
    answer = response.json() if accept == "application/json" else _last_image(response.text)
    assert (answer["text"], answer["modelVersion"]) == (WHOLE, WHOLE)
    assert answer["grounding"]["sources"] == [{"title": WHOLE, "uri": WHOLE}]
    assert answer["grounding"]["imageSources"][0]["domain"] == WHOLE
    assert answer["grounding"]["queries"] == [answer["grounding"]["searchSuggestionsHtml"]] == [WHOLE]


def _last_image(events: str) -> dict[str, Any]:
    data = events.partition("event: image\ndata: ")[2].partition("\n")[0]
    answer: dict[str, Any] = json.loads(data)
    return answer


async def test_surrogates_in_two_parts_are_not_joined(client: httpx2.AsyncClient, gemini: Emulator) -> None:
    gemini.faults.append(Fault(patch={"candidates": {"0": {"content": {"parts": {"0": {"text": "\ud83d"}}}}}}))
    gemini.faults.append(
        Fault(shape="unflagged_drafts", patch={"candidates": {"0": {"content": {"parts": {"2": {"text": "\ude00"}}}}}})
    )

    first = await client.post("/generate-image", json={"prompt": "x"})
    second = await client.post("/generate-image", json={"prompt": "x"})

    assert (first.json()["text"], second.json()["text"]) == ("\ufffd", "\ufffd")


BROKEN_FAILURES = {
    "finish message": Fault(finish_reason="IMAGE_SAFETY", finish_message=HALVES),
    "finish reason": Fault(finish_reason="NEW \ud83d"),
    "text": Fault(shape="text_only", text=HALVES),
    "block message": Fault(block_reason="OTHER", patch={"promptFeedback": {"blockReasonMessage": HALVES}}),
    "block reason": Fault(block_reason="NEW \ud83d"),
    "bad request": Fault(status=400, message=HALVES),
    "details": Fault(
        status=500, message=HALVES, error_status="NEW \ud83d", details=[{"reason": "\ud83d", "\udfff": 1}]
    ),
    "quota": Fault(status=429, message=HALVES, details=[{"violations": [{"quotaId": "PerDay \ud83d"}]}]),
}


@pytest.mark.parametrize("name", BROKEN_FAILURES)
@pytest.mark.parametrize(("accept", "log_format"), [("image/*", "json"), ("text/event-stream", "text")])
async def test_a_lone_surrogate_in_an_error_is_reported_and_logged(
    serve: Serve, gemini: Emulator, capfd: pytest.CaptureFixture[str], name: str, log_format: str, accept: str
) -> None:
    gemini.faults.append(replace(BROKEN_FAILURES[name], times=3))
    async with serve(log_format=log_format, log_sensitive=True) as client:
        response = await client.post("/generate-image", json={"prompt": "x"}, headers={"Accept": accept})

    logged = capfd.readouterr().err
    assert response.status_code in (200, 422, 429, 502)
    assert "problem" in response.text
    assert "internal" not in response.text
    for written in (response.text, logged):
        assert not re.search(r"\\ud83d(?!\\ude00)|(?<!\\ud83d)\\ude00", written)
    assert "problem " in logged
    assert "Logging error" not in logged
    assert "unexpected" not in logged


async def test_a_deeply_nested_error_is_an_upstream_error(client: httpx2.AsyncClient, gemini: Emulator) -> None:
    for depth in (300, 450, 900, 5000):
        body = f'{{"error": {{"code": 400, "message": "x", "details": {"[" * depth}{"]" * depth}}}}}'
        gemini.faults.append(Fault(status=400, body=body))

        response = await client.post("/generate-image", json={"prompt": "x"})

        assert response.json()["code"] in ("upstream_invalid_response", "invalid_request")


QUOTA_OF_ZERO: list[dict[str, Any]] = [
    {
        "@type": "type.googleapis.com/google.rpc.QuotaFailure",
        "violations": [{"quotaId": "PerMinute", "quotaValue": "0"}],
    }
]

MONEY: dict[str, Fault] = {
    "credit": Fault(
        status=429,
        message="Your prepayment credits are depleted. Please go to AI Studio at https://ai.studio/projects to manage "
        "your project and billing.",
    ),
    "cap": Fault(
        status=429,
        message="Your project has exceeded its monthly spending cap. Please go to AI Studio at https://ai.studio/spend "
        "to manage your project spend cap.",
    ),
    "limit": Fault(status=429, message="The spend limit of this project is reached."),
    "credits": Fault(status=429, message="You have run out of credits."),
    "exhausted": Fault(status=429, message="All credits of the trial are exhausted.", headers={"Retry-After": "30"}),
    "closed account": Fault(status=429, message="The billing account for the owning project is closed."),
    "account not active": Fault(
        status=400, error_status="FAILED_PRECONDITION", message="Billing account 0123-45 is not active."
    ),
    "needs billing": Fault(
        status=400,
        error_status="FAILED_PRECONDITION",
        message="Gemini API free tier is not available in your country. Please enable billing on your project.",
    ),
    "disabled": Fault(status=403, message="x", details=[{"reason": "BILLING_DISABLED", "domain": "googleapis.com"}]),
    "disabled in words": Fault(status=403, message="This API method requires billing to be enabled."),
    "payment required": Fault(status=402, message="x"),
}


@pytest.mark.parametrize("accept", ["application/json", "text/event-stream"])
@pytest.mark.parametrize("name", MONEY)
async def test_exhausted_credits_are_a_problem_of_their_own(
    client: httpx2.AsyncClient, gemini: Emulator, name: str, accept: str
) -> None:
    """
    Only paying helps: Gemini is called once, no other model is tried, and there is no `Retry-After`.
    """
    fault = replace(MONEY[name], times=99)
    gemini.faults.append(fault)
    body = {"prompt": "x", "fallbackModel": "nano-banana-2.1"}

    response = await client.post("/generate-image", json=body, headers={"Accept": accept})

    assert len(gemini.calls) == 1
    if accept == "text/event-stream":
        assert "event: problem" in response.text
        assert '"code":"billing_exhausted"' in response.text
        assert "retryAfter" not in response.text
        return
    assert (response.status_code, response.json()["code"]) == (429, "billing_exhausted")
    assert "retry-after" not in response.headers
    assert response.headers["x-should-retry"] == "false"
    assert fault.message not in response.json()["detail"]


async def test_exhausted_credits_during_a_stream_are_not_retried(client: httpx2.AsyncClient, gemini: Emulator) -> None:
    thought = {"candidates": [{"content": {"parts": [{"text": "Hm.", "thought": True}]}}]}
    error = {"error": {"code": 429, "message": MONEY["credit"].message, "status": "RESOURCE_EXHAUSTED"}}
    body = "".join(f"data: {json.dumps(one)}\r\n\r\n" for one in (thought, error))
    gemini.faults.append(Fault(times=9, body=body, headers={"Content-Type": "text/event-stream"}))

    response = await client.post("/generate-image", json={"prompt": "x"}, headers={"Accept": "text/event-stream"})

    assert '"code":"billing_exhausted"' in response.text
    assert len(gemini.calls) == 1


async def test_exhausted_credits_say_nothing_about_the_model(serve: Serve, gemini: Emulator) -> None:
    """
    They neither open a circuit nor close one.
    """
    gemini.faults.append(replace(MONEY["cap"], times=5))
    async with serve(circuit_breaker_failures=2) as client:
        poor = [await client.post("/generate-image", json={"prompt": "x"}) for _ in range(5)]
        paid = await client.post("/generate-image", json={"prompt": "x", "imageSize": "1K"})

    assert {one.json()["code"] for one in poor} == {"billing_exhausted"}
    assert paid.status_code == 200


async def test_a_prompt_about_credits_is_not_mistaken_for_google_s_error(
    client: httpx2.AsyncClient, gemini: Emulator
) -> None:
    gemini.faults.append(Fault(status=400, message='Invalid value: "my billing account is closed, no credits left"'))

    response = await client.post("/generate-image", json={"prompt": "x"})

    assert (response.status_code, response.json()["code"]) == (422, "invalid_request")


@pytest.mark.parametrize(
    ("fault", "scope", "calls"),
    [
        (Fault(status=429, message=QUOTA, details=PER_DAY), "day", 1),
        (Fault(status=429, message=QUOTA), None, 3),
        (Fault(status=429, message=QUOTA, details=QUOTA_OF_ZERO), None, 1),
    ],
)
async def test_a_quota_is_not_mistaken_for_exhausted_credits(
    client: httpx2.AsyncClient, gemini: Emulator, fault: Fault, scope: str | None, calls: int
) -> None:
    """
    The message of every quota ends with "please check your plan and billing details".
    """
    gemini.faults.append(replace(fault, times=3))

    response = await client.post("/generate-image", json={"prompt": "x"})

    assert (response.status_code, response.json()["code"]) == (429, "quota_exhausted")
    assert response.json()["quota"] == scope
    assert len(gemini.calls) == calls


@pytest.mark.parametrize(
    ("value", "limit", "scope", "calls"),
    [
        ("0", "GenerateContentRequestsPerMinutePerProjectPerModel", None, 1),
        (0, "GenerateContentRequestsPerDayPerProjectPerModel", None, 1),
        ("10", "GenerateContentRequestsPerMinutePerProjectPerModel", "minute", 3),
        ("250", "GenerateContentRequestsPerDayPerProjectPerModel", "day", 1),
    ],
)
async def test_vertex_names_a_quota_only_in_its_error_info(
    client: httpx2.AsyncClient, gemini: Emulator, value: Any, limit: str, scope: str | None, calls: int
) -> None:
    """
    A limit of 0 means that the tier does not include the model. Then waiting does not help.
    """
    info = {
        "@type": "type.googleapis.com/google.rpc.ErrorInfo",
        "reason": "RATE_LIMIT_EXCEEDED",
        "domain": "googleapis.com",
        "metadata": {"service": "aiplatform.googleapis.com", "quota_limit": limit, "quota_limit_value": value},
    }
    gemini.faults.append(Fault(status=429, times=3, message="Resource exhausted.", details=[info]))

    response = await client.post("/generate-image", json={"prompt": "x"})

    assert (response.status_code, response.json()["code"]) == (429, "quota_exhausted")
    assert response.json()["quota"] == scope
    assert len(gemini.calls) == calls
    if calls == 1:
        assert "retry-after" not in response.headers


@pytest.mark.parametrize(
    ("status", "message", "field"),
    [
        (
            400,
            "* GenerateContentRequest.generation_config.image_config.aspect_ratio: aspect_ratio must be one of '1:1', "
            "'2:3'.",
            "aspectRatio",
        ),
        (400, "Aspect ratio 1:4 is not supported for this model", "aspectRatio"),
        (400, "Unsupported image_size '8K'. Supported values are: 1K, 2K, 4K, 512, 512P, 512PX.", "imageSize"),
        (400, "Image size 512 is not supported for this model", "imageSize"),
        (400, "The input token count (140000) exceeds the maximum number of tokens allowed (131072).", "prompt"),
        (400, "The input token count exceeds the maximum number of tokens allowed 131072.", "prompt"),
        (400, "Number of images exceeds the limit: 14.", "referenceImages"),
        (400, "Search Grounding is not supported.", "googleSearch"),
        (400, "Image search is not supported for this model.", "imageSearch"),
        (400, "Developer instruction is not enabled for this model", "systemInstruction"),
        (404, "This model models/x is no longer available. Please update your code to use models/y.", "model"),
    ],
)
async def test_the_field_that_gemini_rejects_is_named(
    client: httpx2.AsyncClient, gemini: Emulator, status: int, message: str, field: str
) -> None:
    gemini.faults.append(Fault(status=status, message=message))

    response = await client.post("/generate-image", json={"prompt": "x", "model": "gemini-9-image"})

    assert (response.status_code, response.json()["code"]) == (422, "invalid_request")
    assert [error["field"] for error in response.json()["errors"]] == [field]
    assert len(gemini.calls) == 1
