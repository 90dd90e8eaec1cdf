"""Base64 as it comes from outside: in either alphabet, padded or not."""

import pybase64


def decode(text: str) -> bytes:
    """Decode standard or URL-safe base64.

    Raises:
        ValueError: a character belongs to neither alphabet, white space included, or the length fits no bytes.
    """
    altchars = b"-_" if "-" in text or "_" in text else None
    return pybase64.b64decode(text + "=" * (-len(text) % 4), altchars=altchars, validate=True)
