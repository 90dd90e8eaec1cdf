"""What is wrong with the environment, found before the service starts: settings, `.env`, proxies, certificates …

Each fault is one sentence that names a variable, and never a value that may be secret. All faults are reported at once.
"""

import difflib
import errno
import functools
import json
import os
import re
import socket
import ssl
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from dotenv.parser import parse_stream
from pydantic import ValidationError

from app.domain.errors import StorageError
from app.lib.env_values import is_http_url
from app.lib.proxies import BadProxy, proxy_for
from app.server.settings_errors import SettingError, describe_errors, env_names
from app.server.start_requirements import UnsafeConfiguration, require_startable
from app.settings import Settings

ENV_FILE = Path(".env")

_NEAR = 0.88
"""How alike two names are, of 1, for one to be taken for a mistyped other."""

_ALIKE = 0.7
"""The same, where it is certain that the name is wrong."""

_PLACEHOLDERS = {"gemini_api_key": "to-be-put-right", "google_cloud_project": "to-be-put-right"}
"""Stand in for settings that are wrong, so that what depends on them is not reported as missing."""


@dataclass(frozen=True, slots=True)
class CheckedEnvironment:
    """The settings, and what is wrong with them and with their environment."""

    settings: Settings
    """With the default, or a placeholder, for each setting that is wrong."""
    faults: list[SettingError] = field(default_factory=list)
    warnings: list[SettingError] = field(default_factory=list)

    demo_for_want_of_key: bool = False

    @property
    def wrong(self) -> set[str]:
        """The variables that have faults."""
        return {fault.variable for fault in self.faults}

    def require_sound(self) -> Settings:
        """The settings.

        Raises:
            UnsafeConfiguration: something is wrong with them or their environment.
        """
        if self.faults:
            raise UnsafeConfiguration("\n".join(map(str, self.faults)))
        return self.settings

    def require_startable(self, host: str | None = None) -> Settings:
        """The settings, for a process that serves.

        Args:
            host: the address that will be listened on, where it is known.

        Raises:
            UnsafeConfiguration: something is wrong, or the service would serve by accident.
        """
        sentences = list(map(str, self.faults))
        try:
            require_startable(self.settings, host)
        except UnsafeConfiguration as error:
            sentences.append(str(error))
        if sentences:
            raise UnsafeConfiguration("\n".join([*sentences, *map(str, self.warnings)]))
        return self.settings


def check_environment(*, demo_without_key: bool = False, listening: bool = False) -> CheckedEnvironment:
    """Read the settings and find everything that is wrong with them and with what libraries read from the environment.

    Args:
        demo_without_key: take `DEMO` for true if there are no credentials for Gemini.
        listening: whether `HOST` and `PORT` will be listened on.
    """
    faults, readable = _faults_of_env_file()
    settings, wrong = _settings(readable)
    faults += wrong
    has_key = settings.has_credentials or settings.google_genai_use_vertexai
    instead = demo_without_key and not settings.demo and not has_key
    if instead:
        settings = settings.model_copy(update={"demo": True})
    mistaken = {fault.variable for fault in faults}
    for check in (
        _demo,
        _proxies,
        _certificates,
        _google_credentials,
        _storage,
        _temporary_folder,
        _libraries,
        _telemetry,
    ):
        faults += [fault for fault in check(settings) if fault.variable not in mistaken]
    if listening and not mistaken & {"HOST", "PORT"}:
        faults += filter(None, [why_not_listening(settings.host, settings.port)])
    return CheckedEnvironment(settings, faults, [*_near_misses(), *_unlisted_models(settings)], instead)


def _settings(read_env_file: bool) -> tuple[Settings, list[SettingError]]:
    """The settings, and what is wrong with them; with a default in place of each that is wrong."""
    instead: dict[str, Any] = {}
    found: list[SettingError] = []
    source: dict[str, Any] = {} if read_env_file else {"_env_file": None}
    while True:
        try:
            return Settings(**source, **instead), found
        except ValidationError as error:
            new = describe_errors(error)
            found += new
            names = [name for one in new for name in _fields_of(one.variable) if name not in instead]
            assert names, "a fault of no setting"
            for name in names:
                default = Settings.model_fields[name].get_default(call_default_factory=True)
                instead[name] = _PLACEHOLDERS.get(name, default)


def _fields_of(variable: str) -> list[str]:
    if variable == "EXTRA_MODELS":
        return ["extra_models", "model_aliases"]
    return [name for name in Settings.model_fields if variable in env_names(name)]


@functools.cache
def _known_variables() -> tuple[str, ...]:
    return tuple(variable for name in Settings.model_fields for variable in env_names(name))


def _nearest(name: str, likeness: float = _NEAR) -> str | None:
    found = difflib.get_close_matches(name.upper(), _known_variables(), 1, likeness)
    return found[0] if found else None


def _faults_of_env_file() -> tuple[list[SettingError], bool]:
    """What is wrong with `.env`, and whether its settings can be read."""
    if not ENV_FILE.is_file():
        return [], False
    try:
        with ENV_FILE.open(encoding="utf-8-sig") as stream:
            lines = list(parse_stream(stream))
    except UnicodeDecodeError:
        return [SettingError.that(".env", "is not UTF-8; save it as UTF-8.")], False
    except OSError as error:
        return [SettingError.that(".env", f"cannot be read: {error.strerror}.")], False
    faults = []
    for line in lines:
        if line.error or (line.key and line.value is None):
            faults.append(
                SettingError.that(".env", f"has a line {line.original.line} that is not of the form NAME=value.")
            )
        elif line.key and line.key.upper() not in _known_variables():
            nearest = _nearest(line.key, _ALIKE)
            # Anything else may be a key that was pasted alone; some end in an equals sign.
            name = line.key if nearest or re.fullmatch("[A-Z_][A-Z0-9_]*", line.key) else f"Line {line.original.line}"
            meant = f" Is {nearest} meant?" if nearest else " Variables for other programs go into the environment."
            faults.append(SettingError.that(name, f"in .env does not name a setting.{meant}"))
    return faults, True


def _near_misses() -> Iterator[SettingError]:
    """Variables that look like a mistyped setting. Others may own them, so they do not stop the service."""
    known = set(_known_variables())
    for name in os.environ:
        if name.upper() not in known and len(name) > 5 and (nearest := _nearest(name)) and nearest not in os.environ:
            yield SettingError.that(name, f"is no setting, and this service does not read it. Is {nearest} meant?")


def _unlisted_models(settings: Settings) -> Iterator[SettingError]:
    catalogue = settings.catalogue
    for variable, name in (("DEFAULT_MODEL", settings.default_model), ("FALLBACK_MODEL", settings.fallback_model)):
        if name is not None and not catalogue.resolve(name).model.is_known:
            near = difflib.get_close_matches(name, [*catalogue.models, *catalogue.aliases], 1)
            meant = f" Is {near[0]} meant?" if near else ""
            yield SettingError.that(variable, f"{name} is not a model that this service knows.{meant}")


def _demo(settings: Settings) -> Iterator[SettingError]:
    if settings.demo and find_spec("PIL") is None:
        yield SettingError.that("DEMO", "needs Pillow, with which the emulator draws: pip install pillow.")


def _proxies(settings: Settings) -> Iterator[SettingError]:
    if settings.demo:
        return
    reported = set()
    for url in _addresses(settings):
        try:
            proxy_for(url)
        except BadProxy as error:
            if error.variable not in reported:
                reported.add(error.variable)
                yield SettingError(error.variable, str(error))


def _addresses(settings: Settings) -> list[str]:
    """What is called."""
    if not settings.google_genai_use_vertexai:
        return [settings.google_gemini_base_url or "https://generativelanguage.googleapis.com"]
    location = settings.google_cloud_location
    regional = "" if location == "global" else f"{location}-"
    vertex = settings.google_vertex_base_url or f"https://{regional}aiplatform.googleapis.com"
    return [vertex, "https://oauth2.googleapis.com"] if settings.google_cloud_project else [vertex]


def _certificates(settings: Settings) -> Iterator[SettingError]:
    files = ["SSL_CERT_FILE"]
    if settings.google_genai_use_vertexai:
        files += ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"]  # google-auth fetches tokens with requests
    for variable in files:
        if path := os.environ.get(variable):
            if variable != "SSL_CERT_FILE" and Path(path).is_dir():
                continue
            try:
                ssl.create_default_context(cafile=path)
            except ssl.SSLError:
                yield SettingError.that(variable, "names a file without a certificate in PEM format.")
            except OSError as error:
                yield SettingError.that(variable, f"names a file that cannot be read: {error.strerror}.")
    if (folder := os.environ.get("SSL_CERT_DIR")) and not any(Path(one).is_dir() for one in folder.split(os.pathsep)):
        yield SettingError.that("SSL_CERT_DIR", "names no folder that exists.")
    if log := os.environ.get("SSLKEYLOGFILE"):
        try:
            with Path(log).open("a"):
                pass
        except OSError as error:
            yield SettingError.that("SSLKEYLOGFILE", f"names a file that cannot be written: {error.strerror}.")


def _google_credentials(settings: Settings) -> Iterator[SettingError]:
    variable = "GOOGLE_APPLICATION_CREDENTIALS"
    path = os.environ.get(variable)
    on_vertex = settings.google_genai_use_vertexai and settings.google_cloud_project and not settings.demo
    if not path or not (on_vertex or (settings.blob_url or "").startswith("gs:")):
        return
    try:
        content = json.loads(Path(path).read_bytes())
    except OSError as error:
        yield SettingError.that(variable, f"names a file that cannot be read: {error.strerror}.")
    except ValueError:
        yield SettingError.that(variable, "names a file that is not JSON.")
    else:
        if not isinstance(content, Mapping) or not isinstance(content.get("type"), str):
            yield SettingError.that(variable, "names a JSON file that holds no Google credentials: it has no `type`.")


def _storage(settings: Settings) -> Iterator[SettingError]:
    """Where chats are to be kept. The default folder is not looked at: a service without chats writes nothing."""
    chosen = "data_dir" in settings.model_fields_set
    folders = {"DATA_DIR": settings.data_dir} if chosen and not (settings.database_url and settings.blob_url) else {}
    for variable, folder_of in (("DATABASE_URL", _database_folder), ("BLOB_URL", _blob_folder)):
        try:
            if folder := folder_of(settings):
                folders[variable] = folder
        except StorageError as error:
            yield SettingError(variable, f"{error.detail} ({error.cause})" if error.cause else error.detail)
    if (settings.blob_url or "").startswith("s3"):
        yield from _s3()
    for variable, folder in folders.items():
        if why := why_not_writable(folder):
            yield SettingError.that(variable, f"names a folder that cannot be written to: {why}.")


def _s3() -> Iterator[SettingError]:
    for variable in ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"):
        if (url := os.environ.get(variable)) and not is_http_url(url):
            yield SettingError.that(variable, "is no URL such as https://host or http://host:port.")
    pair = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
    for variable, other in (pair, pair[::-1]):
        if os.environ.get(other) and not os.environ.get(variable):
            yield SettingError.that(variable, f"is missing, while {other} is set.")


def _database_folder(settings: Settings) -> Path | None:
    if settings.database_url is None:
        return None
    from app.store.database import file_of  # SQLAlchemy takes a quarter of a second

    path = file_of(settings.database_url.get_secret_value())
    return path and path.parent


def _blob_folder(settings: Settings) -> Path | None:
    if settings.blob_url is None:
        return None
    from app.store.blobs import folder_of

    return folder_of(settings.blob_url)


def _temporary_folder(_: Settings) -> Iterator[SettingError]:
    named = [name for name in ("TMPDIR", "TEMP", "TMP") if os.environ.get(name)]
    for variable in named:
        folder = Path(os.environ[variable])
        why = "there is none" if not folder.is_dir() else why_not_writable(folder)
        if why:
            yield SettingError.that(
                variable, f"names a folder that cannot be written to: {why}. Large uploads pass through it."
            )
    if not named:
        try:
            tempfile.gettempdir()
        except OSError:
            yield SettingError.that(
                "TMPDIR", "is not set, and no temporary folder can be written to. Large uploads need one."
            )


def _libraries(_: Settings) -> Iterator[SettingError]:
    workers = os.environ.get("WEB_CONCURRENCY")
    if workers is not None and not (workers.isascii() and workers.isdigit() and int(workers) > 0):
        yield SettingError.that("WEB_CONCURRENCY", "is not a number of processes.")
    if os.environ.get("GOOGLE_GENAI_HTTP_CLIENT", "").strip().lower() not in ("", "auto", "httpx2"):
        yield SettingError.that(
            "GOOGLE_GENAI_HTTP_CLIENT", "names another HTTP client than this service uses; unset it."
        )


def _telemetry(_: Settings) -> Iterator[SettingError]:
    """What FastAPI reads for OpenTelemetry."""
    if os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return
    endpoints = [f"OTEL_EXPORTER_OTLP_{part}ENDPOINT" for part in ("", "TRACES_", "METRICS_")]
    given = [name for name in endpoints if os.environ.get(name)]
    for variable in given:
        if not is_http_url(os.environ[variable]):
            yield SettingError.that(variable, "is no URL such as http://host:4318.")
    if not given:
        return
    for variable in ("OTEL_TRACES_EXPORTER", "OTEL_METRICS_EXPORTER"):
        if os.environ.get(variable, "").strip().lower() not in ("", "otlp", "none"):
            yield SettingError.that(variable, "is neither otlp nor none, and nothing else is supported.")
    for part in ("", "TRACES_", "METRICS_"):
        variable = f"OTEL_EXPORTER_OTLP_{part}PROTOCOL"
        if os.environ.get(variable) not in (None, "", "http/protobuf"):
            yield SettingError.that(variable, "is not http/protobuf, which is the only protocol that is supported.")
    with suppress(ModuleNotFoundError):
        if find_spec("opentelemetry.exporter.otlp.proto.http") is not None:
            return
    yield SettingError.that(
        given[0], "needs OpenTelemetry's exporter, which is not installed: pip install 'fastapi[opentelemetry]'."
    )


def why_not_writable(folder: Path) -> str | None:
    """Why no file can be made in `folder`, or in the nearest one above it that exists; None if one can."""
    try:
        existing = next(one for one in (folder.absolute(), *folder.absolute().parents) if one.exists())
        if not existing.is_dir():
            return f"{existing} is not a folder"
        with tempfile.TemporaryFile(dir=existing):
            return None
    except (OSError, ValueError) as error:
        return getattr(error, "strerror", None) or "it cannot be the name of a folder"


def why_not_listening(host: str, port: int) -> SettingError | None:
    """Why no server can listen there; None if one can."""
    try:
        addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError):
        return SettingError("HOST", f"HOST={host} is not an address of this machine, or no name that can be resolved.")
    for family, kind, protocol, _, address in addresses:
        try:
            with socket.socket(family, kind, protocol) as listening:
                listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                listening.bind(address)
        except PermissionError:
            return SettingError("PORT", f"PORT={port} may not be used by this user; ports from 1024 on may.")
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return SettingError("PORT", f"PORT={port} is in use by another program on {host}.")
            return SettingError("HOST", f"HOST={host} is not an address of this machine: {error.strerror}.")
    return None
