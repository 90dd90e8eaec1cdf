"""Helpers for tests of recorded generations: make orders, answers and stores without a service."""

import secrets
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

from app.domain.caller import Caller
from app.domain.generation import Generation, GenerationRequest, Image, Reference, Usage
from app.domain.recorded import NewGeneration, Order
from app.lib.base64_json import BufferContent, Content
from app.store.generations import GenerationStore
from tests.conftest import noise_jpeg
from tests.storages import Overrides
from tests.stored_chats import open_storage

ANNA = Caller("anna", keyed=True)
BOB = Caller("bob", keyed=True)


def new_id() -> str:
    return f"gen_{secrets.token_hex(16)}"


def new(prompt: str = "A cat", *, caller: Caller = ANNA, **fields: Any) -> NewGeneration:
    """Return a new generation; equal prompts have equal fingerprints. Fields of `Order` may be given too."""
    of_order = {name: fields.pop(name) for name in ("count", "turn", "charge", "view") if name in fields}
    request = GenerationRequest(prompt, references=fields.pop("references", ()))
    fields = {"fingerprint": prompt.encode().hex()[:64], "holder": None if fields.get("is_async") else "here"} | fields
    return NewGeneration(new_id(), Order(caller, request, **of_order), **fields)


def image(seed: int = 1, size: int = 5000) -> Image:
    return Image(BufferContent(noise_jpeg(seed, size)), "image/jpeg", 1024, 1024)


def reference(seed: int = 1) -> Reference:
    return Reference(image(seed), name="a reference")


def answer(seed: int = 1, **fields: Any) -> Generation:
    return Generation(
        "gen_answer", image(seed), "a-model", Usage(1, 2, total_tokens=3, estimated_cost_usd=0.1), **fields
    )


async def bytes_of(content: Content) -> bytes:
    return b"".join([piece async for piece in content])


@asynccontextmanager
async def open_generations(storage: Overrides, **overrides: Any) -> AsyncGenerator[GenerationStore]:
    """Open the store of recorded generations without a service."""
    async with open_storage(storage, **overrides) as opened:
        yield await opened.generations()
