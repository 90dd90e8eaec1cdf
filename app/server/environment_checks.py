"""Checks of what the service finds in its environment: proxies, certificates, folders, addresses, telemetry.

A check yields one error for each problem. It quotes no value that may be a secret.
"""

import errno
import json
import os
import socket
import ssl
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

from app.domain.errors import StorageError
from app.lib.env_values import is_http_url
from app.lib.proxies import BadProxy, proxy_for
from app.server.settings_errors import SettingError
from app.settings import Settings

_DEVELOPER_API = "https://generativelanguage.googleapis.com"
_TOKEN_URL = "https://oauth2.googleapis.com"  # noqa: S105 - not a password


def find_environment_errors(settings: Settings) -> Iterator[SettingError]:
    for check in (
        _check_demo,
        _check_proxies,
        _check_certificates,
        _check_google_credentials,
        _check_storage,
        _check_temporary_folder,
        _check_libraries,
        _check_telemetry,
    ):
        yield from check(settings)


def _check_demo(settings: Settings) -> Iterator[SettingError]:
    if settings.demo and find_spec("PIL") is None:
        yield SettingError.of("DEMO", "needs Pillow, because the emulator draws with it: pip install pillow.")


def _check_proxies(settings: Settings) -> Iterator[SettingError]:
    if settings.demo:
        return
    reported = set()
    for url in _google_urls(settings):
        try:
            proxy_for(url)
        except BadProxy as error:
            if error.variable not in reported:
                reported.add(error.variable)
                yield SettingError(error.variable, str(error))


def _google_urls(settings: Settings) -> list[str]:
    """Return the base URLs of Google's services that this service calls."""
    if not settings.google_genai_use_vertexai:
        return [settings.google_gemini_base_url or _DEVELOPER_API]
    location = settings.google_cloud_location
    prefix = "" if location == "global" else f"{location}-"
    vertex = settings.google_vertex_base_url or f"https://{prefix}aiplatform.googleapis.com"
    return [vertex, _TOKEN_URL] if settings.google_cloud_project else [vertex]


def _check_certificates(settings: Settings) -> Iterator[SettingError]:
    variables = ["SSL_CERT_FILE"]
    if settings.google_genai_use_vertexai:
        variables += ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"]  # google-auth gets its tokens with requests
    for variable in variables:
        if path := os.environ.get(variable):
            if variable != "SSL_CERT_FILE" and Path(path).is_dir():
                continue
            try:
                ssl.create_default_context(cafile=path)
            except ssl.SSLError:
                yield SettingError.of(variable, "names a file without a certificate in PEM format.")
            except OSError as error:
                yield SettingError.of(variable, f"names a file that cannot be read: {error.strerror}.")
    folders = os.environ.get("SSL_CERT_DIR")
    if folders and not any(Path(folder).is_dir() for folder in folders.split(os.pathsep)):
        yield SettingError.of("SSL_CERT_DIR", "names no folder that exists.")
    if key_log := os.environ.get("SSLKEYLOGFILE"):
        try:
            with Path(key_log).open("a"):
                pass
        except OSError as error:
            yield SettingError.of("SSLKEYLOGFILE", f"names a file that cannot be written: {error.strerror}.")


def _check_google_credentials(settings: Settings) -> Iterator[SettingError]:
    variable = "GOOGLE_APPLICATION_CREDENTIALS"
    path = os.environ.get(variable)
    calls_vertex = settings.google_genai_use_vertexai and settings.google_cloud_project and not settings.demo
    if not path or not (calls_vertex or (settings.blob_url or "").startswith("gs:")):
        return
    try:
        content = json.loads(Path(path).read_bytes())
    except OSError as error:
        yield SettingError.of(variable, f"names a file that cannot be read: {error.strerror}.")
    except ValueError:
        yield SettingError.of(variable, "names a file that is not JSON.")
    else:
        if not isinstance(content, Mapping) or not isinstance(content.get("type"), str):
            yield SettingError.of(variable, "names a JSON file without Google credentials: it has no `type`.")


def _check_storage(settings: Settings) -> Iterator[SettingError]:
    """Check where chats are stored. The default folder is not checked: without chats the service writes nothing."""
    is_chosen = "data_dir" in settings.model_fields_set and not (settings.database_url and settings.blob_url)
    folders = {"DATA_DIR": settings.data_dir} if is_chosen else {}
    for variable, folder_of in (("DATABASE_URL", _database_folder), ("BLOB_URL", _blob_folder)):
        try:
            if folder := folder_of(settings):
                folders[variable] = folder
        except StorageError as error:
            yield SettingError(variable, f"{error.detail} ({error.cause})" if error.cause else error.detail)
    if (settings.blob_url or "").startswith("s3"):
        yield from _check_s3()
    for variable, folder in folders.items():
        if reason := _write_error(folder):
            yield SettingError.of(variable, f"names a folder that cannot be written to: {reason}.")


def _check_s3() -> Iterator[SettingError]:
    for variable in ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"):
        if (url := os.environ.get(variable)) and not is_http_url(url):
            yield SettingError.of(variable, "is not a URL such as https://host or http://host:port.")
    pair = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
    for variable, other in (pair, pair[::-1]):
        if os.environ.get(other) and not os.environ.get(variable):
            yield SettingError.of(variable, f"is missing, but {other} is set.")


def _database_folder(settings: Settings) -> Path | None:
    if settings.database_url is None:
        return None
    from app.store.database import file_of  # SQLAlchemy takes 250 ms to load

    path = file_of(settings.database_url.get_secret_value())
    return path and path.parent


def _blob_folder(settings: Settings) -> Path | None:
    if settings.blob_url is None:
        return None
    from app.store.blobs import directory_of

    return directory_of(settings.blob_url)


def _check_temporary_folder(_: Settings) -> Iterator[SettingError]:
    variables = [name for name in ("TMPDIR", "TEMP", "TMP") if os.environ.get(name)]
    for variable in variables:
        folder = Path(os.environ[variable])
        reason = _write_error(folder) if folder.is_dir() else "it does not exist"
        if reason:
            yield SettingError.of(
                variable, f"names a folder that cannot be written to: {reason}. Large uploads are stored there."
            )
    if not variables:
        try:
            tempfile.gettempdir()
        except OSError:
            yield SettingError.of(
                "TMPDIR", "is not set, and no temporary folder can be written to. Large uploads need one."
            )


def _check_libraries(_: Settings) -> Iterator[SettingError]:
    workers = os.environ.get("WEB_CONCURRENCY")
    if workers is not None and not (workers.isascii() and workers.isdigit() and int(workers) > 0):
        yield SettingError.of("WEB_CONCURRENCY", "is not a number of processes.")
    if os.environ.get("GOOGLE_GENAI_HTTP_CLIENT", "").strip().lower() not in ("", "auto", "httpx2"):
        yield SettingError.of(
            "GOOGLE_GENAI_HTTP_CLIENT", "names an HTTP client that this service does not use; unset it."
        )


def _check_telemetry(_: Settings) -> Iterator[SettingError]:
    """Check the variables that FastAPI reads for OpenTelemetry."""
    if os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return
    signals = ("", "TRACES_", "METRICS_")
    variables = (f"OTEL_EXPORTER_OTLP_{signal}ENDPOINT" for signal in signals)
    endpoints = [variable for variable in variables if os.environ.get(variable)]
    for variable in endpoints:
        if not is_http_url(os.environ[variable]):
            yield SettingError.of(variable, "is not a URL such as http://host:4318.")
    if not endpoints:
        return
    for variable in ("OTEL_TRACES_EXPORTER", "OTEL_METRICS_EXPORTER"):
        if os.environ.get(variable, "").strip().lower() not in ("", "otlp", "none"):
            yield SettingError.of(variable, "is not supported; it must be otlp or none.")
    for variable in (f"OTEL_EXPORTER_OTLP_{signal}PROTOCOL" for signal in signals):
        if os.environ.get(variable) not in (None, "", "http/protobuf"):
            yield SettingError.of(variable, "is not supported; it must be http/protobuf.")
    with suppress(ModuleNotFoundError):
        if find_spec("opentelemetry.exporter.otlp.proto.http") is not None:
            return
    yield SettingError.of(
        endpoints[0], "needs OpenTelemetry's exporter, which is not installed: pip install 'fastapi[opentelemetry]'."
    )


def _write_error(folder: Path) -> str | None:
    """Return why no file can be created in `folder`, or in its nearest existing parent; None if one can."""
    try:
        existing = next(one for one in (folder.absolute(), *folder.absolute().parents) if one.exists())
        if not existing.is_dir():
            return f"{existing} is not a folder"
        with tempfile.TemporaryFile(dir=existing):
            return None
    except (OSError, ValueError) as error:
        return getattr(error, "strerror", None) or "it cannot be the name of a folder"


def check_listening(host: str, port: int) -> SettingError | None:
    """Return why no server can listen on `host` and `port`; None if one can."""
    try:
        addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError):
        return SettingError("HOST", f"HOST={host} is not an address of this machine, or its name cannot be resolved.")
    for family, kind, protocol, _, address in addresses:
        try:
            with socket.socket(family, kind, protocol) as listener:
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                listener.bind(address)
        except PermissionError:
            return SettingError("PORT", f"PORT={port} is not allowed for this user; use a port from 1024 on.")
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return SettingError("PORT", f"PORT={port} is in use by another program on {host}.")
            return SettingError("HOST", f"HOST={host} is not an address of this machine: {error.strerror}.")
    return None
