"""One try of a webhook: what the receiver gets, and what its answer means."""

import asyncio
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import httpx2
import pytest
import trustme
from starlette.responses import RedirectResponse, Response

from app.emulator import served
from app.service.webhooks.addresses import WebhookAddresses
from app.service.webhooks.sender import WebhookSender, retry_after_seconds
from tests.raw_servers import OK, listening
from tests.storages import environment, free_port
from tests.tls import served_with_tls, server_context, write_certificate
from tests.webhook_receiver import Receiver, endless


def sender(timeout_seconds: float = 5, addresses: Sequence[str] = ("127.0.0.1",)) -> WebhookSender:
    """Return a sender for which each name has these addresses. It may call loopback."""

    async def resolve(host: str, port: int) -> Sequence[str]:
        return addresses

    return WebhookSender(WebhookAddresses(["127.0.0.0/8"], resolve), timeout_seconds)


async def test_the_receiver_gets_the_body_under_its_own_name() -> None:
    receiver = Receiver()
    async with served(receiver) as url:
        port = httpx2.URL(url).port
        result = await sender().send(f"http://hooks.example:{port}/a%20b?c=d#e", {"X-One": "1"}, '{"a":"ü"}')

    request = receiver.received[0]
    assert result.is_success
    assert (request.method, request.body) == ("POST", '{"a":"ü"}'.encode())
    assert (request.headers["host"], request.target) == (f"hooks.example:{port}", "/a%20b?c=d")
    assert request.headers["x-one"] == "1"
    assert "accept-encoding" not in request.headers


@pytest.fixture
def trusted(tmp_path: Path) -> str:
    """A file with the certificate of the tests' authority."""
    return write_certificate(tmp_path)


async def test_tls_proves_the_name_although_the_address_is_called(trusted: str) -> None:
    receiver = Receiver()
    with environment(SSL_CERT_FILE=trusted):
        async with served_with_tls(receiver, host="hooks.example") as url:
            good = await sender().send(f"{url}/hook", {}, "{}")
            other = await sender().send(f"{url}/hook".replace("hooks.example", "other.example"), {}, "{}")

    assert good.status == 204
    assert receiver.received[0].headers["host"] == httpx2.URL(url).netloc.decode()
    assert (other.status, other.error) == (None, "SSLCertVerificationError")
    assert len(receiver.received) == 1


async def test_a_certificate_of_an_unknown_authority_is_not_accepted(trusted: str) -> None:
    receiver = Receiver()
    with environment(SSL_CERT_FILE=trusted):
        async with served_with_tls(receiver, trustme.CA(), "hooks.example") as url:
            result = await sender().send(f"{url}/hook", {}, "{}")

    assert result.error == "SSLCertVerificationError"
    assert receiver.received == []


async def test_a_name_is_resolved_once_for_each_try_and_checked_again() -> None:
    """
    A name that was public when the webhook was named can be loopback later (DNS rebinding).
    """
    answers = [["8.8.8.8"], ["8.8.8.8", "127.0.0.1"], ["127.0.0.1"]]

    async def resolve(host: str, port: int) -> Sequence[str]:
        return answers.pop(0)

    addresses = WebhookAddresses((), resolve)
    receiver = Receiver()
    async with served(receiver) as url:
        hook = f"https://hooks.example:{httpx2.URL(url).port}/"
        await addresses.target(hook)
        results = [await WebhookSender(addresses).send(hook, {}, "{}") for _ in range(2)]

    assert [result.error for result in results] == ["address refused"] * 2
    assert answers == []
    assert receiver.received == []


async def test_the_next_address_is_tried_if_one_does_not_accept_connections() -> None:
    receiver = Receiver()
    async with served(receiver) as url:
        port = httpx2.URL(url).port
        result = await sender(addresses=["127.0.0.2", "127.0.0.1"]).send(f"http://hooks.example:{port}/", {}, "{}")

    assert result.status == 204


async def test_redirects_are_not_followed() -> None:
    receiver = Receiver([RedirectResponse("/elsewhere", 307)])
    async with served(receiver) as url:
        result = await sender().send(url, {}, "{}")

    assert (result.status, result.is_success) == (307, False)
    assert len(receiver.received) == 1


async def test_proxies_of_the_environment_are_not_used() -> None:
    receiver = Receiver()
    with environment(HTTP_PROXY="http://127.0.0.1:9", ALL_PROXY="http://127.0.0.1:9"):
        async with served(receiver) as url:
            result = await sender().send(url, {}, "{}")

    assert result.status == 204


async def test_an_endless_body_is_not_read_to_the_end() -> None:
    receiver = Receiver([endless(pause_seconds=0), endless(pause_seconds=0.2)])
    async with served(receiver) as url:
        began = time.monotonic()
        fast = await sender(timeout_seconds=5).send(url, {}, "{}")
        slow = await sender(timeout_seconds=0.5).send(url, {}, "{}")

    assert (fast.status, slow.status) == (200, 200)
    assert time.monotonic() - began < 5, "less than the first time limit"


async def test_a_receiver_that_does_not_answer_in_time_has_not_got_the_webhook() -> None:
    receiver = Receiver(delay_seconds=30)
    async with served(receiver) as url:
        began = time.monotonic()
        result = await sender(timeout_seconds=0.3).send(url, {}, "{}")

    assert (result.status, result.error, result.is_success) == (None, "timeout", False)
    assert time.monotonic() - began < 15, "far less than the 30 s of the receiver"


@pytest.mark.parametrize("answer", [b"", b"nonsense\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-"])
async def test_a_broken_answer_is_a_failure(answer: bytes) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"{}")
        writer.write(answer)

    async with listening(talk) as port:
        result = await sender().send(f"http://127.0.0.1:{port}/", {}, "{}")

    assert (result.status, result.error) == (None, "RemoteProtocolError")


@pytest.mark.parametrize("piece", [b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"])
@pytest.mark.parametrize("secure", [False, True])
async def test_informational_responses_without_end_are_a_failure_at_once(
    piece: bytes, secure: bool, trusted: str
) -> None:
    sent = 0

    async def flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await reader.readuntil(b"{}")
        while True:
            writer.write(piece * 100)
            await writer.drain()
            sent += len(piece) * 100

    with environment(SSL_CERT_FILE=trusted):
        async with listening(flood, server_context(host="hooks.example") if secure else None) as port:
            began = time.process_time()
            url = f"{'https' if secure else 'http'}://hooks.example:{port}/"
            result = await sender(timeout_seconds=30).send(url, {}, "{}")
            seconds = time.process_time() - began

    assert (result.status, result.error) == (None, "AnswerTooLong")
    assert seconds < 2
    assert sent < 20_000_000


async def test_an_informational_response_before_the_answer_is_skipped() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"{}")
        writer.write(b"HTTP/1.1 103 Early Hints\r\n\r\n" + OK)

    async with listening(talk) as port:
        result = await sender().send(f"http://127.0.0.1:{port}/", {}, "{}")

    assert result.status == 200


async def test_a_receiver_that_is_not_there_is_a_failure() -> None:
    result = await sender().send(f"http://127.0.0.1:{free_port()}/", {}, "{}")

    assert (result.status, result.error) == (None, "ConnectionRefusedError")


async def test_the_receiver_can_name_a_delay() -> None:
    receiver = Receiver([Response(status_code=503, headers={"Retry-After": "120"})])
    async with served(receiver) as url:
        result = await sender().send(url, {}, "{}")

    assert (result.status, result.retry_after) == (503, 120)


def test_retry_after_is_a_number_of_seconds_or_a_date() -> None:
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=60), usegmt=True)

    assert retry_after_seconds("7") == 7
    assert 50 < (retry_after_seconds(date) or 0) <= 60
    assert retry_after_seconds("Sun, 06 Nov 1994 08:49:37 GMT") == 0
    for value in (None, "", "soon", "nan", "inf", "1e999"):
        assert retry_after_seconds(value) is None
    assert retry_after_seconds("-5") == 0
