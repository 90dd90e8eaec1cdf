"""The document of a generation in a webhook."""

from collections.abc import Awaitable, Callable
from typing import Any

from app.api.generations.document import generation_document
from app.api.generations.links import LinkMaker
from app.domain.recorded import RecordedGeneration
from app.settings import Settings
from app.store import Storage


def webhook_document(storage: Storage, settings: Settings) -> Callable[[RecordedGeneration], Awaitable[dict[str, Any]]]:
    """Return a function that returns the document of a generation. Its links need no key."""

    async def document(generation: RecordedGeneration) -> dict[str, Any]:
        key = await (await storage.generations()).signing_key()
        address = (settings.public_url or generation.base_url).rstrip("/")
        return generation_document(generation, LinkMaker(address, key, settings.image_url_ttl.total_seconds()))

    return document
