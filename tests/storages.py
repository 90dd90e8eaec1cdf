"""Real storages for chats: SQLite and a folder, PostgreSQL and S3 (moto's server)."""

import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx2
import psycopg

from tests.programs import missing

Overrides = dict[str, Any]
"""Settings of a service, by name."""

S3_ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "any",
    "AWS_SECRET_ACCESS_KEY": "any",
    "AWS_REGION": "us-east-1",
}


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port: int = listening.getsockname()[1]
        return port


def postgres_programs() -> Path | None:
    found = shutil.which("initdb")
    if found:
        return Path(found).resolve().parent
    installed = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    return installed[-1].parent if installed else None


class Postgres:
    """A PostgreSQL server with its own folder and port."""

    def __init__(self, programs: Path, folder: Path) -> None:
        self._programs = programs
        self._folder = folder
        self._user = "postgres" if os.geteuid() == 0 else None  # PostgreSQL refuses to run as root
        self._running: subprocess.Popen[bytes] | None = None
        self.port = free_port()

    def create(self) -> None:
        if self._user:
            owner = pwd.getpwnam(self._user)
            os.chown(self._folder, owner.pw_uid, owner.pw_gid)
        initdb = self._run("initdb", "--no-sync", "--auth=trust", "--username=images", "-D", str(self._folder))
        assert initdb.wait() == 0

    def start(self) -> None:
        settings = {
            "port": self.port,
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": "",
            "fsync": "off",
            "max_connections": 200,
        }
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        self._running = self._run("postgres", "-D", str(self._folder), *options)
        for _ in range(300):
            try:
                psycopg.connect(self._dsn("postgres"), connect_timeout=1).close()
            except psycopg.OperationalError:
                time.sleep(0.05)
            else:
                return
        raise AssertionError("PostgreSQL has not started within 15 s")

    def stop(self) -> None:
        """Stop the server without a clean shutdown, as in a power cut."""
        if self._running is not None:
            self._running.send_signal(signal.SIGQUIT)
            self._running.wait()
            self._running = None

    def database(self, encoding: str = "UTF8") -> str:
        """Make an empty database, and return its URL."""
        name = f"chats_{uuid4().hex}"
        with psycopg.connect(self._dsn("postgres"), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name} ENCODING '{encoding}' LOCALE 'C' TEMPLATE template0")
        return self._dsn(name)

    def _dsn(self, name: str) -> str:
        return f"postgresql://images@127.0.0.1:{self.port}/{name}"

    def _run(self, program: str, *arguments: str) -> subprocess.Popen[bytes]:
        command = [str(self._programs / program), *arguments]
        return subprocess.Popen(command, user=self._user, cwd="/", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


@contextmanager
def postgres() -> Iterator[Postgres]:
    programs = postgres_programs() or missing("PostgreSQL", "postgresql")
    folder = Path(tempfile.mkdtemp(prefix="gemini-images-pg-"))
    server = Postgres(programs, folder)
    try:
        server.create()
        server.start()
        yield server
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)


class S3:
    """A server with S3's API (moto), which stores buckets in memory."""

    def __init__(self) -> None:
        self._running: subprocess.Popen[bytes] | None = None
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        command = [str(Path(sys.executable).with_name("moto_server")), "-H", "127.0.0.1", "-p", str(self.port)]
        self._running = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for _ in range(300):
            try:
                httpx2.get(self.url, trust_env=False)
            except httpx2.TransportError:
                time.sleep(0.05)
            else:
                return
        raise AssertionError("moto's server has not started within 15 s")

    def stop(self) -> None:
        if self._running is not None:
            self._running.kill()
            self._running.wait()
            self._running = None

    def bucket(self) -> str:
        """Make an empty bucket, and return the URL of a folder in it."""
        name = f"images-{uuid4().hex}"
        httpx2.put(f"{self.url}/{name}", trust_env=False).raise_for_status()
        return f"s3://{name}/chats"


@contextmanager
def s3() -> Iterator[S3]:
    server = S3()
    try:
        server.start()
        with environment(**S3_ENVIRONMENT, AWS_ENDPOINT_URL=server.url):
            yield server
    finally:
        server.stop()


@contextmanager
def environment(**variables: str) -> Iterator[None]:
    """Set environment variables until the block ends. Credentials for buckets are read from there."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
