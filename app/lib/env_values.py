"""Parsers for the values of environment variables.

Error texts follow the name of the variable in a sentence. They never quote a value, because it may be a secret.
"""

import base64
import binascii
import ipaddress
import json
import re
from typing import Any
from urllib.parse import urlsplit

_SECONDS_PER_UNIT = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400}


def parse_comma_separated(value: Any) -> Any:
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    return value


def parse_json(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError) as error:
        raise ValueError("is not valid JSON") from error


def parse_duration(value: Any) -> Any:
    """Return `30d`, `12h`, `90m`, `45s` or `45` as seconds. Return other types and ISO 8601's `P30D` unchanged."""
    if not isinstance(value, str) or value.strip().upper().startswith("P"):
        return value
    number = re.fullmatch(r"\s*(\d{1,12}(?:\.\d{1,12})?)\s*([smhd]?)\s*", value)
    if number is None:
        raise ValueError("is not a number of seconds or a duration such as 30d, 12h or 90m")
    return float(number[1]) * _SECONDS_PER_UNIT[number[2]]


def parse_named_secrets(value: Any) -> Any:
    """Return `name:secret,name:secret` as a list of dictionaries with the keys `name` and `secret`."""
    if not isinstance(value, str):
        return value
    pairs: list[dict[str, str]] = []
    for pair in parse_comma_separated(value):
        name, _, secret = (part.strip() for part in pair.partition(":"))
        if not name or not secret:
            raise ValueError("write name:secret, and separate several of them with commas")
        if error := key_error(secret):
            raise ValueError(f"secret number {len(pairs) + 1} {error}")
        if not name.isprintable():
            raise ValueError(f"name number {len(pairs) + 1} has characters that cannot be printed")
        if any(other["secret"] == secret and other["name"] != name for other in pairs):
            raise ValueError(f"secret number {len(pairs) + 1} is also the secret of another name")
        pairs.append({"name": name, "secret": secret})
    return pairs


def key_error(key: str) -> str | None:
    """Return why an HTTP header cannot carry `key` unchanged; None if it can. The text does not quote the key."""
    if len(key) > 1 and key[0] == key[-1] and key[0] in "\"'`":
        return "has quotation marks around it, which are part of the value; remove them"
    for position, character in enumerate(key, 1):
        if not "!" <= character <= "~":
            kind = _kind_of(character)
            return f"has {kind} as character {position} of {len(key)}; a key has only ASCII characters and no spaces"
    return None


def _kind_of(character: str) -> str:
    if character == "\ufeff":
        return "a byte order mark (U+FEFF)"
    if character.isspace():
        return "a space or a line break"
    return "a character that is not ASCII" if character > "\x7f" else "a control character"


def is_http_url(url: str) -> bool:
    """Return whether `url` is an http or https URL with a host, in printable ASCII without spaces."""
    try:
        parts = urlsplit(url)
        has_host = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False
    return has_host and all("!" <= character <= "~" for character in url)


def require_http_url(url: str) -> str:
    if not is_http_url(url):
        raise ValueError("is not a URL such as https://host or http://host:port")
    return url


def require_base_url(url: str) -> str:
    """Return a URL to which a path can be appended: of a scheme, a host, and at most a port and a path."""
    if not is_http_url(url) or not re.fullmatch(r"https?://[^/?#@\\]+(/[\w.~!$&'()*+,;=:@%/-]*)?", url, re.IGNORECASE):
        raise ValueError("must be an address such as https://host or https://host:port/path, without user, ? and #")
    return url


def require_origins(origins: tuple[str, ...]) -> tuple[str, ...]:
    """Return web origins as browsers write them: scheme, host and port, without a final slash; or `*`."""
    for origin in origins:
        if origin != "*" and not re.fullmatch(r"https?://[^/\s]+/?", origin):
            raise ValueError("write origins as scheme://host or scheme://host:port, separated by commas; or *")
    return tuple(origin.rstrip("/") for origin in origins)


def require_hosts(values: tuple[str, ...]) -> tuple[str, ...]:
    """Return host names in lower case, and networks as they are."""
    for value in values:
        if not re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?", value) and not _is_network(value):
            raise ValueError("must be host names, addresses or networks such as 10.1.0.0/16")
    return tuple(value.lower() for value in values)


def _is_network(value: str) -> bool:
    try:
        ipaddress.ip_network(value, strict=False)
    except ValueError:
        return False
    return True


def webhook_secret_error(secret: str) -> str | None:
    """Return what is wrong with a secret of Standard Webhooks; `None` if it is valid."""
    try:
        key = base64.b64decode(secret.removeprefix("whsec_"), validate=True)
    except binascii.Error:
        key = b""
    if not secret.startswith("whsec_") or not 24 <= len(key) <= 64:
        return "must be whsec_ and 24 to 64 bytes as base64: echo whsec_$(openssl rand -base64 32)"
    return None
