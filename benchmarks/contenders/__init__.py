"""Who takes part: how each is installed, started and asked, and where its answer has the image."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks import upstream
from benchmarks.caller import Request

HERE = Path(__file__).parent
BUILD = Path(".bench").absolute()
BOUNDARY = "----WebKitFormBoundary7MA4YWxkTrZu0gW"
"""Between the parts of a form, as a browser chooses it: how long it is matters to whoever searches for it."""

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
    body: dict[str, str] = field(default_factory=dict)
    path: str = "/generate-image"
    uploads: str = "/generate-image/with-references"
    upload_field: str = "images"
    max_uploads: int = 14
    images_in: tuple[bytes, ...] = (b'"data":"', b"base64,")
    """What stands before the image in the answer, as often as it is in there."""
    build: Callable[[], None] = lambda: None

    def asking(self, size: int, after: float = 0) -> Request:
        """For an image of `size` bytes, which the upstream begins to send `after` seconds."""
        body = json.dumps({"prompt": f"{size} bytes after {after} s", **self.body}).encode()
        return Request("POST", self.path, {"Content-Type": "application/json", **self.headers}, body)

    def uploading(self, count: int, size: int) -> Request:
        """`count` reference images along, for an image of `size` bytes."""
        fields = {"prompt": f"{size} bytes after 0 s", **{key: str(value) for key, value in self.body.items()}}
        parts = [f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
                 for name, value in fields.items()]  # fmt: skip
        reference = upstream.image(upstream.REFERENCE_BYTES)
        for number in range(count):
            about = f'form-data; name="{self.upload_field}"; filename="{number}.jpg"\r\nContent-Type: image/jpeg'
            parts += [f"--{BOUNDARY}\r\nContent-Disposition: {about}\r\n\r\n".encode(), reference, b"\r\n"]
        body = b"".join([*parts, f"--{BOUNDARY}--\r\n".encode()])
        return Request(
            "POST", self.uploads, {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}", **self.headers}, body
        )

    def check(self, body: bytes, size: int) -> None:
        """Refuse an answer that does not hold the very image that the upstream sent."""
        if not self.images_in:
            assert body == upstream.answer(size), f"{self.name} changed the answer"
            return
        end = 0
        for mark in self.images_in:
            start = body.find(mark, end) + len(mark)
            end = start + len(upstream.encoded_image(size))
            whole = start >= len(mark) and body.startswith(upstream.encoded_image(size), start)
            assert whole and body[end : end + 1] == b'"', f"{self.name} changed the image"


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
    path.write_text(json.dumps(config))  # JSON is YAML
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


def service_on(upstream_url: str, port: int = 9111, **settings: str) -> Contender:
    """This service, as `python -m app` starts it."""
    env = _environment(upstream_url) | {"PORT": str(port)} | settings
    return Contender("service", "this service", [sys.executable, "-m", "app"], port, env)


def contenders(upstream_url: str) -> list[Contender]:
    """All of them; the relay, which parses nothing, and naive code are the two ends of the scale."""
    BUILD.mkdir(exist_ok=True)
    env = _environment(upstream_url)
    service = service_on(upstream_url)
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
            images_in=(b'"data":"',),
        ),
        Contender("relay", "a byte relay on httpx2, parses nothing", _uvicorn("relay", 9114), 9114, env, images_in=()),
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
            uploads="/v1/images/edits",
            upload_field="image[]",
            images_in=(b'"b64_json":"',),
            build=_build_litellm,
        ),
    ]
