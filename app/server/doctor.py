"""`python -m app doctor`: check whether a service with these settings would work, without spending money.

The checks list Gemini's models, write and delete a small blob, and compare clocks. A check that depends on an invalid
setting is skipped and names the setting. The exit code is 0 if there are no failures (warnings are allowed), else 1.
"""

import asyncio
import re
from collections.abc import AsyncGenerator, Callable, Set
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from app.domain.errors import ServiceError
from app.gemini import GeminiClient
from app.lib.event_loop_scheduler import FairScheduler
from app.server.environment_checks import check_listening
from app.server.error_causes import describe_cause
from app.server.exit import exit_process
from app.server.findings import Finding, Verdict, failure, ok, skipped, warning
from app.server.settings_errors import env_names
from app.server.start_checks import check_environment, require_startable
from app.server.storage_checks import MAX_CLOCK_SKEW, check_storage
from app.settings import Settings, UnsafeConfiguration

_PROCESS_BYTES = 150 * 1024 * 1024
"""Memory of the process without images but with chats in use (deploy/README.md)."""

_RETIREMENT_NOTICE = timedelta(days=60)

_CHECK_TIMEOUT_SECONDS = 60


Check = Callable[[Settings], AsyncGenerator[Finding]]


def changed_settings(settings: Settings) -> list[str]:
    """Return a line `NAME=value` for each setting that differs from its default, with secrets masked."""
    lines = []
    for name, field in Settings.model_fields.items():
        value = getattr(settings, name)
        if value != field.get_default(call_default_factory=True):
            lines.append(f"{env_names(name)[-1]}={_masked(name, value)}")
    return lines


def _masked(name: str, value: Any) -> str:
    if name == "service_api_keys":
        return ",".join(f"{key.name}:***" for key in value)
    return "***" if isinstance(value, SecretStr) else re.sub(r"//[^/@]*@", "//***@", str(value))


async def check_access(settings: Settings) -> AsyncGenerator[Finding]:
    if error := check_listening(settings.host, settings.port):
        # In a container the service itself usually runs already, so a port in use is only a warning.
        yield (warning if error.variable == "PORT" else failure)("start", str(error))
    try:
        require_startable(settings, settings.host)
    except UnsafeConfiguration as unsafe:
        for line in str(unsafe).splitlines():
            yield failure("start", line)
        return
    if settings.keys_required:
        access = "callers with a key"
    else:
        access = "everyone who can reach it" if settings.allow_anonymous else "this machine only"
    yield ok("start", f"listens on {settings.host}:{settings.port} for {access}.")
    if settings.demo:
        yield warning("start", "DEMO: the built-in emulator draws the pictures; Gemini is not called.")


async def check_gemini(settings: Settings) -> AsyncGenerator[Finding]:
    if settings.demo or not settings.has_credentials:
        reason = "of DEMO, which does not call Gemini" if settings.demo else "there are no credentials for Gemini"
        yield skipped("credentials", f"not checked, nor are models and Google's clock, because {reason}.")
        return
    async with GeminiClient(settings, FairScheduler()) as gemini:
        try:
            listing = await gemini.listing()
        except ServiceError as error:
            yield failure("credentials", f"{error.detail} ({describe_cause(error)})")
            yield skipped("models", "not checked, nor is Google's clock, because the call to Gemini failed.")
            return
    yield ok("credentials", f"Gemini accepts the credentials and offers {len(listing.models)} models.")
    for finding in _check_models(settings, listing.models):
        yield finding
    if listing.date is not None:
        skew = abs(datetime.now(UTC) - listing.date)
        message = f"{skew.total_seconds():.0f} s from Google's clock."
        yield (
            ok("clock", message) if skew < MAX_CLOCK_SKEW else warning("clock", f"{message} Set this machine's clock.")
        )


def _check_models(settings: Settings, offered: frozenset[str]) -> list[Finding]:
    findings = []
    catalogue = settings.catalogue
    settings_with_models = {"DEFAULT_MODEL": settings.default_model, "FALLBACK_MODEL": settings.fallback_model}
    for setting, name in settings_with_models.items():
        if name is None:
            continue
        model = catalogue.resolve(name).model
        if model.id in offered:
            findings.append(ok("models", f"{setting} {model.id} is offered to this key."))
        else:
            findings.append(failure("models", f"{setting} {model.id} is not offered to this key."))
        if model.retires is not None and model.retires <= date.today() + _RETIREMENT_NOTICE:  # noqa: DTZ011 - the operator's time zone
            replacement = f"; {model.replacement} replaces it" if model.replacement else ""
            findings.append(warning("models", f"Google may switch off {model.id} from {model.retires}{replacement}."))
        elif model.status == "deprecated":
            findings.append(warning("models", model.deprecation()))
    missing = sorted(set(catalogue.models) - offered)
    if missing:
        findings.append(warning("models", f"In the catalogue but not offered to this key: {', '.join(missing)}."))
    return findings


async def check_machine(settings: Settings) -> AsyncGenerator[Finding]:
    limit = _memory_limit()
    needed = _PROCESS_BYTES + settings.max_buffered_bytes * 6 // 5
    if limit is None:
        yield ok("memory", f"no limit; the service needs up to {_mib(needed)}.")
        return
    message = f"the limit is {_mib(limit)}; the service needs up to {_mib(needed)}."
    if limit < needed:
        buffered = max(2, (limit - _PROCESS_BYTES) * 5 // 6)
        yield warning("memory", f"{message} Set MAX_BUFFERED_BYTES to {buffered}.")
    else:
        yield ok("memory", message)


def _memory_limit() -> int | None:
    """Return the container's limit in bytes, from control groups version 2 or 1; None if there is none."""
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            text = Path(path).read_text().strip()
        except OSError:
            continue
        if text.isdecimal() and int(text) < 1 << 60:
            return int(text)
    return None


def _mib(count: int) -> str:
    return f"{count // (1024 * 1024):,} MiB"


_GEMINI_VARIABLES = (
    *("GEMINI_API_KEY", "GOOGLE_API_KEY", "GOOGLE_GENAI_USE_VERTEXAI", "GOOGLE_GENAI_USE_ENTERPRISE"),
    *("GOOGLE_CLOUD_PROJECT", "GOOGLE_CLOUD_LOCATION", "GOOGLE_GEMINI_BASE_URL", "GOOGLE_VERTEX_BASE_URL"),
    *("GOOGLE_GENAI_API_VERSION", "GOOGLE_APPLICATION_CREDENTIALS", "GOOGLE_GENAI_HTTP_CLIENT"),
    *("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"),
    *("SSL_CERT_FILE", "SSL_CERT_DIR", "SSLKEYLOGFILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"),
)
_STORAGE_VARIABLES = (
    *("DATABASE_URL", "BLOB_URL", "DATA_DIR", "AUTO_MIGRATE", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"),
    *("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"),
)

CHECKS: tuple[tuple[str, Check, tuple[str, ...]], ...] = (
    ("start", check_access, ("HOST", "PORT", "SERVICE_API_KEYS", "REQUIRE_KEYS", "ADMIN_API_KEY", "ALLOW_ANONYMOUS")),
    ("credentials", check_gemini, _GEMINI_VARIABLES),
    ("database", check_storage, _STORAGE_VARIABLES),
    ("memory", check_machine, ("MAX_BUFFERED_BYTES",)),
)
"""The subject of each check, the check, and the variables that it depends on."""


async def run_checks(
    settings: Settings, report: Callable[[Finding], Any], invalid_variables: Set[str] = frozenset()
) -> bool:
    """Run all checks. Return whether a service with these settings would work.

    Args:
        settings: the settings; each invalid one has its default.
        report: is called with each finding.
        invalid_variables: checks that depend on one of these are skipped.
    """
    works = not invalid_variables
    for subject, check, variables in CHECKS:
        if invalid := sorted(invalid_variables & set(variables)):
            report(skipped(subject, f"not checked, because {', '.join(invalid)} must be corrected first."))
            continue
        try:
            async with asyncio.timeout(_CHECK_TIMEOUT_SECONDS):
                async for finding in check(settings):
                    report(finding)
                    works = works and finding.verdict is not Verdict.FAILURE
        except TimeoutError:
            report(failure(subject, f"no answer within {_CHECK_TIMEOUT_SECONDS} seconds"))
            works = False
        except Exception as error:  # the other checks must still run
            report(failure(subject, f"the check failed: {describe_cause(error)}"))
            works = False
    return works


def main() -> None:
    environment = check_environment()
    settings = environment.settings
    for error in environment.errors:
        print(failure("settings", str(error)))
    for one in environment.warnings:
        print(warning("settings", str(one)))
    changed = changed_settings(settings)
    if not environment.errors:
        print(ok("settings", f"{len(changed)} of {len(Settings.model_fields)} settings differ from their default."))
    for line in changed:
        print(f"{'':<22}{line}")
    exit_process(0 if asyncio.run(run_checks(settings, print, environment.invalid_variables)) else 1)
