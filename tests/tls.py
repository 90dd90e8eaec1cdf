"""TLS for tests: a certificate authority, and servers with certificates of it for localhost."""

import asyncio
import ssl
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import cache
from pathlib import Path
from typing import Any

import trustme
import uvicorn


@cache
def authority() -> trustme.CA:
    return trustme.CA()


def write_certificate(directory: Path) -> str:
    """Write the authority's certificate into a file for `SSL_CERT_FILE`, and return the file's path."""
    path = str(directory / "ca.pem")
    authority().cert_pem.write_to_path(path)
    return path


def server_context(issuer: trustme.CA | None = None, host: str = "localhost") -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    (issuer or authority()).issue_cert(host).configure_cert(context)
    return context


@asynccontextmanager
async def served_with_tls(app: Any, issuer: trustme.CA | None = None, host: str = "localhost") -> AsyncGenerator[str]:
    """Serve `app` over TLS on 127.0.0.1, with a certificate from `issuer` for `host`, and yield its URL."""
    config = uvicorn.Config(app, log_config=None, access_log=False, lifespan="off", timeout_graceful_shutdown=1)
    config.load()
    server = uvicorn.Server(config)
    listener = await asyncio.get_running_loop().create_server(
        lambda: config.http_protocol_class(config, server.server_state, {}),  # type: ignore[call-arg]
        "127.0.0.1",
        0,
        ssl=server_context(issuer, host),
    )
    try:
        yield f"https://{host}:{listener.sockets[0].getsockname()[1]}"
    finally:
        for connection in list(server.server_state.connections):
            connection.shutdown()
        listener.close()
