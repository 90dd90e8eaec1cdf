"""OpenAI's libraries behind one function, so that a test runs with each of them."""

import asyncio
import inspect
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import reduce
from pathlib import Path
from typing import Any, Literal, Protocol

import httpx2
import openai

from tests.clients.node_process import run_node
from tests.clients.outcome import Outcome

KEY = "any-key"
PROMPT = {"prompt": "A lighthouse in a storm"}


@dataclass(frozen=True)
class Call:
    """A call of a method such as `images.generate`."""

    method: str
    body: dict[str, Any] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)
    images: Sequence[Path] = ()
    mask: Path | None = None
    images_as: Literal["file", "bytes"] = "bytes"
    key: str = KEY
    retries: int | None = None
    """Retries of the library; `None` leaves the library's default."""
    with_headers: bool = False
    """Return `{"data", "headers"}` instead of the data."""


class Library(Protocol):
    async def __call__(self, url: str, call: Call) -> Outcome:
        """Make the call at the service with this URL, as an application does."""
        ...


async def generate(library: Library, service: httpx2.AsyncClient, **body: Any) -> Outcome:
    """Ask for an image without retries of the library."""
    return await library(str(service.base_url), Call("images.generate", PROMPT | body, retries=0))


async def sync_python(url: str, call: Call) -> Outcome:
    def run() -> Outcome:
        with openai.OpenAI(**_options(url, call)) as client:
            try:
                answer = _method(client, call)(**_arguments(client, call))
                if call.with_headers:
                    return Outcome({"data": answer.parse().to_dict(), "headers": dict(answer.headers)})
                if call.body.get("stream"):
                    return Outcome([event.to_dict() for event in answer])
                return Outcome(answer.to_dict())
            except openai.APIError as error:
                return Outcome(error=_description(error))

    return await asyncio.to_thread(run)


async def async_python(url: str, call: Call) -> Outcome:
    async with openai.AsyncOpenAI(**_options(url, call)) as client:
        try:
            answer = await _method(client, call)(**_arguments(client, call))
            if call.with_headers:
                return Outcome({"data": answer.parse().to_dict(), "headers": dict(answer.headers)})
            if call.body.get("stream"):
                return Outcome([event.to_dict() async for event in answer])
            return Outcome(answer.to_dict())
        except openai.APIError as error:
            return Outcome(error=_description(error))


def in_node(folder: Path) -> Library:
    """Return OpenAI's library for Node, which is installed in `folder`."""

    async def run(url: str, call: Call) -> Outcome:
        job = {
            "url": url,
            "key": call.key,
            "retries": call.retries,
            "method": call.method,
            "body": call.body or None,
            "headers": call.headers,
            "images": [str(path) for path in call.images] or None,
            "mask": str(call.mask) if call.mask else None,
            "as": call.images_as,
            "parse": "response" if call.with_headers else None,
        }
        return await run_node(folder / "openai.mjs", job)

    return run


def _options(url: str, call: Call) -> dict[str, Any]:
    options: dict[str, Any] = {"base_url": f"{url}/v1", "api_key": call.key}
    return options if call.retries is None else options | {"max_retries": call.retries}


def _method(client: Any, call: Call) -> Callable[..., Any]:
    *owners, name = call.method.split(".")
    owner = reduce(getattr, owners, client)
    method: Callable[..., Any] = getattr(owner.with_raw_response if call.with_headers else owner, name)
    return method


def _arguments(client: Any, call: Call) -> dict[str, Any]:
    """Return the arguments of the method. What OpenAI's library does not know goes into `extra_body`."""
    known = inspect.signature(reduce(getattr, call.method.split("."), client)).parameters
    arguments: dict[str, Any] = {name: value for name, value in call.body.items() if name in known}
    extra = {name: value for name, value in call.body.items() if name not in known}
    if call.images:
        files = [_file(path) if call.images_as == "file" else path.read_bytes() for path in call.images]
        arguments["image"] = files[0] if len(files) == 1 else files
    if call.mask:
        arguments["mask"] = call.mask.read_bytes()
    return arguments | {"extra_headers": call.headers, "extra_body": extra or None}


def _file(path: Path) -> io.BytesIO:
    """Return an open file. It needs no closing."""
    file = io.BytesIO(path.read_bytes())
    file.name = path.name  # as every open file has
    return file


def _description(error: openai.APIError) -> dict[str, Any]:
    response = getattr(error, "response", None)
    return {
        "name": type(error).__name__,
        "message": error.message,
        "status": getattr(error, "status_code", None),
        "code": error.code,
        "param": error.param,
        "type": error.type,
        "request_id": getattr(error, "request_id", None),
        "headers": dict(response.headers) if response is not None else {},
    }
