"""Google's JSON conventions: two spellings of keys, two base64 alphabets, and the format of errors."""

import base64
import re
from typing import Any

STATUS_NAMES = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    429: "RESOURCE_EXHAUSTED",
    500: "INTERNAL",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}
"""Google's canonical names of HTTP statuses."""


class ApiError(Exception):
    """An error response in Google's format."""

    def __init__(
        self, code: int, message: str, status: str | None = None, details: list[dict[str, Any]] | None = None
    ) -> None:
        super().__init__(message)
        self.code = code
        self.document = {
            "error": {
                "code": code,
                "message": message,
                "status": status or STATUS_NAMES.get(code, "UNKNOWN"),
                **({"details": details} if details else {}),
            }
        }


def camel_keys(value: Any) -> Any:
    """Return the JSON value with camelCase keys. A request may mix both spellings."""
    if isinstance(value, dict):
        return {_camel_key(key): camel_keys(child) for key, child in value.items()}
    if isinstance(value, list):
        return [camel_keys(child) for child in value]
    return value


def _camel_key(key: str) -> str:
    return re.sub(r"_([a-z0-9])", lambda match: match[1].upper(), key)


def snake_case(key: str) -> str:
    return re.sub(r"(?<=[a-z0-9])([A-Z])", lambda match: f"_{match[1].lower()}", key)


def from_base64(text: Any) -> bytes:
    """Decode either alphabet, padded or not.

    Raises:
        ApiError: the text is not base64.
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
