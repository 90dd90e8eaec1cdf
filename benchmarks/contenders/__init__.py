"""The contenders: how each is installed and started, its requests, and where its response has the image."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks import upstream
from benchmarks.caller import Request

HERE = Path(__file__).parent
BUILD = Path(".bench").absolute()
BOUNDARY = "----WebKitFormBoundary7MA4YWxkTrZu0gW"
"""Boundary as browsers write it. Its length affects the speed of multipart parsers."""

LITELLM = "1.106.2"
LITELLM_KEY = "sk-benchmark-0123456789abcdef0123456789abcdef"


@dataclass(frozen=True)
class Contender:
    name: str
    about: str
    command: list[str]
    port: int
    env: dict[str, str] = field(default_factory=dict)
    cwd: Path = HERE.parent.parent
    health: str = "/healthz"
    headers: dict[str, str] = field(default_factory=dict)
    body: dict[str, Any] = field(default_factory=dict)
    path: str = "/generate-image"
    upload_path: str = "/generate-image/with-references"
    upload_field: str = "images"
    max_uploads: int = 14
    image_prefixes: tuple[bytes, ...] = (b'"data":"', b"base64,")
    """Bytes before each copy of the image in the response. Empty: the response must equal the upstream's."""
    build: Callable[[], None] = lambda: None

    def image_request(self, size: int, delay: float = 0) -> Request:
        """Return a request for an image of `size` bytes, which the upstream sends after `delay` seconds."""
        body = json.dumps({"prompt": f"{size} bytes after {delay} s", **self.body}).encode()
        return Request("POST", self.path, {"Content-Type": "application/json", **self.headers}, body)

    def upload_request(self, count: int, size: int) -> Request:
        """Return a request with `count` reference images for an image of `size` bytes."""
        fields = {"prompt": f"{size} bytes after 0 s", **{key: str(value) for key, value in self.body.items()}}
        parts = [f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
                 for name, value in fields.items()]  # fmt: skip
        reference = upstream.image(upstream.REFERENCE_BYTES)
        for number in range(count):
            disposition = f'form-data; name="{self.upload_field}"; filename="{number}.jpg"\r\nContent-Type: image/jpeg'
            parts += [f"--{BOUNDARY}\r\nContent-Disposition: {disposition}\r\n\r\n".encode(), reference, b"\r\n"]
        body = b"".join([*parts, f"--{BOUNDARY}--\r\n".encode()])
        return Request(
            "POST",
            self.upload_path,
            {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}", **self.headers},
            body,
        )

    def check(self, body: bytes, size: int) -> None:
        """Raise AssertionError if the response does not contain the image that the upstream sent."""
        if not self.image_prefixes:
            assert body == upstream.response_body(size), f"{self.name} changed the response"
            return
        end = 0
        for prefix in self.image_prefixes:
            start = body.find(prefix, end) + len(prefix)
            end = start + len(upstream.encoded_image(size))
            is_same = start >= len(prefix) and body.startswith(upstream.encoded_image(size), start)
            assert is_same and body[end : end + 1] == b'"', f"{self.name} changed the image"


def _uvicorn(name: str, port: int) -> list[str]:
    quiet = ["--no-access-log", "--log-level", "warning"]
    return [sys.executable, "-m", "uvicorn", *quiet, "--port", str(port), f"benchmarks.contenders.{name}:app"]


def _build_next() -> None:
    if (BUILD / "next/.next/BUILD_ID").exists():
        return
    shutil.copytree(HERE / "next", BUILD / "next", dirs_exist_ok=True)
    quiet = ["--no-package-lock", "--no-audit", "--no-fund", "--silent"]
    subprocess.run(["npm", "install", "--omit=dev", *quiet], cwd=BUILD / "next", check=True)
    subprocess.run(["node_modules/.bin/next", "build"], cwd=BUILD / "next", check=True, stdout=subprocess.DEVNULL)


def _build_litellm() -> None:
    if (BUILD / "litellm/bin/litellm").exists():
        return
    subprocess.run([sys.executable, "-m", "venv", BUILD / "litellm"], check=True)
    install = [str(BUILD / "litellm/bin/python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*install, f"litellm[proxy]=={LITELLM}"], check=True)


def _litellm_config(upstream_url: str) -> Path:
    model = {"model": "gemini/gemini-3-pro-image", "api_base": f"{upstream_url}/v1beta", "api_key": "benchmark"}
    config = {
        "model_list": [{"model_name": "gemini-3-pro-image", "litellm_params": model}],
        "general_settings": {"master_key": LITELLM_KEY},
    }
    path = BUILD / "litellm.yaml"
    path.write_text(json.dumps(config))  # JSON is valid YAML
    return path


def _environment(upstream_url: str) -> dict[str, str]:
    return {
        "GOOGLE_GEMINI_BASE_URL": upstream_url,
        "GEMINI_API_KEY": "benchmark",
        "LOG_LEVEL": "warning",
        "PATH": os.environ["PATH"],
        "HOME": os.environ.get("HOME", "/"),
        "NEXT_TELEMETRY_DISABLED": "1",
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "LITELLM_LOG": "ERROR",
    }


def service_contender(upstream_url: str, port: int = 9111, **settings: str) -> Contender:
    """Return this service, started by `python -m app`."""
    env = _environment(upstream_url) | {"PORT": str(port)} | settings
    return Contender("service", "this service", [sys.executable, "-m", "app"], port, env)


def contenders(upstream_url: str) -> list[Contender]:
    """Return all contenders. The relay is the lower bound of the cost; naive code is a typical first version."""
    BUILD.mkdir(exist_ok=True)
    env = _environment(upstream_url)
    service = service_contender(upstream_url)
    next_ = ["node_modules/.bin/next", "start", "-H", "127.0.0.1", "-p", "9113", "--keepAliveTimeout", "300000"]
    litellm = [str(BUILD / "litellm/bin/litellm"), "--config", str(_litellm_config(upstream_url))]
    return [
        service,
        Contender(
            "service-b64",
            "this service, asked for `responseFormat: b64`",
            service.command,
            9112,
            env | {"PORT": "9112"},
            body={"responseFormat": "b64"},
            image_prefixes=(b'"data":"',),
        ),
        Contender(
            "relay", "a byte relay on httpx2, parses nothing", _uvicorn("relay", 9114), 9114, env, image_prefixes=()
        ),
        Contender("naive", "FastAPI and the SDK as documented, a dict returned", _uvicorn("naive", 9115), 9115, env),
        Contender("next", "Gemini's documented Next.js route", next_, 9113, env, BUILD / "next", build=_build_next),
        Contender(
            "litellm",
            f"LiteLLM's proxy {LITELLM}, one worker",
            [*litellm, "--host", "127.0.0.1", "--port", "9116", "--num_workers", "1"],
            9116,
            env,
            BUILD,
            health="/health/liveliness",
            headers={"Authorization": f"Bearer {LITELLM_KEY}"},
            body={"model": "gemini-3-pro-image"},
            path="/v1/images/generations",
            upload_path="/v1/images/edits",
            upload_field="image[]",
            image_prefixes=(b'"b64_json":"',),
            build=_build_litellm,
        ),
    ]
