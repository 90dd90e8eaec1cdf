"""What handlers reach for: who asks, and what does the work."""

import inspect
import re
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Annotated, TypedDict, TypeVar, cast

from fastapi import Depends, Header, Request, Security
from fastapi.exceptions import RequestValidationError
from fastapi.security import APIKeyHeader, HTTPBearer
from starlette.exceptions import HTTPException

from app.api.http import content_type
from app.api.http.middleware import announced_length
from app.api.http.problems import Reporter
from app.api.http.uploads import Intake
from app.domain.catalogue import Catalogue
from app.domain.errors import ServiceError, UnsupportedMediaType
from app.domain.generation import Caller
from app.lib.byte_budget import Room, Share
from app.lib.idle_trim import SpareMemory
from app.lib.scheduler import Pace
from app.service.chats.service import Chats
from app.service.generation.references import References
from app.service.generation.run import Attendance
from app.service.generation.service import Images
from app.service.metrics import Metrics
from app.service.resilience.admission import Gate
from app.settings import Settings

T = TypeVar("T")


class State(TypedDict):
    """What lives as long as the process."""

    settings: Settings
    catalogue: Catalogue
    images: Images
    chats: Chats
    references: References
    pace: Pace
    spare_memory: SpareMemory
    gate: Gate
    intake: Intake
    room: Room
    metrics: Metrics
    reporter: Reporter


def made_of(whole: Callable[..., T]) -> Callable[..., Awaitable[T]]:
    """A dependency that is made of others, which its constructor names.

    FastAPI would call a class in a thread; the way there and back takes longer than all of the others together.
    """

    async def make(**parts: object) -> T:
        return whole(**parts)

    make.__signature__ = inspect.signature(whole)  # type: ignore[attr-defined]
    return make


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


async def _chats(request: Request) -> Chats:
    return cast("Chats", request.state.chats)


async def _references(request: Request) -> References:
    return cast("References", request.state.references)


async def _catalogue(request: Request) -> Catalogue:
    return cast("Catalogue", request.state.catalogue)


async def _pace(request: Request) -> Pace:
    return cast("Pace", request.state.pace)


async def _settings(request: Request) -> Settings:
    return cast("Settings", request.state.settings)


async def _metrics(request: Request) -> Metrics:
    return cast("Metrics", request.state.metrics)


async def _gate(request: Request) -> Gate:
    return cast("Gate", request.state.gate)


async def _seconds(
    request: Request,
    x_timeout_seconds: Annotated[
        float | None, Header(ge=0.2, description="How long the image may take altogether; a setting is the most.")
    ] = None,
    _prefer: Annotated[
        str | None, Header(alias="prefer", description="`wait=N` is the same for clients that speak RFC 7240.")
    ] = None,
) -> float:
    """How long the caller is willing to wait, as far as we are willing to work."""
    most = cast("Settings", request.state.settings).deadline_seconds
    preferences = ",".join(request.headers.getlist("prefer"))
    wait = re.search(r"(?:^|[,;\s])wait\s*=\s*\"?(\d{1,6})", preferences, re.IGNORECASE)
    return min(x_timeout_seconds or (float(wait[1]) if wait else 0) or most, most)


async def attendance(
    request: Request,
    caller: Annotated[Caller, Depends(caller)],
    images: Annotated[Images, Depends(_images)],
    metrics: Annotated[Metrics, Depends(_metrics)],
    seconds: Annotated[float, Depends(_seconds)],
) -> AsyncGenerator[Attendance]:
    """Holds until the answer is sent."""
    share = Share(cast("Room", request.state.room))
    upload = getattr(request.state, "upload", None)
    attending = Attendance(images, caller, share, upload, seconds, metrics, request.state.reporter, request.scope)
    with cast("SpareMemory", request.state.spare_memory).at_work():
        try:
            yield attending
        except ServiceError as error:
            attending.failed(error)
            raise
        except (HTTPException, RequestValidationError):
            raise
        except Exception as error:
            raise attending.broken(error) from error
        finally:
            attending.finish()


ImagesDep = Annotated[Images, Depends(_images)]
ChatsDep = Annotated[Chats, Depends(_chats)]
ReferencesDep = Annotated[References, Depends(_references)]
CallerDep = Annotated[Caller, Depends(caller)]
CatalogueDep = Annotated[Catalogue, Depends(_catalogue)]
PaceDep = Annotated[Pace, Depends(_pace)]
SettingsDep = Annotated[Settings, Depends(_settings)]
GateDep = Annotated[Gate, Depends(_gate)]
MetricsDep = Annotated[Metrics, Depends(_metrics)]
AttendanceDep = Annotated[Attendance, Depends(attendance)]


def body_of(type_: str, *, optional: bool = False) -> Callable[[Request], Awaitable[None]]:
    """A dependency that refuses a body of another media type, and says which one is wanted.

    Args:
        type_: the media type.
        optional: whether there may be no body.
    """

    async def check(request: Request) -> None:
        sent = request.headers.get("content-type", "")
        if optional and not sent and not announced_length(request.scope):
            return
        if not content_type.is_a(content_type.media_type(request.headers), type_):
            raise UnsupportedMediaType(f"Send the body as {type_}: Content-Type says {sent[:200] or 'nothing'}.")

    return check
