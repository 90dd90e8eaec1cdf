"""One try to deliver a webhook: one POST to a checked address, without redirects and proxies."""

import asyncio
import math
import ssl
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import anyio.to_thread
import httpcore2
import httpx2

from app.domain.errors import WebhookRefused
from app.service.webhooks.addresses import Target, WebhookAddresses
from app.service.webhooks.network import LimitedNetwork

TRY_SECONDS = 15.0
"""Time limit of one try."""

MAX_ANSWER_BYTES = 64 * 1024
"""Most bytes of the answer that are read, with its head and informational responses. Only its status and `Retry-After`
matter."""

_BODY_SECONDS = 5.0
"""Longest time in which the answer's body is read."""

_CONNECT_SECONDS = 5.0
_MOST_ADDRESSES = 3
"""Most addresses of a host to which a try connects, until one accepts the connection."""

_NETWORK_ERRORS = (
    httpcore2.TimeoutException,
    httpcore2.NetworkError,
    httpcore2.ProtocolError,
    httpcore2.UnsupportedProtocol,
)


@dataclass(frozen=True, slots=True)
class TryResult:
    """How a try ended."""

    status: int | None = None
    """The answer's status; `None` if there was no answer."""
    error: str | None = None
    """What kind of error prevented the answer, for the log."""
    retry_after: float | None = None
    """Seconds after which the receiver wants the next try."""

    @property
    def is_success(self) -> bool:
        return self.status is not None and 200 <= self.status < 300

    @property
    def is_gone(self) -> bool:
        """Whether the receiver wants no more tries."""
        return self.status == httpx2.codes.GONE


class WebhookSender:
    """Posts messages. Each try has a connection of its own, because TLS proves only one name of an address."""

    def __init__(self, addresses: WebhookAddresses, timeout_seconds: float = TRY_SECONDS) -> None:
        """
        Args:
            addresses: checks the address of each try.
            timeout_seconds: time limit of one try.
        """
        self._addresses = addresses
        self._timeout_seconds = timeout_seconds
        self._tls: ssl.SSLContext | None = None

    async def send(self, url: str, headers: Mapping[str, str], body: str) -> TryResult:
        """Post a body. A failure is a result and not an exception."""
        deadline = asyncio.get_running_loop().time() + self._timeout_seconds
        try:
            async with asyncio.timeout_at(deadline):
                target = await self._addresses.target(url)
            return await self._post_to_any(target, headers, body, deadline)
        except WebhookRefused:
            return TryResult(error="address refused")
        except TimeoutError:
            return TryResult(error="timeout")
        except (*_NETWORK_ERRORS, OSError) as error:
            return TryResult(error=_kind(error))

    async def _post_to_any(self, target: Target, headers: Mapping[str, str], body: str, deadline: float) -> TryResult:
        if self._tls is None:  # reading the certificates of all authorities takes about 50 ms
            self._tls = await anyio.to_thread.run_sync(httpx2.create_ssl_context)
        *others, last = target.addresses[:_MOST_ADDRESSES]
        for address in others:
            with suppress(httpcore2.ConnectError, httpcore2.ConnectTimeout):
                return await self._post(self._request(target.url, address, headers, body), deadline)
        return await self._post(self._request(target.url, last, headers, body), deadline)

    def _request(self, url: httpx2.URL, address: str, headers: Mapping[str, str], body: str) -> httpcore2.Request:
        """Return a request to the address itself: another look-up of the name could give another address."""
        seconds = dict.fromkeys(("read", "write", "pool"), self._timeout_seconds)
        to, content = url.copy_with(host=address), body.encode()
        fields = {
            "Host": url.netloc.decode("ascii"),
            **headers,
            "Content-Length": str(len(content)),
            "Connection": "close",
        }
        return httpcore2.Request(
            "POST",
            httpcore2.URL(scheme=to.raw_scheme, host=to.raw_host, port=to.port, target=to.raw_path),
            headers=list(fields.items()),
            content=content,
            extensions={
                "sni_hostname": url.raw_host.decode("ascii").rstrip("."),
                "timeout": {**seconds, "connect": _CONNECT_SECONDS},
            },
        )

    async def _post(self, request: httpcore2.Request, deadline: float) -> TryResult:
        network = LimitedNetwork(MAX_ANSWER_BYTES)
        async with httpcore2.AsyncConnectionPool(self._tls, network_backend=network) as pool:
            async with asyncio.timeout_at(deadline):
                response = await pool.handle_async_request(request)
            try:
                await _read(response, deadline)
            finally:
                await response.aclose()
        retry_after = httpx2.Headers(response.headers).get("retry-after")
        return TryResult(response.status, retry_after=retry_after_seconds(retry_after))


async def _read(response: httpcore2.Response, deadline: float) -> None:
    """Read the beginning of the body, so that the receiver can end its answer. The status is already known."""
    with suppress(*_NETWORK_ERRORS, TimeoutError):
        async with asyncio.timeout_at(min(deadline, asyncio.get_running_loop().time() + _BODY_SECONDS)):
            async for _ in response.aiter_stream():
                pass


def retry_after_seconds(value: str | None) -> float | None:
    """Return the seconds that `Retry-After` names, as a number or as a date; `None` if it names none."""
    if value is None:
        return None
    with suppress(ValueError, OverflowError):
        seconds = float(value)
        return max(0.0, seconds) if math.isfinite(seconds) else None
    with suppress(ValueError, TypeError, OverflowError):
        moment = parsedate_to_datetime(value)
        moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        return max(0.0, (moment - datetime.now(UTC)).total_seconds())
    return None


def _kind(error: BaseException) -> str:
    """Return the type of the innermost cause. Messages are left out, because they can quote addresses."""
    while (cause := error.__cause__ or error.__context__) is not None:
        error = cause
    return type(error).__name__
