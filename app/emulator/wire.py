"""Google's JSON habits: either spelling of a key and either base64 alphabet comes in, errors go out in envelopes."""

import base64
import re
from typing import Any

from app.emulator.faults import CANONICAL


class ApiError(Exception):
    """An error as Google would answer it."""

    def __init__(
        self, code: int, message: str, status: str | None = None, details: list[dict[str, Any]] | None = None
    ) -> None:
        super().__init__(message)
        self.code = code
        self.document = {
            "error": {
                "code": code,
                "message": message,
                "status": status or CANONICAL.get(code, "UNKNOWN"),
                **({"details": details} if details else {}),
            }
        }


def camel(value: Any) -> Any:
    """The same JSON with camelCase keys, for a request that may use both spellings at once."""
    if isinstance(value, dict):
        return {_camel_key(key): camel(child) for key, child in value.items()}
    if isinstance(value, list):
        return [camel(child) for child in value]
    return value


def _camel_key(key: str) -> str:
    return re.sub(r"_([a-z0-9])", lambda match: match[1].upper(), key)


def snake(key: str) -> str:
    return re.sub(r"(?<=[a-z0-9])([A-Z])", lambda match: f"_{match[1].lower()}", key)


def from_base64(text: Any) -> bytes:
    """Decode either alphabet, padded or not.

    Raises:
        ApiError: it is no base64.
    """
    if isinstance(text, str):
        plain = text.translate(str.maketrans("-_", "+/"))
        try:
            return base64.b64decode(plain + "=" * (-len(plain) % 4), validate=True)
        except ValueError:
            pass
    raise ApiError(400, "Invalid value (TYPE_BYTES), Base64 decoding failed for the field.")


def to_base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
