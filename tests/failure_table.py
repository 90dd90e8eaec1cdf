"""The table of failures: tests run each row, and docs/failures.md is generated from it.

`python -m tests.failure_table > docs/failures.md` writes the page.
"""

from dataclasses import dataclass, field, replace
from typing import Any

from app.emulator import Fault


@dataclass(frozen=True, slots=True)
class FailureCase:
    """A failure between the service and Gemini, with `UPSTREAM_ATTEMPTS=3` and otherwise default settings."""

    what: str
    fault: Fault | None
    status: int
    code: str
    """`ok`, or the code of the problem."""
    calls: int
    """Number of calls that reach Gemini."""
    billed: str
    retry_after: str | None = None
    headers: dict[str, str] = field(default_factory=dict)
    """Headers of the caller's request."""

    @property
    def streamed(self) -> bool:
        return self.headers == _STREAM

    @property
    def outcome(self) -> str:
        if self.code == "ok":
            return "the image" + (f"; a warning names {self.calls} attempts" if self.calls > 1 else "")
        wait = f", `Retry-After: {self.retry_after}`" if self.retry_after else ""
        return f"{self.status} `{self.code}`{wait}"


def _quota(id_: str, delay: str) -> list[dict[str, Any]]:
    return [{"violations": [{"quotaId": id_}]}, {"retryDelay": delay}]


def _rate(value: str, of: str = "PerMinute") -> list[dict[str, Any]]:
    metadata = {"quota_limit": f"GenerateContentRequests{of}PerProjectPerModel", "quota_limit_value": value}
    return [{"reason": "RATE_LIMIT_EXCEEDED", "domain": "googleapis.com", "metadata": metadata}]


_ONCE, _EVERY_TIME = 1, 99
_QUOTA = "You exceeded your current quota, please check your plan and billing details."
_LATE = {"X-Timeout-Seconds": "0.4"}
_SOON = {"Retry-After": "0"}
_STREAM = {"Accept": "text/event-stream"}
NOTHING, ONE, MAYBE, REFUSED = "nothing", "one image", "perhaps", "thoughts and input, as `usage` says"


def _twice(what: str, fault: Fault, code: str, status: int, **more: Any) -> tuple[FailureCase, FailureCase]:
    """Return two rows: the failure happens once, and the failure persists."""
    return (
        FailureCase(f"{what}, once", replace(fault, times=_ONCE), 200, "ok", 2, ONE),
        FailureCase(f"{what}, every time", replace(fault, times=_EVERY_TIME), status, code, 3, NOTHING, **more),
    )


def _streamed_twice(
    what: str, fault: Fault, code: str, status: int, retry_after: str
) -> tuple[FailureCase, FailureCase]:
    """Return the same two rows for a failure within a stream, after which there is one retry only."""
    return (
        FailureCase(
            f"{what}, once", replace(fault, times=_ONCE), 200, "ok", 2, "one image, perhaps two", headers=_STREAM
        ),
        FailureCase(
            f"{what}, every time", replace(fault, times=_EVERY_TIME), status, code, 2, MAYBE, retry_after, _STREAM
        ),
    )


TABLE: tuple[FailureCase, ...] = (
    FailureCase("nothing fails", None, 200, "ok", 1, ONE),
    *_twice("503, out of capacity", Fault(status=503), "upstream_busy", 503, retry_after="10"),
    *_twice("429 that names no quota", Fault(status=429, message="Resource exhausted."), "upstream_busy", 503,
            retry_after="10"),
    *_twice("429, quota per minute, short delay",
            Fault(status=429, message=_QUOTA, details=_quota("RequestsPerMinute", "0s"), headers=_SOON),
            "quota_exhausted", 429, retry_after="10"),
    *_twice("500", Fault(status=500), "upstream_error", 502),
    *_twice("502, a web page of a gateway", Fault(status=502, html=True), "upstream_error", 502),
    *_twice("408", Fault(status=408), "upstream_timeout", 504),
    FailureCase("504, Gemini's own deadline, once", Fault(status=504), 200, "ok", 2, "one image, perhaps two"),
    FailureCase("504, every time", Fault(status=504, times=_EVERY_TIME), 504, "upstream_timeout", 2, MAYBE),
    FailureCase("503 with a delay over `RETRY_MAX_BACKOFF_SECONDS`", Fault(status=503, headers={"Retry-After": "77"}),
            503, "upstream_busy", 1, NOTHING, "77"),
    FailureCase("429, quota per minute, retry in 34 s",
            Fault(status=429, message=_QUOTA, details=_quota("RequestsPerMinute", "34s")),
            429, "quota_exhausted", 1, NOTHING, "34"),
    FailureCase("429, quota per day", Fault(status=429, message=_QUOTA, details=_quota("RequestsPerDay", "3600s")),
            429, "quota_exhausted", 1, NOTHING, "3600"),
    FailureCase("429, limit 0: the tier does not include the model", Fault(status=429, message=f"{_QUOTA} limit: 0, model: x"),
            429, "quota_exhausted", 1, NOTHING),
    FailureCase("429, limit 0, in Vertex's format", Fault(status=429, details=_rate("0")), 429, "quota_exhausted", 1, NOTHING),
    FailureCase("429, quota per day, in Vertex's format", Fault(status=429, details=_rate("250", "PerDay")),
            429, "quota_exhausted", 1, NOTHING),
    *_twice("429, rate limit, in Vertex's format", Fault(status=429, details=_rate("10")), "quota_exhausted", 429,
            retry_after="10"),
    FailureCase("429, no credit left on the account",
            Fault(status=429, message="Your prepayment credits are depleted. Please go to AI Studio."),
            429, "billing_exhausted", 1, NOTHING),
    FailureCase("429, spending cap reached",
            Fault(status=429, message="Your project has exceeded its monthly spending cap."),
            429, "billing_exhausted", 1, NOTHING),
    FailureCase("403, billing disabled", Fault(status=403, details=[{"reason": "BILLING_DISABLED"}]),
            429, "billing_exhausted", 1, NOTHING),
    FailureCase("400, Gemini rejects an option", Fault(status=400), 422, "invalid_request", 1, NOTHING),
    FailureCase("401 or 403, Gemini rejects the service's key", Fault(status=403), 502, "upstream_rejected_credentials", 1, NOTHING),
    FailureCase("400, more tokens than the model accepts",
            Fault(status=400, message="The input token count (140000) exceeds the maximum number of tokens allowed (131072)."),
            422, "invalid_request", 1, NOTHING),
    FailureCase("404, the model does not exist", Fault(status=404), 422, "invalid_request", 1, NOTHING),
    FailureCase("404, the model was retired", Fault(status=404, message="This model models/x is no longer available."),
            422, "invalid_request", 1, NOTHING),
    FailureCase("Gemini refuses the image", Fault(finish_reason="IMAGE_SAFETY", finish_message="Unable to show the image."),
            422, "content_blocked", 1, REFUSED),
    FailureCase("Gemini refuses the image and says that it does not charge",
            Fault(finish_reason="IMAGE_OTHER", finish_message="Unable to show the image. You will not be charged."),
            422, "no_image", 1, NOTHING),
    FailureCase("Gemini blocks the prompt", Fault(block_reason="PROHIBITED_CONTENT"), 422, "content_blocked", 1, REFUSED),
    FailureCase("the image is too close to an existing work", Fault(finish_reason="IMAGE_RECITATION", finish_message="x"), 422, "recitation", 1, REFUSED),
    FailureCase("Gemini answers with text only", Fault(shape="text_only"), 422, "no_image", 1, REFUSED),
    FailureCase("Google has limited the account", Fault(finish_reason="PUP_LIMITED_DISABLED"),
            502, "upstream_rejected_credentials", 1, NOTHING),
    FailureCase("connection reset before the response, once", Fault(reset="before_headers"), 200, "ok", 2, "one image, perhaps two"),
    FailureCase("connection reset before the response, every time", Fault(reset="before_headers", times=_EVERY_TIME),
            502, "upstream_error", 2, MAYBE),
    FailureCase("connection reset within the response, once", Fault(reset="in_body"), 200, "ok", 2, "two images"),
    FailureCase("connection reset within the response, every time", Fault(reset="in_body", times=_EVERY_TIME),
            502, "upstream_error", 2, "two images"),
    *_streamed_twice("503 in a stream, after a thought or text", Fault(status=503, after_chunks=1), "upstream_busy",
                     503, retry_after="10"),
    FailureCase("429, quota per day, within a stream", Fault(status=429, message=_QUOTA, details=_quota("RequestsPerDay", "3600s"),
            after_chunks=1), 429, "quota_exhausted", 1, MAYBE, "3600", _STREAM),
    FailureCase("400 within a stream", Fault(status=400, after_chunks=1), 422, "invalid_request", 1, MAYBE, headers=_STREAM),
    FailureCase("an error in a stream, after the complete image", Fault(status=503, after_chunks=2), 200, "ok", 1, ONE,
            headers=_STREAM),
    FailureCase("the response is cut off", Fault(truncate=True), 502, "upstream_invalid_response", 1, ONE),
    FailureCase("the image's bytes are not an image", Fault(image_base64="aGVsbG8="), 502, "upstream_invalid_response", 1, ONE),
    FailureCase("a web page instead of a response", Fault(html=True), 502, "upstream_invalid_response", 1, MAYBE),
    FailureCase("no response within the time limit", Fault(delay_seconds=3), 504, "upstream_timeout", 1, MAYBE, headers=_LATE),
    FailureCase("the response stops in the middle", Fault(stall_seconds=3), 504, "upstream_timeout", 1, ONE,
            headers=_LATE),
    FailureCase("the response arrives in very small pieces", Fault(chunk_bytes=1000), 200, "ok", 1, ONE),
    FailureCase("the response is compressed without being requested", Fault(gzip=True), 200, "ok", 1, ONE),
    FailureCase("drafts that are not marked as thoughts", Fault(shape="unflagged_drafts"), 200, "ok", 1, "each image that Gemini sent"),
    FailureCase("the only image is marked as a thought", Fault(shape="image_in_thought"), 200, "ok", 1, ONE),
)  # fmt: skip

_INTRODUCTION = """# Failures

`python -m tests.failure_table` generates this page. The tests run each row of the first table.

What can fail between this service and Gemini, what the caller receives, how many calls the service makes, and what Google bills for them.
The table holds for three calls per image (`UPSTREAM_ATTEMPTS=3`) and no fallback model.

- The service repeats a call freely only if the failed one cost nothing.
- A failure after which Google may have billed the call (a reset connection, Gemini's own deadline, an error within a stream) is repeated once at most.
- A refusal, a daily quota or a billing problem is never repeated. A refusal has status 422, which clients do not retry either.
- `X-Should-Retry: false` marks every response after which a retry may cost again. OpenAI's clients obey it.

| what happens | what the caller receives | calls | billed |
|---|---|---|---|
"""
_OTHER_FAILURES = """
## Other cases

| what happens | what the caller receives | calls |
|---|---|---|
| no connection to Gemini, or not in time | 502 `upstream_error`, or 504 `upstream_timeout` with `waitedFor: "connection"` | three attempts, none reaches Gemini |
| Gemini's certificate is not trusted | 502 `upstream_error` | none; not repeated |
| ten consecutive failures of a model (`CIRCUIT_BREAKER_FAILURES`) | for 15 s immediately 503 `upstream_busy` with `Retry-After` | none; then one trial call at a time |
| out of capacity or quota, with a fallback model | the fallback's image; `model` and `warnings` say so | 3 in total: up to two to the model, then the fallback with what remains |
| the same with `UPSTREAM_ATTEMPTS=1` | the model's failure; the fallback's image only while the circuit breaker stops calls to the model | 1 |
| Gemini rejects a chat's thought signatures | the image, made with the chat's earlier images as references; `warnings` say so | 2 of the three; with `UPSTREAM_ATTEMPTS=1` 502 `upstream_error` |
| more failures than the retry budget allows (`RETRY_BUDGET`: one retry for five calls) | the result of the first call | 1 |
| the call may have been billed, and the caller's budget does not have a second one | the failure of the first call | 1 |
| the request is over [a limit of its caller](callers.md#over-a-limit) | 429 `rate_limited`, `too_many_at_once` or `budget_exhausted`, with `Retry-After`; 403 `not_allowed` | none |
| all slots are in use (`MAX_IN_FLIGHT`) | the image after a wait in the queue; immediately 503 `overloaded` with `Retry-After` if the queue is full or too slow | none while waiting |
| the caller disconnects | nothing; slot, connection and memory are released immediately | no further ones; Google may bill a call that has begun |
| the service receives SIGTERM | running generations are finished and delivered; new requests get 503 `overloaded` | |
"""


def page() -> str:
    """Return docs/failures.md."""
    rows = (f"| {one.what} | {one.outcome} | {one.calls} | {one.billed} |\n" for one in TABLE)
    return _INTRODUCTION + "".join(rows) + _OTHER_FAILURES


if __name__ == "__main__":
    print(page(), end="")
