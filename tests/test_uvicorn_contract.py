"""The undocumented parts of uvicorn, httptools and Python that `app/server/` uses still exist, and all are listed."""

import ast
import asyncio
import atexit
import inspect
import socket
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import httptools
import pytest
import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from app.domain.errors import InvalidHttp
from app.server.lifecycle import Server
from app.server.protocol import LimitedHttpProtocol

SERVER_FOLDER = Path(__file__).parent.parent / "app/server"

CONNECTION = {
    "parser": "gets the bytes of heads and bodies",
    "flow": "pauses reading, and knows whether writing is paused",
    "cycle": "is the current request and its response",
    "transport": "is written to and closed",
    "loop": "runs the timers",
    "logger": "logs invalid requests",
    "connections": "holds all connections of the server, which are limited",
    "scope": "gets the extension through which handlers reach the connection",
    "url": "distinguishes health checks from other requests",
    "headers": "are checked before the application is called",
    "_start_asgi_task": "starts the application for a request",
    "_unset_keepalive_if_required": "stops the keep-alive timer when bytes arrive",
    "on_message_begin": "is called by the parser",
    "on_header": "is called by the parser",
    "on_headers_complete": "is called by the parser",
    "on_body": "is called by the parser",
    "on_message_complete": "is called by the parser",
}
CYCLE = {
    "scope": "has the request's version of HTTP",
    "keep_alive": "decides whether the connection closes after the response",
    "disconnected": "tells the application that the caller has disconnected",
    "message_event": "wakes an application that waits for the body",
    "response_started": "tells whether a problem can still be sent",
    "response_complete": "tells whether the request is still open",
    "chunked_encoding": "is turned off for HTTP/1.0",
    "expected_content_length": "counts the bytes of the response that are still to be sent",
    "waiting_for_100_continue": "is turned off for HTTP/1.0",
}
FLOW = {
    "write_paused": "tells whether the caller reads too slowly",
    "pause_reading": "lets other connections come first",
    "resume_reading": "lets other connections come first",
}
SERVER = {
    "should_exit": "stops the server",
    "force_exit": "stops the server without waiting for connections",
    "started": "decides the exit code",
}


@pytest.fixture(scope="module")
async def connection() -> AsyncGenerator[HttpToolsProtocol]:
    """A connection of uvicorn's own protocol that has answered one request."""

    async def application(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b""})

    def create_protocol() -> HttpToolsProtocol:
        config = uvicorn.Config(application, log_config=None, ws="none", lifespan="off")
        return HttpToolsProtocol(config=config, server_state=ServerState(), app_state={})

    ours, theirs = socket.socketpair()
    transport, protocol = await asyncio.get_running_loop().connect_accepted_socket(create_protocol, ours)
    reader, writer = await asyncio.open_connection(sock=theirs)
    writer.write(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
    await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
    yield protocol
    transport.close()
    writer.close()


@pytest.mark.parametrize(
    ("owner", "name", "purpose"),
    [
        pytest.param(owner, name, purpose, id=f"{owner}.{name}")
        for owner, table in (("", CONNECTION), ("cycle", CYCLE), ("flow", FLOW))
        for name, purpose in table.items()
    ],
)
async def test_uvicorn_s_connection_has_the_attribute(
    connection: HttpToolsProtocol, owner: str, name: str, purpose: str
) -> None:
    parent = getattr(connection, owner) if owner else connection

    assert hasattr(parent, name), (
        f"uvicorn {uvicorn.__version__} no longer has `{name}` on {type(parent).__name__}. In app/server/ it {purpose}."
    )


@pytest.mark.parametrize("name", SERVER)
def test_uvicorn_s_server_has_the_attribute(name: str) -> None:
    server = uvicorn.Server(uvicorn.Config("app:app"))

    assert hasattr(server, name), f"uvicorn.Server no longer has `{name}`. In lifecycle.py it {SERVER[name]}."


@pytest.mark.parametrize(
    ("ours", "base", "name"),
    [
        (LimitedHttpProtocol, HttpToolsProtocol, "_start_asgi_task"),
        *((LimitedHttpProtocol, HttpToolsProtocol, name) for name in CONNECTION if name.startswith("on_")),
        *((Server, uvicorn.Server, name) for name in ("on_tick", "handle_exit", "capture_signals")),
    ],
)
def test_an_overridden_method_has_the_parameters_of_uvicorn_s(ours: type, base: type, name: str) -> None:
    expected = list(inspect.signature(getattr(base, name)).parameters)
    actual = list(inspect.signature(getattr(ours, name)).parameters)

    assert actual == expected, f"uvicorn calls {base.__name__}.{name} with other parameters than app/server/ expects."


def test_the_parser_hands_on_the_exception_of_a_callback() -> None:
    """
    `LimitedHttpProtocol._parse` finds it in `__context__`.
    """

    class Callbacks:
        def on_message_begin(self) -> None:
            raise InvalidHttp("from a callback")

    with pytest.raises(httptools.HttpParserError) as raised:
        httptools.HttpRequestParser(Callbacks()).feed_data(b"GET / HTTP/1.1\r\n\r\n")

    assert isinstance(raised.value.__context__, InvalidHttp), "httptools no longer sets `__context__`."


def test_python_can_run_exit_functions_early() -> None:
    assert callable(getattr(atexit, "_run_exitfuncs", None)), "app/server/exit.py needs atexit._run_exitfuncs."


def attributes_of(owners: set[str], *files: str) -> set[str]:
    """The attributes that these files use of the expressions in `owners`."""
    trees = [ast.parse((SERVER_FOLDER / file).read_text()) for file in files]
    nodes = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Attribute)]
    return {node.attr for node in nodes if ast.unparse(node.value) in owners}


async def test_every_attribute_in_use_is_listed(connection: HttpToolsProtocol) -> None:
    """
    `asyncio.Protocol` documents its own methods; they need no test.
    """
    documented = set(dir(asyncio.Protocol))
    inherited = (set(vars(connection)) | set(dir(HttpToolsProtocol))) - documented
    used = attributes_of({"self", "super()"}, "protocol.py") & inherited
    used_of_cycle = attributes_of({"cycle", "self.cycle", "self._cycle"}, "protocol.py", "response_framing.py")

    assert used == set(CONNECTION)
    assert used_of_cycle == set(CYCLE)
    assert attributes_of({"self.flow"}, "protocol.py") == set(FLOW)
