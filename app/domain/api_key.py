"""Callers that have keys in the database, and their secrets.

A secret is `gim_`, 32 random base62 characters, and a checksum. The checksum tells a typing error from an unknown key
without a look-up, and lets scanners recognise a secret in a file.
"""

import hashlib
import re
import secrets
import string
import zlib
from dataclasses import dataclass
from enum import Enum
from typing import Final

from app.domain.limits import Limits

PREFIX = "gim_"
"""What every secret of the database begins with."""

_ALPHABET = string.digits + string.ascii_uppercase + string.ascii_lowercase
_RANDOM_CHARACTERS = 32
_CHECKSUM_CHARACTERS = 6
_SECRET = re.compile(rf"{PREFIX}[0-9A-Za-z]{{{_RANDOM_CHARACTERS + _CHECKSUM_CHARACTERS}}}")

_HINT_CHARACTERS = 10

_MAX_NAME_CHARACTERS = 64


class Unchanged(Enum):
    UNCHANGED = "unchanged"


UNCHANGED: Final = Unchanged.UNCHANGED
"""Leave a value as it is, where `None` would remove it."""


@dataclass(frozen=True, slots=True)
class NewSecret:
    """A secret that is to be stored. Only its digest is."""

    digest: str
    """SHA-256 of the secret in hexadecimal."""
    hint: str
    """The first characters of the secret, by which people recognise it."""
    expires_in: float | None = None
    """Seconds; `None` if it does not expire."""


@dataclass(frozen=True, slots=True)
class SecretRecord:
    """A stored secret. Times are Unix times in seconds by the database's clock."""

    hint: str
    created_at: float
    expires_at: float | None
    revoked_at: float | None
    is_valid: bool
    """Whether it is neither expired nor revoked."""


@dataclass(frozen=True, slots=True)
class CallerRecord:
    name: str
    created_at: float
    limits: Limits
    track_users: bool
    """Whether usage is kept by end user too."""
    secrets: tuple[SecretRecord, ...] = ()
    """The newest first."""

    @property
    def is_valid(self) -> bool:
        return any(secret.is_valid for secret in self.secrets)


@dataclass(frozen=True, slots=True)
class KnownCaller:
    """What authentication needs to know of a caller in the database."""

    name: str
    limits: Limits
    track_users: bool


def make_secret() -> str:
    """Return a new secret."""
    start = PREFIX + "".join(secrets.choice(_ALPHABET) for _ in range(_RANDOM_CHARACTERS))
    return start + _checksum(start)


def is_well_formed(secret: str) -> bool:
    """Return whether a text has the form of a secret of the database, and the right checksum."""
    if not _SECRET.fullmatch(secret):
        return False
    return _checksum(secret[:-_CHECKSUM_CHARACTERS]) == secret[-_CHECKSUM_CHARACTERS:]


def digest_of(secret: str) -> str:
    """Return what is stored of a secret: its SHA-256 in hexadecimal."""
    return hashlib.sha256(secret.encode()).hexdigest()


def hint_of(secret: str) -> str:
    """Return the first characters of a secret. The remaining ones are far too many to guess."""
    return secret[:_HINT_CHARACTERS]


def require_name(name: str) -> str:
    """Return the name of a caller if it is allowed.

    It must fit into `SERVICE_API_KEYS` and into a path.

    Raises:
        ValueError: it is not allowed.
    """
    if not 1 <= len(name) <= _MAX_NAME_CHARACTERS:
        raise ValueError(f"must have 1 to {_MAX_NAME_CHARACTERS} characters")
    if not name.isprintable() or name != name.strip() or any(one in name for one in ",:/") or name in (".", ".."):
        raise ValueError("must be printable, without commas, colons and slashes, and without spaces at its ends")
    return name


def _checksum(text: str) -> str:
    """Return the CRC32 of a text as six base62 digits."""
    value, digits = zlib.crc32(text.encode()), ""
    for _ in range(_CHECKSUM_CHARACTERS):
        value, digit = divmod(value, len(_ALPHABET))
        digits = _ALPHABET[digit] + digits
    return digits
