"""Causes of exceptions, as text for the operator: without class names and secrets."""

import errno
import json
import os
import re
import socket
import ssl
from collections.abc import Iterator

from app.domain.errors import ServiceError

_TEXTS = {
    "DefaultCredentialsError": "there are no application default credentials; set GOOGLE_APPLICATION_CREDENTIALS",
    "RefreshError": "Google does not accept the application default credentials",
    "TransportError": "Google's servers for credentials cannot be reached",
    "ConnectTimeout": "the connection was not established in time",
    "ProxyError": "the proxy refused the connection",
    "RemoteProtocolError": "the server closed the connection or did not answer in valid HTTP",
    "PermissionDeniedError": "permission denied",
    "UnauthenticatedError": "the credentials are not accepted",
    "NotFoundError": "nothing has that name",
    "ReadOnlyError": "it cannot be written to",
    "InvalidPathError": "the path cannot be used",
}
"""By the name of the exception's class, so that the libraries need not be imported here."""


def describe_cause(error: BaseException) -> str:
    """Return the most specific cause in the chain of `error`, as part of a sentence."""
    chain = list(_chain(error))
    for one in reversed(chain):
        if text := _describe_system_error(one) or _describe_library_error(one):
            return text
    for one in chain:
        if isinstance(one, ServiceError) and one.cause and _is_text(one.cause):
            return one.cause
    return "the cause is unknown; the log may name it with LOG_LEVEL=debug"


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        if isinstance(error, BaseExceptionGroup):
            yield from _chain(error.exceptions[0])
        error = getattr(error, "orig", None) or error.__cause__ or error.__context__


def _describe_system_error(error: BaseException) -> str | None:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the certificate is not trusted: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        return "no TLS connection can be made; the server may not support TLS"
    if isinstance(error, socket.gaierror):
        return "the host's name cannot be resolved"
    if isinstance(error, TimeoutError) and error.errno is None:
        return "there was no answer in time"
    if isinstance(error, OSError) and error.errno is not None:
        return _lower_first(os.strerror(error.errno)) if error.errno in errno.errorcode else None
    return "it is not JSON" if isinstance(error, json.JSONDecodeError) else None


def _describe_library_error(error: BaseException) -> str | None:
    name, module = type(error).__name__, type(error).__module__
    if module.startswith("psycopg") or module == "sqlite3":
        return _lower_first(" ".join(str(error).split())) or None
    if module.startswith("obstore") and name not in _TEXTS:
        return re.sub(r"^Generic \S+ error: ", "", str(error).partition("\n")[0]) or None
    return _TEXTS.get(name)


def _lower_first(text: str) -> str:
    return text[:1].lower() + text[1:]


def _is_text(cause: str) -> bool:
    """Return whether `cause` is more than the name of an exception."""
    return not re.search(r"(Error|Exception|Timeout)\b", cause)
