"""The media type of a request body, also if `Content-Type` is repeated.

HTTP clients join repeated headers with commas: Node's `fetch` sends `application/json, application/json` when a client
sets the header twice.
"""

import re

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import Scope

_MEMBER = re.compile(r'(?:[^",]++|"(?:[^"\\]++|\\.)*+"?)++', re.DOTALL)
_PARAMETER = re.compile(r';\s*+([^\s=;"]++)=((?:[^";]++|"(?:[^"\\]++|\\.)*+"?)*+)', re.DOTALL)

JSON, FORM = "application/json", "multipart/form-data"


def normalize(scope: Scope) -> None:
    """Replace repeated `Content-Type` headers by one: the type if all are the same, otherwise all of them joined."""
    headers = MutableHeaders(scope=scope)
    sent = ", ".join(headers.getlist("content-type"))
    if "," in sent:
        headers["content-type"] = _agreed(sent) or sent


def media_type(headers: Headers) -> str:
    """Return the type in lower case without parameters; empty without a header, all values joined if they differ."""
    sent = headers.get("content-type", "")
    return sent if len(_members(sent)) > 1 else sent.partition(";")[0].strip().lower()


def matches(given: str, wanted: str) -> bool:
    """Return whether a route for the type `wanted` reads a body of type `given`. JSON includes `application/*+json`."""
    return given == wanted or (wanted == JSON and given.startswith("application/") and given.endswith("+json"))


def _members(sent: str) -> list[str]:
    return [member.strip() for member in _MEMBER.findall(sent) if member.strip()]


def _agreed(sent: str) -> str | None:
    members = _members(sent)
    types = {member.partition(";")[0].strip().lower() for member in members}
    parameters: dict[str, str] = {}
    for member in members:
        for name, value in _PARAMETER.findall(member):
            known = parameters.setdefault(name.lower(), value.strip())
            if known.strip('"').lower() != value.strip().strip('"').lower():
                return None
    return "; ".join([*types, *(f"{name}={value}" for name, value in parameters.items())]) if len(types) == 1 else None
