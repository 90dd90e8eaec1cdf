"""What handlers reach for: who asks, and what does the work."""

import email.message
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Annotated, TypedDict, cast

from fastapi import Depends, Request, Security
from fastapi.security import APIKeyHeader, HTTPBearer

from app.catalogue import Catalogue
from app.domain import Caller
from app.errors import UnsupportedMediaType
from app.memory import SpareMemory
from app.pace import Pace
from app.service.images import Images
from app.service.references import References
from app.settings import Settings


class State(TypedDict):
    """What lives as long as the process."""

    settings: Settings
    catalogue: Catalogue
    images: Images
    references: References
    pace: Pace
    spare_memory: SpareMemory


async def caller(
    request: Request,
    # The door has decided long before; these two put it into the OpenAPI document.
    _bearer: Annotated[object, Security(HTTPBearer(auto_error=False, description="A key from SERVICE_API_KEYS."))],
    _header: Annotated[object, Security(APIKeyHeader(name="X-API-Key", auto_error=False))],
) -> Caller:
    """Who asks, as the door has recognised them."""
    return cast("Caller", request.state.caller)


async def _images(request: Request) -> Images:
    return cast("Images", request.state.images)


async def _references(request: Request) -> References:
    return cast("References", request.state.references)


async def _catalogue(request: Request) -> Catalogue:
    return cast("Catalogue", request.state.catalogue)


async def _pace(request: Request) -> Pace:
    return cast("Pace", request.state.pace)


async def _settings(request: Request) -> Settings:
    return cast("Settings", request.state.settings)


async def at_work(request: Request) -> AsyncGenerator[None]:
    """Holds until the answer is sent."""
    with cast("SpareMemory", request.state.spare_memory).at_work():
        yield


ImagesDep = Annotated[Images, Depends(_images)]
ReferencesDep = Annotated[References, Depends(_references)]
CatalogueDep = Annotated[Catalogue, Depends(_catalogue)]
PaceDep = Annotated[Pace, Depends(_pace)]
SettingsDep = Annotated[Settings, Depends(_settings)]


def body_of(type_: str) -> Callable[[Request], Awaitable[None]]:
    """A dependency that refuses a body of another media type, and says which one is wanted."""

    async def check(request: Request) -> None:
        message = email.message.Message()
        message["content-type"] = request.headers.get("content-type", "")
        given = message.get_content_type() if message["content-type"] else ""
        if given != type_ and not (type_ == "application/json" and given.endswith("+json")):
            raise UnsupportedMediaType(f"Send the body as {type_}: Content-Type says {given[:80] or 'nothing'}.")

    return check
