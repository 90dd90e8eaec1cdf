"""The checks before the service starts: its settings, their environment, and whether they are safe to serve with.

All errors are reported at once. Each one is a sentence that names a variable and quotes no value that may be a secret.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

from pydantic import SecretStr

from app.lib.loopback import is_loopback
from app.server.environment_checks import check_listening, find_environment_errors
from app.server.settings_errors import SettingError
from app.server.settings_reader import find_mistyped_variables, find_unlisted_models, read_settings
from app.settings import Settings, UnsafeConfiguration

SECRET_LENGTH = 16
"""Minimum characters of a secret if other machines can reach the service and try secrets."""

DIFFERENT_CHARACTERS = 8

EXAMPLE_WORDS = ("changeme", "password", "secret")
"""Words of secrets in examples."""


@dataclass(frozen=True, slots=True)
class CheckedEnvironment:
    """The settings, and what is wrong with them and with the rest of the environment."""

    settings: Settings
    """Each invalid setting has its default, or a placeholder."""
    errors: list[SettingError] = field(default_factory=list)
    warnings: list[SettingError] = field(default_factory=list)

    is_demo_without_key: bool = False
    """Whether `DEMO` was set here because there are no credentials for Gemini."""

    @property
    def invalid_variables(self) -> set[str]:
        return {error.variable for error in self.errors}

    def require_valid(self) -> Settings:
        """Return the settings.

        Raises:
            UnsafeConfiguration: there are errors.
        """
        if self.errors:
            raise UnsafeConfiguration("\n".join(map(str, self.errors)))
        return self.settings

    def require_startable(self, host: str | None = None) -> Settings:
        """Return the settings for a process that serves.

        Args:
            host: the address that the server will listen on; None if it is not known.

        Raises:
            UnsafeConfiguration: there are errors, or the service is not safe to start.
        """
        messages = list(map(str, self.errors))
        try:
            require_startable(self.settings, host)
        except UnsafeConfiguration as error:
            messages.append(str(error))
        if messages:
            raise UnsafeConfiguration("\n".join([*messages, *map(str, self.warnings)]))
        return self.settings


def check_environment(*, demo_without_key: bool = False, listening: bool = False) -> CheckedEnvironment:
    """Read the settings and check them, together with the environment variables that libraries read.

    Args:
        demo_without_key: set `DEMO` if there are no credentials for Gemini.
        listening: check that a server can listen on `HOST` and `PORT`.
    """
    settings, errors = read_settings()
    has_key = settings.has_credentials or settings.google_genai_use_vertexai
    is_demo_without_key = demo_without_key and not settings.demo and not has_key
    if is_demo_without_key:
        settings = settings.model_copy(update={"demo": True})
    invalid = {error.variable for error in errors}
    errors += [error for error in find_environment_errors(settings) if error.variable not in invalid]
    if listening and not invalid & {"HOST", "PORT"}:
        errors += filter(None, [check_listening(settings.host, settings.port)])
    warnings = [*find_mistyped_variables(), *find_unlisted_models(settings)]
    return CheckedEnvironment(settings, errors, warnings, is_demo_without_key)


def require_startable(settings: Settings, host: str | None = None) -> None:
    """Check that the service has credentials for Gemini, and that only callers of the operator's choice reach it.

    Args:
        settings: the settings to check.
        host: the address that the server will listen on; None if it is not known.

    Raises:
        UnsafeConfiguration: the message has one line for each reason, and each line names the variables to set.
    """
    reasons = [
        settings.missing_credentials,
        _shared_admin_key(settings),
        *(_unsafe_access(settings, host) if host is not None else ()),
    ]
    if any(reasons):
        raise UnsafeConfiguration("\n".join(filter(None, reasons)))


def _shared_admin_key(settings: Settings) -> str | None:
    if settings.admin_api_key in [key.secret for key in settings.service_api_keys]:
        return (
            "ADMIN_API_KEY is also the secret of a caller in SERVICE_API_KEYS. Give administrators a key of their own."
        )
    return None


def _unsafe_access(settings: Settings, host: str) -> Iterator[str]:
    if is_loopback(host):
        return
    if not settings.guarded:
        yield (
            f"With HOST={host}, other machines could spend your money. Set SERVICE_API_KEYS=name:secret, or "
            "REQUIRE_KEYS=true if all keys are in the database. Or set ALLOW_ANONYMOUS=true if a proxy in front "
            "authenticates callers."
        )
    rule = (
        f"With HOST={host}, a secret needs at least {SECRET_LENGTH} characters, {DIFFERENT_CHARACTERS} of them "
        f"different, and none of the words {', '.join(EXAMPLE_WORDS)}. `openssl rand -hex 16` makes a good one."
    )
    weak = {key.name: None for key in settings.service_api_keys if _can_be_guessed(key.secret)}
    if weak:
        yield f"SERVICE_API_KEYS: the secret of {', '.join(weak)} can be guessed. {rule}"
    if settings.admin_api_key is not None and _can_be_guessed(settings.admin_api_key):
        yield f"ADMIN_API_KEY: the secret can be guessed. {rule}"


def _can_be_guessed(key: SecretStr) -> bool:
    secret = key.get_secret_value()
    return (
        len(secret) < SECRET_LENGTH
        or len(set(secret)) < DIFFERENT_CHARACTERS
        or any(word in secret.lower() for word in EXAMPLE_WORDS)
    )
