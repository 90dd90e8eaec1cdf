"""Starting the process, errors in its settings, and the documentation of settings and problem codes."""

import asyncio
import os
import re
import signal
import socket
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, chdir
from pathlib import Path

import httpx2
import pytest

from app.domain import errors
from app.emulator import Emulator, served
from app.main import create_app
from app.server.start_checks import check_environment
from app.settings import Settings, UnsafeConfiguration
from tests import settings_page
from tests.storages import S3_ENVIRONMENT, environment

ROOT = Path(__file__).parent.parent


@asynccontextmanager
async def process(
    folder: Path, *arguments: str, module: str = "app", **environment: str
) -> AsyncGenerator[asyncio.subprocess.Process]:
    """Run `python -m app` in `folder`, with only the given environment variables."""
    running = await asyncio.create_subprocess_exec(
        sys.executable, "-m", module, *arguments,
        cwd=folder,
        env={"PYTHONPATH": str(ROOT), "PATH": os.environ["PATH"], **environment},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    try:
        yield running
    finally:
        if running.returncode is None:
            running.kill()
        await running.communicate()


async def line_with(running: asyncio.subprocess.Process, words: str) -> str:
    assert running.stdout
    seen = []
    async with asyncio.timeout(20):
        async for raw in running.stdout:
            seen.append(line := raw.decode())
            if words in line:
                return line
    raise AssertionError("".join(seen))


async def test_without_a_key_the_service_starts_as_a_demo_and_says_so(tmp_path: Path) -> None:
    async with process(tmp_path, "--demo-without-key", PORT="0") as running:
        first = await line_with(running, "emulator")
        port = (await line_with(running, "Uvicorn running")).split(" (")[0].rpartition(":")[2]
        async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=20) as client:
            answer = await client.post("/generate-image", json={"prompt": "x"}, headers={"Accept": "image/*"})
        running.send_signal(signal.SIGTERM)
        code = await asyncio.wait_for(running.wait(), 10)

    assert "GEMINI_API_KEY" in first
    assert answer.status_code == 200
    assert answer.content.startswith(b"\xff\xd8")
    assert answer.headers["x-demo"] == "true"
    assert code in (0, -signal.SIGTERM)


async def test_with_a_key_in_env_file_the_service_calls_gemini(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("GEMINI_API_KEY=a-key\n")
    async with process(tmp_path, "--demo-without-key", PORT="0") as running:
        first = await line_with(running, "Running on")
        port = (await line_with(running, "Uvicorn running")).split(" (")[0].rpartition(":")[2]
        async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
            ready = await client.get("/readyz")

    assert first.startswith("Running on Gemini")
    assert ready.json() == {"status": "ready", "demo": False}
    assert "x-demo" not in ready.headers


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({}, ["GEMINI_API_KEY", "DEMO=true"]),
        ({"DEMO": "true", "HOST": "0.0.0.0"}, ["SERVICE_API_KEYS", "ALLOW_ANONYMOUS"]),
        (
            {"PORT": "eighty", "EXTRA_MODELS": "{", "CHAT_TTL": "soon", "SERVICE_API_KEYS": "sesame"},
            [
                "PORT: must be a whole number",
                "(the value has 6 characters). Port to listen on",
                "EXTRA_MODELS: is not valid",
                "CHAT_TTL",
                "30d",
                "SERVICE_API_KEYS",
            ],
        ),
        ({"HOST": "0.0.0.0"}, ["GEMINI_API_KEY", "SERVICE_API_KEYS", "ALLOW_ANONYMOUS"]),
        (
            {
                "HOST": "0.0.0.0",
                "PORT": "x",
                "GEMINI_API_KEYS": "sesame",
                "DATABASE_URL": "mysql://h",
                "ALL_PROXY": "socks5://h",
                "TMPDIR": "/no/such/folder",
            },
            ["HOST=0.0.0.0", "PORT", "Is GEMINI_API_KEY meant?", "DATABASE_URL", "ALL_PROXY", "TMPDIR"],
        ),
    ],
)
async def test_an_invalid_environment_is_reported_and_the_process_exits(
    tmp_path: Path, environment: dict[str, str], words: list[str]
) -> None:
    async with process(tmp_path, **environment) as running:
        output, _ = await asyncio.wait_for(running.communicate(), 20)

    assert running.returncode == 1
    for word in words:
        assert word in output.decode()
    assert "Traceback" not in output.decode()
    assert "sesame" not in output.decode()


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"GEMINI_API_KEY": "k", "PORT": "eighty"}, ["PORT"]),
        ({"GEMINI_API_KEY": "k", "SERVICE_API_KEYS": "sesame"}, ["SERVICE_API_KEYS", "name:secret"]),
        ({"GEMINI_API_KEY": "k", "EXTRA_MODELS": '{"a": {"nope": 1}}'}, ["EXTRA_MODELS", "nope"]),
        ({"GEMINI_API_KEY": "k", "EXTRA_MODELS": "{"}, ["EXTRA_MODELS"]),
        ({"GEMINI_API_KEY": "k", "CORS_ALLOW_ORIGINS": "localhost:3000"}, ["CORS_ALLOW_ORIGINS", "scheme://host"]),
        ({"GEMINI_API_KEY": "k", "DEFAULT_MODEL": "../x"}, ["DEFAULT_MODEL"]),
        ({"DEMO": "true", "DEMO_RECORDINGS_DIR": "/nowhere/at/all"}, ["DEMO_RECORDINGS_DIR"]),
        ({"GEMINI_API_KEY": "\ufeffsesame"}, ["GEMINI_API_KEY", "byte order mark"]),
        ({"GOOGLE_API_KEY": "sésame"}, ["GOOGLE_API_KEY", "not ASCII"]),
        ({"GEMINI_API_KEY": "k\r"}, ["GEMINI_API_KEY", "line break"]),
        ({"GEMINI_API_KEY": "'sesame'"}, ["GEMINI_API_KEY", "quotation marks"]),
        ({"GEMINI_API_KEY": "k", "SERVICE_API_KEYS": "web:\ufeffsesame"}, ["SERVICE_API_KEYS", "byte order mark"]),
        (
            {"GEMINI_API_KEY": "k", "HOST": "0.0.0.0", "SERVICE_API_KEYS": "web:a"},
            ["SERVICE_API_KEYS", "16", "openssl"],
        ),
        (
            {"GEMINI_API_KEY": "k", "SERVICE_API_KEYS": "web:sesame,batch:sesame"},
            ["SERVICE_API_KEYS", "secret number 2", "another name"],
        ),
        (
            {"GEMINI_API_KEY": "k", "SERVICE_API_KEYS": "web:sesame", "ADMIN_API_KEY": "sesame"},
            ["ADMIN_API_KEY", "a key of their own"],
        ),
        ({"GEMINI_API_KEY": "k", "HOST": "no.such.host.invalid"}, ["HOST"]),
        ({"GEMINI_API_KEY": "k", "DEFAULT_MODEL": "Nano Banana"}, ["DEFAULT_MODEL", "id"]),
        ({"GEMINI_API_KEY": "k", "FALLBACK_MODEL": "a/b"}, ["FALLBACK_MODEL", "id"]),
        ({"GEMINI_API_KEY": "k", "EXTRA_MODELS": '{"a": {"like": "nope"}}'}, ["EXTRA_MODELS", "nope"]),
        ({"GEMINI_API_KEY": "k", "GOOGLE_GEMINI_BASE_URL": "localhost:9000"}, ["GOOGLE_GEMINI_BASE_URL", "http://"]),
        *(
            ({"GEMINI_API_KEY": "k", "PUBLIC_URL": url}, ["PUBLIC_URL", "without user, ? and #"])
            for url in (
                "images.example",
                "https://images.example?q=1",
                "https://images.example/#f",
                "https://anna:sesame@images.example/",
            )
        ),
        ({"GEMINI_API_KEY": "k", "ALERT_DOLLARS_PER_HOUR": "inf"}, ["ALERT_DOLLARS_PER_HOUR"]),
        ({"GEMINI_API_KEY": "k", "CHAT_TTL": "-5"}, ["CHAT_TTL", "30d"]),
        ({"GEMINI_API_KEY": "k", "ALL_PROXY": "socks5://u:sesame@h:1"}, ["ALL_PROXY", "SOCKS", "NO_PROXY"]),
        ({"GEMINI_API_KEY": "k", "https_proxy": "http://h:port"}, ["https_proxy"]),
        ({"GEMINI_API_KEY": "k", "HTTPS_PROXY": "ftp://h"}, ["HTTPS_PROXY", "http://"]),
        ({"GEMINI_API_KEY": "k", "SSL_CERT_FILE": "/no/such/file"}, ["SSL_CERT_FILE", "No such file"]),
        ({"GEMINI_API_KEY": "k", "SSL_CERT_FILE": __file__}, ["SSL_CERT_FILE", "PEM"]),
        ({"GEMINI_API_KEY": "k", "SSL_CERT_DIR": "/no/such/folder"}, ["SSL_CERT_DIR"]),
        ({"GEMINI_API_KEY": "k", "SSLKEYLOGFILE": "/no/such/folder/file"}, ["SSLKEYLOGFILE"]),
        (
            {"GEMINI_API_KEY": "k", "DATABASE_URL": "mysql://u:sesame@h/d"},
            ["DATABASE_URL", "must start with sqlite:///"],
        ),
        ({"GEMINI_API_KEY": "k", "DATABASE_URL": "postgresql://h/d?sslmod=x"}, ["DATABASE_URL", "sslmod"]),
        ({"GEMINI_API_KEY": "k", "DATABASE_URL": "sqlite:////proc/nowhere/x.db"}, ["DATABASE_URL", "written"]),
        ({"GEMINI_API_KEY": "k", "BLOB_URL": "ftp://h"}, ["BLOB_URL", "s3://"]),
        ({"GEMINI_API_KEY": "k", "BLOB_URL": "s3://"}, ["BLOB_URL", "bucket"]),
        ({"GEMINI_API_KEY": "k", "BLOB_URL": f"file://{__file__}/x"}, ["BLOB_URL", "not a folder"]),
        (
            {"GEMINI_API_KEY": "k", "BLOB_URL": "s3://b", "AWS_ENDPOINT_URL": "h:9", "AWS_ACCESS_KEY_ID": "i"},
            ["AWS_ENDPOINT_URL", "AWS_SECRET_ACCESS_KEY"],
        ),
        ({"GEMINI_API_KEY": "k", "DATA_DIR": f"{__file__}/x"}, ["DATA_DIR", "not a folder"]),
        ({"GEMINI_API_KEY": "k", "TMPDIR": "/no/such/folder"}, ["TMPDIR"]),
        ({"GEMINI_API_KEY": "k", "WEB_CONCURRENCY": "x"}, ["WEB_CONCURRENCY"]),
        ({"GEMINI_API_KEY": "k", "OTEL_EXPORTER_OTLP_ENDPOINT": "h:4318"}, ["OTEL_EXPORTER_OTLP_ENDPOINT", "http://"]),
        (
            {
                "GEMINI_API_KEY": "k",
                "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://h:4317",
                "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc",
                "OTEL_METRICS_EXPORTER": "prometheus",
            },
            ["OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf", "OTEL_METRICS_EXPORTER", "otlp"],
        ),
        ({"GEMINI_API_KEY": "k", "GOOGLE_GENAI_HTTP_CLIENT": "httpx"}, ["GOOGLE_GENAI_HTTP_CLIENT"]),
        (
            {
                "GOOGLE_GENAI_USE_VERTEXAI": "true",
                "GOOGLE_CLOUD_PROJECT": "a project",
                "GOOGLE_APPLICATION_CREDENTIALS": "/no/such/file",
                "REQUESTS_CA_BUNDLE": "/no/such/file",
            },
            ["GOOGLE_CLOUD_PROJECT", "GOOGLE_APPLICATION_CREDENTIALS", "REQUESTS_CA_BUNDLE"],
        ),
    ],
)
def test_every_error_in_the_environment_names_its_variable(
    tmp_path: Path, variables: dict[str, str], words: list[str]
) -> None:
    """
    `python -m app` calls the same checks; here they run without a process of their own.
    """
    no_cloud_variables = dict.fromkeys(S3_ENVIRONMENT, "")  # other tests of this process may have set them
    with chdir(tmp_path), environment(**{"PORT": "0"} | no_cloud_variables | variables):
        checked = check_environment(listening=True)
        with pytest.raises(UnsafeConfiguration) as refused:
            checked.require_startable(checked.settings.host)

    for word in words:
        assert word in str(refused.value)
    assert "esame" not in str(refused.value)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"DEFAULT_MODLE=x\nCOLOUR=blue\n", ["DEFAULT_MODLE in .env", "Is DEFAULT_MODEL meant?", "COLOUR in .env"]),
        (b"GEMINI_API_KEY=k\nsesame\n", ["line 2", "NAME=value"]),
        (b"GEMINI_API_KEY=k\nsEsame=\n", ["Line 2"]),
        ("GEMINI_API_KEY=k".encode("utf-16"), [".env is not UTF-8"]),
    ],
)
def test_unknown_names_in_env_file_are_reported(tmp_path: Path, content: bytes, words: list[str]) -> None:
    (tmp_path / ".env").write_bytes(content)
    with chdir(tmp_path), environment(GEMINI_API_KEY="k"), pytest.raises(UnsafeConfiguration) as refused:
        check_environment().require_startable()

    for word in words:
        assert word in str(refused.value)
    assert "esame" not in str(refused.value)


def test_an_env_file_with_a_byte_order_mark_is_read(tmp_path: Path) -> None:
    (tmp_path / ".env").write_bytes(b"\xef\xbb\xbfGEMINI_API_KEY=k\r\nPORT=9\r\n")
    with chdir(tmp_path):
        settings = check_environment().require_startable()

    assert settings.port == 9
    assert settings.gemini_api_key


@pytest.mark.parametrize(
    "variables",
    [
        {"GEMINI_API_KEY": "k", "ALL_PROXY": "socks5://127.0.0.1:1", "NO_PROXY": "127.0.0.1"},
        {"GEMINI_API_KEY": "k", "HTTPS_PROXY": "socks5://127.0.0.1:1"},
        {"DEMO": "true", "ALL_PROXY": "socks5://127.0.0.1:1"},
    ],
)
async def test_an_invalid_proxy_that_is_not_used_is_not_an_error(
    gemini: Emulator, gemini_url: str, tmp_path: Path, variables: dict[str, str]
) -> None:
    with chdir(tmp_path), environment(**variables, GOOGLE_GEMINI_BASE_URL=gemini_url):
        settings = check_environment().require_startable()
        async with (
            served(create_app(settings)) as url,
            httpx2.AsyncClient(base_url=url, timeout=20, trust_env=False) as client,
        ):
            answer = await client.post("/generate-image", json={"prompt": "x"}, headers={"Accept": "image/*"})

    assert answer.status_code == 200


async def test_a_port_in_use_is_reported(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        async with process(tmp_path, GEMINI_API_KEY="k", PORT=port) as running:
            output, _ = await asyncio.wait_for(running.communicate(), 20)
        async with process(tmp_path, "--port", port, module="app.emulator") as emulator:
            said, _ = await asyncio.wait_for(emulator.communicate(), 20)

    assert running.returncode == emulator.returncode == 1
    assert f"PORT={port} is in use" in output.decode()
    assert b"in use" in said
    assert b"Traceback" not in output + said


@pytest.mark.parametrize(
    ("module", "arguments"),
    [("uvicorn", ("app.server.asgi:create_app", "--factory", "--port", "0")), ("app", ("migrate",))],
)
async def test_other_entry_points_report_errors_too(tmp_path: Path, module: str, arguments: tuple[str, ...]) -> None:
    environment = {"GEMINI_API_KEY": "\ufeffsesame", "DATABASE_URL": "mysql://h", "MAX_QUEUED": "x"}
    async with process(tmp_path, *arguments, module=module, **environment) as running:
        output, _ = await asyncio.wait_for(running.communicate(), 20)

    assert running.returncode == 1
    assert b"Traceback" not in output
    for name in environment:
        assert name in output.decode()


async def test_the_application_factory_alone_refuses_to_start_without_credentials(tmp_path: Path) -> None:
    async with process(tmp_path, "app.main:create_app", "--factory", "--port", "0", module="uvicorn") as running:
        output, _ = await asyncio.wait_for(running.communicate(), 20)

    assert running.returncode == 1
    assert b"GEMINI_API_KEY" in output
    assert b"Traceback" not in output


def test_an_unknown_model_is_a_warning(tmp_path: Path) -> None:
    with chdir(tmp_path), environment(GEMINI_API_KEY="k", DEFAULT_MODEL="gemini-3-pro-imag"):
        warnings = check_environment().warnings

    assert "Is gemini-3-pro-image meant?" in str(warnings[0])


async def test_the_emulator_runs_without_the_service(tmp_path: Path) -> None:
    async with process(tmp_path, "--port", "0", module="app.emulator") as running:
        line = await line_with(running, "Emulating")

    assert "http://127.0.0.1:" in line


async def test_the_application_starts_without_loading_the_storage_libraries(tmp_path: Path) -> None:
    heavy = "{'sqlalchemy', 'alembic', 'obstore', 'psycopg'}"
    code = f"import app.main, sys; print({heavy} & sys.modules.keys())"
    command = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}, stdout=asyncio.subprocess.PIPE
    )
    printed, _ = await command.communicate()

    assert printed.decode().strip() == "set()"


def test_the_settings_page_and_env_example_follow_the_code() -> None:
    """
    `python -m tests.settings_page` writes both.
    """
    assert settings_page.PAGE.read_text() == settings_page.page()
    assert settings_page.EXAMPLE.read_text() == settings_page.example()


def test_env_example_lists_every_setting_with_its_default() -> None:
    lines = re.findall(r"^# ([A-Z_]+)=(.*)$", settings_page.EXAMPLE.read_text(), re.MULTILINE)

    assert lines == [(variable, default) for _, variable, default, _ in settings_page.settings()]
    assert len(lines) == len(Settings.model_fields)


def test_the_readme_names_only_settings_that_exist() -> None:
    table = (ROOT / "README.md").read_text().partition("## Settings")[2].partition("\n## ")[0]
    named = set(re.findall(r"`([A-Z]+_[A-Z_]+)`", table))

    assert named
    assert named <= {variable for _, variable, _, _ in settings_page.settings()}


def test_every_setting_has_a_description() -> None:
    for name, field in Settings.model_fields.items():
        assert field.description, name


def test_the_api_reference_names_every_problem_code() -> None:
    classes: list[type[errors.ServiceError]] = [
        errors.Internal,
        *(one for one in errors.CallerError.__subclasses__() if one is not errors.LimitReached),
        *errors.LimitReached.__subclasses__(),
        *errors.GenerationRefused.__subclasses__(),
    ]
    classes += [errors.UpstreamError, *errors.UpstreamError.__subclasses__(), *errors.StorageError.__subclasses__()]
    reference = (ROOT / "docs/api.md").read_text()

    for error in classes:
        assert f"`{error.code}`" in reference
        assert error.__name__ in (errors.__doc__ or "")
        assert f"{error.status} {error.code}" in (errors.__doc__ or "")
