"""Text that Gemini writes beside the image, without base64 in it."""

import re
from collections.abc import Iterable

_BASE64_IN_TEXT = re.compile(
    r"(?:data:[\w./+-]++;base64,\s*+|(?<![A-Za-z0-9+/_-]))"
    r"(?:[A-Za-z0-9+/_-]{400,}+|(?:[A-Za-z0-9+/_-]{40,}+\s++){5,}+[A-Za-z0-9+/_-]*+)={0,2}"
    r"|data:image/[\w.+-]++;base64,\S*+"
)
"""Base64 on one line or on several, with or without the start of a data URL.

The quantifiers are possessive and a match starts only at the start of a word, so that no text causes backtracking.
"""

_TO_X_OR_SPACE = bytes(
    120 if chr(byte) in "+/_-" or (byte < 128 and chr(byte).isalnum()) else 32 for byte in range(256)
)
"""Translates each base64 character to `x` and any other byte to a space."""

_SHORTEST_LINE = b"x" * 40

_MAX_CHARACTERS_WITH_BASE64 = 256 * 1024
"""Characters that are kept of a text with base64 in it."""


def without_base64(text: str | None) -> str | None:
    """Return the text with each base64 string replaced by a note. Models sometimes write an image as text."""
    if not text:
        return text
    # Nearly no text has base64. This check takes a hundredth of the regular expression's time.
    characters = text.encode(errors="surrogatepass").translate(_TO_X_OR_SPACE)
    if _SHORTEST_LINE not in characters and "data:image/" not in text:
        return text
    return _BASE64_IN_TEXT.sub("[base64 left out]", text[:_MAX_CHARACTERS_WITH_BASE64])


def join_text(texts: Iterable[str | None]) -> str | None:
    """Return the texts of several parts as one, without base64, or `None` if there is no text."""
    return without_base64("".join(filter(None, texts))) or None
