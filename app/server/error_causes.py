"""Why something did not work, in words for an operator: from an exception, without its class's name or any secret."""

import errno
import json
import os
import re
import socket
import ssl
from collections.abc import Iterator

from app.domain.errors import ServiceError

_WORDS = {
    "DefaultCredentialsError": "there are no application default credentials; set GOOGLE_APPLICATION_CREDENTIALS",
    "RefreshError": "Google does not accept the application default credentials",
    "TransportError": "Google's servers for credentials cannot be reached",
    "ConnectTimeout": "no connection came about in time",
    "ProxyError": "the proxy refuses",
    "RemoteProtocolError": "the other side does not speak HTTP as it should, or hung up",
    "PermissionDeniedError": "permission denied",
    "UnauthenticatedError": "the credentials are not accepted",
    "NotFoundError": "there is none of that name",
    "ReadOnlyError": "it cannot be written to",
    "InvalidPathError": "the path cannot be used",
}
"""By the name of the exception's class, for libraries that need not be loaded to tell."""


def describe_cause(error: BaseException) -> str:
    """The most telling cause in `error`'s chain of causes, as part of a sentence."""
    chain = list(_chain(error))
    for one in reversed(chain):
        if words := _of_system(one) or _of_libraries(one):
            return words
    for one in chain:
        if isinstance(one, ServiceError) and one.cause and _is_words(one.cause):
            return one.cause
    return "for a reason that this check does not know; LOG_LEVEL=debug and the service's log may tell"


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        if isinstance(error, BaseExceptionGroup):
            yield from _chain(error.exceptions[0])
        error = getattr(error, "orig", None) or error.__cause__ or error.__context__


def _of_system(error: BaseException) -> str | None:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the certificate is not trusted: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        return "no TLS connection can be made: the other side may not speak TLS"
    if isinstance(error, socket.gaierror):
        return "the host's name cannot be resolved"
    if isinstance(error, TimeoutError) and error.errno is None:
        return "there was no answer in time"
    if isinstance(error, OSError) and error.errno is not None:
        return _first_down(os.strerror(error.errno)) if error.errno in errno.errorcode else None
    return "it is not JSON" if isinstance(error, json.JSONDecodeError) else None


def _of_libraries(error: BaseException) -> str | None:
    name, module = type(error).__name__, type(error).__module__
    if module.startswith("psycopg") or module == "sqlite3":
        return _first_down(" ".join(str(error).split())) or None
    if module.startswith("obstore") and name not in _WORDS:
        return re.sub(r"^Generic \S+ error: ", "", str(error).partition("\n")[0]) or None
    return _WORDS.get(name)


def _first_down(words: str) -> str:
    return words[:1].lower() + words[1:]


def _is_words(cause: str) -> bool:
    """Whether it says more than the name of an exception."""
    return not re.search(r"(Error|Exception|Timeout)\b", cause)
