"""The document of a generation in a webhook, and the description of webhooks in the OpenAPI document."""

from collections.abc import Awaitable, Callable
from typing import Annotated, Any

from fastapi import APIRouter, Header

from app.api.generations.document import generation_document
from app.api.generations.links import LinkMaker
from app.api.generations.response import WebhookRead
from app.domain.recorded import RecordedGeneration
from app.settings import Settings
from app.store import Storage

descriptions = APIRouter()
"""Not served: what the service sends to others."""


@descriptions.post(
    "generation-finished",
    status_code=204,
    tags=["generations"],
    summary="A generation is over",
    responses={
        410: {"description": "The receiver wants no more tries."},
        "4XX": {"description": "The message is sent again."},
    },
)
async def generation_finished(
    message: WebhookRead,
    webhook_id: Annotated[str, Header(description="The same for all tries of one message.")],
    webhook_timestamp: Annotated[int, Header(description="Unix time of this try in seconds.")],
    webhook_signature: Annotated[
        str, Header(description="Signatures by `WEBHOOK_SECRET`, as Standard Webhooks defines them: `v1,…`.")
    ],
) -> None:
    """Sent to the `webhookUrl` of an asynchronous request. Any 2xx status is a success. After a failure the message is
    sent again, up to seven times in all: after 5 s, 5 min, 30 min, 2 h, 5 h and 10 h, or later if `Retry-After` says
    so. Redirects are failures."""


def webhook_document(storage: Storage, settings: Settings) -> Callable[[RecordedGeneration], Awaitable[dict[str, Any]]]:
    """Return a function that returns the document of a generation. Its links need no key."""

    async def document(generation: RecordedGeneration) -> dict[str, Any]:
        key = await (await storage.generations()).signing_key()
        address = (settings.public_url or generation.base_url).rstrip("/")
        return generation_document(generation, LinkMaker(address, key, settings.image_url_ttl.total_seconds()))

    return document
