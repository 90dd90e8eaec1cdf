"""Each failure and what the caller gets: tests run this table row by row, and docs/failures.md is generated from it.

`python -m tests.failure_table` prints the page.
"""

from dataclasses import dataclass, field, replace
from typing import Any

from app.emulator import Fault


@dataclass(frozen=True, slots=True)
class FailureCase:
    """Something that happens between us and Gemini, with three attempts and the settings' other defaults."""

    what: str
    fault: Fault | None
    status: int
    code: str
    """`ok`, or the problem's."""
    calls: int
    """How many calls reach Gemini."""
    billed: str
    retry_after: str | None = None
    headers: dict[str, str] = field(default_factory=dict)
    """What the caller sends along."""

    @property
    def streamed(self) -> bool:
        return self.headers == _STREAM

    @property
    def told(self) -> str:
        if self.code == "ok":
            return "the image" + (f", and that it took {self.calls} attempts" if self.calls > 1 else "")
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
NOTHING, ONE, MAYBE, REFUSED = "nothing", "one image", "perhaps", "thoughts and input, as the answer's usage says"


def _twice(what: str, fault: Fault, code: str, status: int, **more: Any) -> tuple[FailureCase, FailureCase]:
    """What may pass by the next attempt, and what does not."""
    return (
        FailureCase(f"{what}, once", replace(fault, times=_ONCE), 200, "ok", 2, ONE),
        FailureCase(f"{what}, every time", replace(fault, times=_EVERY_TIME), status, code, 3, NOTHING, **more),
    )


def _streamed_twice(
    what: str, fault: Fault, code: str, status: int, retry_after: str
) -> tuple[FailureCase, FailureCase]:
    """What comes when something has been done may pass by the next attempt, and there is no third."""
    return (
        FailureCase(
            f"{what}, once", replace(fault, times=_ONCE), 200, "ok", 2, "one image, perhaps two", headers=_STREAM
        ),
        FailureCase(
            f"{what}, every time", replace(fault, times=_EVERY_TIME), status, code, 2, MAYBE, retry_after, _STREAM
        ),
    )


TABLE: tuple[FailureCase, ...] = (
    FailureCase("fair", None, 200, "ok", 1, ONE),
    *_twice("503, out of capacity", Fault(status=503), "upstream_busy", 503, retry_after="10"),
    *_twice("429 without a quota's name", Fault(status=429, message="Resource exhausted."), "upstream_busy", 503,
            retry_after="10"),
    *_twice("429, quota of a minute, retry soon",
            Fault(status=429, message=_QUOTA, details=_quota("RequestsPerMinute", "0s"), headers=_SOON),
            "quota_exhausted", 429, retry_after="10"),
    *_twice("500", Fault(status=500), "upstream_error", 502),
    *_twice("502, a gateway's web page", Fault(status=502, html=True), "upstream_error", 502),
    *_twice("408", Fault(status=408), "upstream_timeout", 504),
    FailureCase("504, Gemini's own deadline, once", Fault(status=504), 200, "ok", 2, "one image, perhaps two"),
    FailureCase("504, every time", Fault(status=504, times=_EVERY_TIME), 504, "upstream_timeout", 2, MAYBE),
    FailureCase("503 with a wait beyond `RETRY_MAX_BACKOFF_SECONDS`", Fault(status=503, headers={"Retry-After": "77"}),
            503, "upstream_busy", 1, NOTHING, "77"),
    FailureCase("429, quota of a minute, retry in 34 s",
            Fault(status=429, message=_QUOTA, details=_quota("RequestsPerMinute", "34s")),
            429, "quota_exhausted", 1, NOTHING, "34"),
    FailureCase("429, quota of a day", Fault(status=429, message=_QUOTA, details=_quota("RequestsPerDay", "3600s")),
            429, "quota_exhausted", 1, NOTHING, "3600"),
    FailureCase("429, limit 0: not on this tier", Fault(status=429, message=f"{_QUOTA} limit: 0, model: x"),
            429, "quota_exhausted", 1, NOTHING),
    FailureCase("429, limit 0 as Vertex says it", Fault(status=429, details=_rate("0")), 429, "quota_exhausted", 1, NOTHING),
    FailureCase("429, a quota of a day as Vertex says it", Fault(status=429, details=_rate("250", "PerDay")),
            429, "quota_exhausted", 1, NOTHING),
    *_twice("429, a rate limit as Vertex says it", Fault(status=429, details=_rate("10")), "quota_exhausted", 429,
            retry_after="10"),
    FailureCase("429, no credit left",
            Fault(status=429, message="Your prepayment credits are depleted. Please go to AI Studio."),
            429, "billing_exhausted", 1, NOTHING),
    FailureCase("429, a spending cap is reached",
            Fault(status=429, message="Your project has exceeded its monthly spending cap."),
            429, "billing_exhausted", 1, NOTHING),
    FailureCase("403, billing is disabled", Fault(status=403, details=[{"reason": "BILLING_DISABLED"}]),
            429, "billing_exhausted", 1, NOTHING),
    FailureCase("400, a knob that Gemini rejects", Fault(status=400), 422, "invalid_request", 1, NOTHING),
    FailureCase("401 or 403, the service's key", Fault(status=403), 502, "upstream_rejected_credentials", 1, NOTHING),
    FailureCase("400, more tokens than the model takes",
            Fault(status=400, message="The input token count (140000) exceeds the maximum number of tokens allowed (131072)."),
            422, "invalid_request", 1, NOTHING),
    FailureCase("404, no such model", Fault(status=404), 422, "invalid_request", 1, NOTHING),
    FailureCase("404, a retired model", Fault(status=404, message="This model models/x is no longer available."),
            422, "invalid_request", 1, NOTHING),
    FailureCase("the image is refused", Fault(finish_reason="IMAGE_SAFETY", finish_message="Unable to show the image."),
            422, "content_blocked", 1, REFUSED),
    FailureCase("the image is refused, and Gemini says that it does not charge",
            Fault(finish_reason="IMAGE_OTHER", finish_message="Unable to show the image. You will not be charged."),
            422, "no_image", 1, NOTHING),
    FailureCase("the prompt is blocked", Fault(block_reason="PROHIBITED_CONTENT"), 422, "content_blocked", 1, REFUSED),
    FailureCase("too close to a work", Fault(finish_reason="IMAGE_RECITATION", finish_message="x"), 422, "recitation", 1, REFUSED),
    FailureCase("words, no image", Fault(shape="text_only"), 422, "no_image", 1, REFUSED),
    FailureCase("the account is limited", Fault(finish_reason="PUP_LIMITED_DISABLED"),
            502, "upstream_rejected_credentials", 1, NOTHING),
    FailureCase("reset before the answer, once", Fault(reset="before_headers"), 200, "ok", 2, "one image, perhaps two"),
    FailureCase("reset before the answer, every time", Fault(reset="before_headers", times=_EVERY_TIME),
            502, "upstream_error", 2, MAYBE),
    FailureCase("reset in the answer, once", Fault(reset="in_body"), 200, "ok", 2, "two images"),
    FailureCase("reset in the answer, every time", Fault(reset="in_body", times=_EVERY_TIME),
            502, "upstream_error", 2, "two images"),
    *_streamed_twice("503 in a stream, behind a thought or words", Fault(status=503, after_chunks=1), "upstream_busy",
                     503, retry_after="10"),
    FailureCase("429, quota of a day, in a stream", Fault(status=429, message=_QUOTA, details=_quota("RequestsPerDay", "3600s"),
            after_chunks=1), 429, "quota_exhausted", 1, MAYBE, "3600", _STREAM),
    FailureCase("400 in a stream", Fault(status=400, after_chunks=1), 422, "invalid_request", 1, MAYBE, headers=_STREAM),
    FailureCase("an error in a stream, behind the whole image", Fault(status=503, after_chunks=2), 200, "ok", 1, ONE,
            headers=_STREAM),
    FailureCase("an answer cut off", Fault(truncate=True), 502, "upstream_invalid_response", 1, ONE),
    FailureCase("an image that is none", Fault(image_base64="aGVsbG8="), 502, "upstream_invalid_response", 1, ONE),
    FailureCase("a web page for an answer", Fault(html=True), 502, "upstream_invalid_response", 1, MAYBE),
    FailureCase("no answer within the time", Fault(delay_seconds=3), 504, "upstream_timeout", 1, MAYBE, headers=_LATE),
    FailureCase("an answer that stops in the middle", Fault(stall_seconds=3), 504, "upstream_timeout", 1, ONE,
            headers=_LATE),
    FailureCase("an answer in crumbs", Fault(chunk_bytes=1000), 200, "ok", 1, ONE),
    FailureCase("an answer packed though nobody asked", Fault(gzip=True), 200, "ok", 1, ONE),
    FailureCase("drafts that do not say so", Fault(shape="unflagged_drafts"), 200, "ok", 1, "each image that Gemini sent"),
    FailureCase("the image only as a thought", Fault(shape="image_in_thought"), 200, "ok", 1, ONE),
)  # fmt: skip

_BEFORE = """# FailureCase

What can happen between this service and Gemini, what a caller gets of it, how many calls it takes, and what Google bills for them.
Three attempts (`UPSTREAM_ATTEMPTS`), no fallback model. The tests go by this very table.

| what happens | what the caller gets | calls | billed |
|---|---|---|---|
"""
_AFTER = """
Besides:

| what happens | what the caller gets | calls |
|---|---|---|
| no connection, or none in time | 502 `upstream_error`, or 504 `upstream_timeout` with `waitedFor: "connection"` | none of three attempts arrives |
| a certificate that is not trusted | 502 `upstream_error` | none; not tried again |
| ten failed attempts in a row (`CIRCUIT_BREAKER_FAILURES`) | for 15 s 503 `upstream_busy` with `Retry-After`, at once | none; then one at a time |
| out of capacity or quota, with a fallback model | its image; `model` and `warnings` say so | 3 in all: up to two of the model, then the fallback with what is left |
| the same with `UPSTREAM_ATTEMPTS=1` | what the model came to; the fallback's image only while `CIRCUIT_BREAKER_FAILURES` keeps the model from being asked | 1 |
| a chat's thought signatures are turned down | the image, made with its earlier images as references; `warnings` say so | 2 of the three; with `UPSTREAM_ATTEMPTS=1` 502 `upstream_error` |
| more calls fail than one in five may be tried again (`RETRY_BUDGET`) | what the first attempt came to | 1 |
| all places taken (`MAX_IN_FLIGHT`) | its turn, or at once 503 `overloaded` with `Retry-After` if the queue is full or too slow | none |
| the caller leaves | nothing; its place, connection and memory are free at once | none more; Google may bill what it has begun |
| the service is told to stop | what is under way is finished and delivered; new requests get 503 `overloaded` | |

A refusal is never tried again, here or by clients that go by the status; neither is anything that may have been billed, but for one
reset or deadline of Gemini's. `X-Should-Retry: false`, which OpenAI's clients heed, says where trying again may cost again.
"""


def page() -> str:
    """The documentation page."""
    rows = (f"| {one.what} | {one.told} | {one.calls} | {one.billed} |\n" for one in TABLE)
    return _BEFORE + "".join(rows) + _AFTER


if __name__ == "__main__":
    print(page(), end="")
