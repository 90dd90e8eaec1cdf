"""`python -m app doctor`: whether a service with these settings would work, found out for nothing.

It spends no money: Gemini is asked for its models, the storage for a small file and the time. A check that cannot be
made is skipped, and says why. Exit code 0 says that everything is fine, or that there are warnings; 1 that something
has to be changed before the service will work.
"""

import asyncio
import re
from collections.abc import AsyncGenerator, Callable, Set
from contextlib import aclosing
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from app.domain.errors import ServiceError
from app.gemini import GeminiClient
from app.lib.base64_json import BufferContent
from app.lib.scheduler import FairScheduler
from app.server.error_causes import describe_cause
from app.server.exit import exit_process
from app.server.settings_errors import env_names
from app.server.start_checks import check_environment, why_not_listening
from app.server.start_requirements import UnsafeConfiguration, require_startable
from app.settings import Settings
from app.store import Storage

_PROCESS_BYTES = 150 * 1024 * 1024
"""What the process takes without images, chats in use; deploy/README.md."""

_SKEW = timedelta(seconds=30)
"""Signed requests to buckets and Vertex are turned down from a few minutes on."""

_SOON = timedelta(days=60)

_CHECK_SECONDS = 60


class Verdict(StrEnum):
    OK = "ok"
    WARNING = "warning"
    FAILURE = "FAILURE"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class Finding:
    verdict: Verdict
    about: str
    said: str

    def __str__(self) -> str:
        return f"{self.verdict:<8} {self.about:<12} {self.said}"


Check = Callable[[Settings], AsyncGenerator[Finding]]


def ok(about: str, said: str) -> Finding:
    return Finding(Verdict.OK, about, said)


def warning(about: str, said: str) -> Finding:
    return Finding(Verdict.WARNING, about, said)


def failure(about: str, said: str) -> Finding:
    return Finding(Verdict.FAILURE, about, said)


def skipped(about: str, said: str) -> Finding:
    return Finding(Verdict.SKIPPED, about, said)


def changed_settings(settings: Settings) -> list[str]:
    """A line for each setting that is not as it comes, secrets masked."""
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
    if taken := why_not_listening(settings.host, settings.port):
        # The service itself may run already, which is the usual case in a container.
        yield (warning if taken.variable == "PORT" else failure)("start", str(taken))
    try:
        require_startable(settings, settings.host)
    except UnsafeConfiguration as error:
        for line in str(error).splitlines():
            yield failure("start", line)
        return
    door = "keys" if settings.service_api_keys else "nobody asks" if settings.allow_anonymous else "this machine only"
    yield ok("start", f"listens on {settings.host}:{settings.port}; who may call: {door}")
    if settings.demo:
        yield warning("start", "DEMO: pictures are drawn by the built-in emulator, not by Gemini.")


async def check_gemini(settings: Settings) -> AsyncGenerator[Finding]:
    if settings.demo or not settings.has_credentials:
        why = "of DEMO, which does not call Gemini" if settings.demo else "there are no credentials for Gemini"
        yield skipped("credentials", f"not checked, nor are models and Google's clock, because {why}.")
        return
    async with GeminiClient(settings, FairScheduler()) as gemini:
        try:
            listing = await gemini.listing()
        except ServiceError as error:
            yield failure("credentials", f"{error.detail} ({describe_cause(error)})")
            yield skipped("models", "not checked, nor is Google's clock, because Gemini could not be asked.")
            return
    yield ok("credentials", f"Gemini accepts them and offers {len(listing.models)} models.")
    for finding in _models(settings, listing.models):
        yield finding
    if listing.date is not None:
        skew = abs(datetime.now(UTC) - listing.date)
        said = f"{skew.total_seconds():.0f} s from Google's."
        yield ok("clock", said) if skew < _SKEW else warning("clock", f"{said} Set the machine's clock.")


def _models(settings: Settings, offered: frozenset[str]) -> list[Finding]:
    findings = []
    catalogue = settings.catalogue
    named = {"DEFAULT_MODEL": settings.default_model, "FALLBACK_MODEL": settings.fallback_model}
    for setting, name in named.items():
        if name is None:
            continue
        model = catalogue.resolve(name).model
        if model.id in offered:
            findings.append(ok("models", f"{setting} {model.id} is offered."))
        else:
            findings.append(failure("models", f"{setting} {model.id} is not among the models Gemini offers this key."))
        if model.retires is not None and model.retires <= date.today() + _SOON:  # noqa: DTZ011 - the operator's day
            instead = f"; {model.replacement} replaces it" if model.replacement else ""
            findings.append(warning("models", f"Google may switch off {model.id} from {model.retires}{instead}."))
        elif model.status == "deprecated":
            findings.append(warning("models", model.deprecation()))
    missing = sorted(set(catalogue.models) - offered)
    if missing:
        findings.append(warning("models", f"In the catalogue, but not offered to this key: {', '.join(missing)}."))
    return findings


async def check_storage(settings: Settings) -> AsyncGenerator[Finding]:
    from sqlalchemy import select

    from app.store.database import Database
    from app.store.migrate import migrate

    try:
        database = Database.of(settings)
        async with aclosing(database):
            await migrate(database, allowed=settings.auto_migrate)
            now = await database.read(lambda connection: connection.execute(select(database.now)).scalar_one())
    except ServiceError as error:
        yield failure("database", f"{error.detail} ({describe_cause(error)}) See DATABASE_URL, DATA_DIR.")
        yield skipped("blobs", "not checked, because that takes a database.")
        return
    kind = "SQLite, for one replica" if database.is_sqlite else "PostgreSQL"
    yield ok("database", f"{kind}; its tables are up to date.")
    skew = abs(now - datetime.now(UTC).timestamp())
    if skew > _SKEW.total_seconds():
        yield warning("clock", f"{skew:.0f} s from the database's. Set the machine's clock, or the database's.")
    async for finding in _blobs(settings):
        yield finding


async def _blobs(settings: Settings) -> AsyncGenerator[Finding]:
    from app.store.blobs import digest_of

    content = BufferContent(b"Written by python -m app doctor; it can be deleted.")
    try:
        async with aclosing(Storage(settings)) as storage:
            files = (await storage.chats()).files
            await files.require_writable()
            digest = await digest_of(content)
            await files.put(digest, content)
            await files.read(files.blob(digest, len(content)), 0, len(content))
            await files.delete([digest])
    except ServiceError as error:
        yield failure("blobs", f"{error.detail} ({describe_cause(error)}) See BLOB_URL, DATA_DIR.")
    else:
        where = (settings.blob_url or "file").partition(":")[0]
        yield ok("blobs", f"{where}: a file was written, read and deleted.")


async def check_machine(settings: Settings) -> AsyncGenerator[Finding]:
    limit = _memory_limit()
    needed = _PROCESS_BYTES + settings.max_buffered_bytes * 6 // 5
    if limit is None:
        yield ok("memory", f"no limit; up to {_mib(needed)} with MAX_BUFFERED_BYTES full.")
    elif limit < needed:
        fitting = max(2, (limit - _PROCESS_BYTES) * 5 // 6)
        yield warning(
            "memory", f"{_mib(limit)} are allowed, {_mib(needed)} may be needed: set MAX_BUFFERED_BYTES to {fitting}."
        )
    else:
        yield ok("memory", f"{_mib(limit)} are allowed, {_mib(needed)} may be needed.")


def _memory_limit() -> int | None:
    """Of the container, as both generations of control groups have it."""
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            said = Path(path).read_text().strip()
        except OSError:
            continue
        if said.isdecimal() and int(said) < 1 << 60:
            return int(said)
    return None


def _mib(count: int) -> str:
    return f"{count // (1024 * 1024):,} MiB"


_OF_GEMINI = (
    *("GEMINI_API_KEY", "GOOGLE_API_KEY", "GOOGLE_GENAI_USE_VERTEXAI", "GOOGLE_GENAI_USE_ENTERPRISE"),
    *("GOOGLE_CLOUD_PROJECT", "GOOGLE_CLOUD_LOCATION", "GOOGLE_GEMINI_BASE_URL", "GOOGLE_VERTEX_BASE_URL"),
    *("GOOGLE_GENAI_API_VERSION", "GOOGLE_APPLICATION_CREDENTIALS", "GOOGLE_GENAI_HTTP_CLIENT"),
    *("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"),
    *("SSL_CERT_FILE", "SSL_CERT_DIR", "SSLKEYLOGFILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"),
)
_OF_STORAGE = (
    *("DATABASE_URL", "BLOB_URL", "DATA_DIR", "AUTO_MIGRATE", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"),
    *("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"),
)

CHECKS: tuple[tuple[str, Check, tuple[str, ...]], ...] = (
    ("start", check_access, ("HOST", "PORT", "SERVICE_API_KEYS", "ALLOW_ANONYMOUS")),
    ("credentials", check_gemini, _OF_GEMINI),
    ("database", check_storage, _OF_STORAGE),
    ("memory", check_machine, ("MAX_BUFFERED_BYTES",)),
)
"""What each check is about, and the variables without which it means nothing."""


async def run_checks(settings: Settings, tell: Callable[[Finding], Any], wrong: Set[str] = frozenset()) -> bool:
    """Make every check; whether a service would work.

    Args:
        settings: with a default for each one that is wrong.
        tell: is told each finding.
        wrong: the variables that are wrong.
    """
    works = not wrong
    for about, check, needed in CHECKS:
        if missing := sorted(wrong & set(needed)):
            tell(skipped(about, f"not checked, because {', '.join(missing)} has to be put right first."))
            continue
        try:
            async with asyncio.timeout(_CHECK_SECONDS):
                async for finding in check(settings):
                    tell(finding)
                    works = works and finding.verdict is not Verdict.FAILURE
        except TimeoutError:
            tell(failure(about, f"no answer within {_CHECK_SECONDS} seconds"))
            works = False
        except Exception as error:  # whatever it is, the other checks are to be made
            tell(failure(about, f"the check failed: {describe_cause(error)}"))
            works = False
    return works


def main() -> None:
    examined = check_environment()
    settings = examined.settings
    for fault in examined.faults:
        print(failure("settings", str(fault)))
    for one in examined.warnings:
        print(warning("settings", str(one)))
    changed = changed_settings(settings)
    if not examined.faults:
        print(ok("settings", f"{len(Settings.model_fields)} settings, {len(changed)} of them not as they come"))
    for line in changed:
        print(f"{'':<22}{line}")
    exit_process(0 if asyncio.run(run_checks(settings, print, examined.wrong)) else 1)
