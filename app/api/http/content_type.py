"""The type that a request gives its body, however often it says so.

HTTP joins headers of one name with commas. Node's `fetch` sends `application/json, application/json` when a client sets
the header twice.
"""

import re

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import Scope

_MEMBER = re.compile(r'(?:[^",]++|"(?:[^"\\]++|\\.)*+"?)++', re.DOTALL)
_PARAMETER = re.compile(r';\s*+([^\s=;"]++)=((?:[^";]++|"(?:[^"\\]++|\\.)*+"?)*+)', re.DOTALL)

JSON, FORM = "application/json", "multipart/form-data"


def normalize(scope: Scope) -> None:
    """Give the request one `Content-Type`: the type that all members agree on, else everything that was sent."""
    headers = MutableHeaders(scope=scope)
    sent = ", ".join(headers.getlist("content-type"))
    if "," in sent:
        headers["content-type"] = _agreed(sent) or sent


def media_type(headers: Headers) -> str:
    """The type without its parameters, in lower case. It is empty if none was sent, and no type if several were."""
    sent = headers.get("content-type", "")
    return sent if len(_members(sent)) > 1 else sent.partition(";")[0].strip().lower()


def matches(given: str, wanted: str) -> bool:
    """Whether `given`, a `media_type`, is read where `negotiate` is. JSON has many names."""
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
