"""Callers that have keys in the database, and their secrets."""

from dataclasses import dataclass

from app.domain.limits import Limits


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
