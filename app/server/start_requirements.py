"""What the service requires of its settings before it starts: credentials for Gemini, and a limit on who may call."""

from collections.abc import Iterator

from app.lib.loopback import is_loopback
from app.settings import Settings

SECRET_LENGTH = 16
"""Minimum characters of a caller's secret if other machines can reach the service: they can try secrets."""


class UnsafeConfiguration(SystemExit):
    """The service must not start with these settings. The message has one sentence for each reason.

    If the exception is not caught, Python prints the message and ends the process with exit code 1. This works under
    every ASGI server.
    """


def require_startable(settings: Settings, host: str | None = None) -> None:
    """Check that the service has credentials for Gemini and does not serve unknown callers at the operator's expense.

    Args:
        settings: the settings to check.
        host: the address that the server will listen on; None if another program's server listens.

    Raises:
        UnsafeConfiguration: the message has one line for each reason, and each line names the variables to set.
    """
    reasons = [*_missing_credentials(settings), *(_unsafe_access(settings, host) if host is not None else ())]
    if reasons:
        raise UnsafeConfiguration("\n".join(reasons))


def _missing_credentials(settings: Settings) -> Iterator[str]:
    if settings.demo or settings.has_credentials:
        return
    variables = (
        "GOOGLE_CLOUD_PROJECT (or GOOGLE_API_KEY for express mode)"
        if settings.google_genai_use_vertexai
        else "GEMINI_API_KEY, or GOOGLE_GENAI_USE_VERTEXAI and GOOGLE_CLOUD_PROJECT"
    )
    yield f"There are no credentials for Gemini. Set {variables}; or DEMO=true for the emulator."


def _unsafe_access(settings: Settings, host: str) -> Iterator[str]:
    if is_loopback(host):
        return
    if not settings.guarded:
        yield (
            f"HOST={host} lets every machine that reaches this address spend your money. "
            "Set SERVICE_API_KEYS=name:secret, or ALLOW_ANONYMOUS=true if a proxy in front authenticates callers."
        )
    short = [key.name for key in settings.service_api_keys if len(key.secret.get_secret_value()) < SECRET_LENGTH]
    if short:
        yield (
            f"SERVICE_API_KEYS: the secret of {', '.join(short)} is too short and can be guessed. With HOST={host} a "
            f"secret has at least {SECRET_LENGTH} characters. `openssl rand -hex 16` makes a good one."
        )
