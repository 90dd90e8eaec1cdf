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
from app.api.http.middleware import content_length
from app.api.http.problems import Reporter
from app.api.http.uploads import UploadLimiter
from app.domain.catalogue import Catalogue
from app.domain.errors import ServiceError, UnsupportedMediaType
from app.domain.generation import Caller
from app.lib.byte_budget import ByteBudget, Reservation
from app.lib.idle_trim import IdleMemoryTrimmer
from app.lib.scheduler import FairScheduler
from app.service.chats.service import ChatService
from app.service.generation.references import ReferenceValidator
from app.service.generation.run import GenerationRun
from app.service.generation.service import ImageService
from app.service.metrics import Metrics
from app.service.resilience.admission import AdmissionController
from app.settings import Settings

T = TypeVar("T")


class State(TypedDict):
    """What lives as long as the process."""

    settings: Settings
    catalogue: Catalogue
    images: ImageService
    chats: ChatService
    references: ReferenceValidator
    scheduler: FairScheduler
    memory_trimmer: IdleMemoryTrimmer
    admission: AdmissionController
    upload_limiter: UploadLimiter
    room: ByteBudget
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


async def _images(request: Request) -> ImageService:
    return cast("ImageService", request.state.images)


async def _chats(request: Request) -> ChatService:
    return cast("ChatService", request.state.chats)


async def _references(request: Request) -> ReferenceValidator:
    return cast("ReferenceValidator", request.state.references)


async def _catalogue(request: Request) -> Catalogue:
    return cast("Catalogue", request.state.catalogue)


async def _scheduler(request: Request) -> FairScheduler:
    return cast("FairScheduler", request.state.scheduler)


async def _settings(request: Request) -> Settings:
    return cast("Settings", request.state.settings)


async def _metrics(request: Request) -> Metrics:
    return cast("Metrics", request.state.metrics)


async def _admission(request: Request) -> AdmissionController:
    return cast("AdmissionController", request.state.admission)


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


async def generation_run(
    request: Request,
    caller: Annotated[Caller, Depends(caller)],
    metrics: Annotated[Metrics, Depends(_metrics)],
    seconds: Annotated[float, Depends(_seconds)],
) -> AsyncGenerator[GenerationRun]:
    """Holds until the answer is sent."""
    memory = Reservation(cast("ByteBudget", request.state.room))
    reporter = cast("Reporter", request.state.reporter)
    attending = GenerationRun(
        request.state.admission,
        caller,
        memory,
        seconds,
        metrics,
        log_error=lambda error: reporter.document(error, request.scope),
    )
    with cast("IdleMemoryTrimmer", request.state.memory_trimmer).busy():
        try:
            yield attending
        except ServiceError as error:
            attending.fail(error)
            raise
        except (HTTPException, RequestValidationError):
            raise
        except Exception as error:
            raise attending.unexpected(error) from error
        finally:
            attending.finish()


ImagesDep = Annotated[ImageService, Depends(_images)]
ChatsDep = Annotated[ChatService, Depends(_chats)]
ReferencesDep = Annotated[ReferenceValidator, Depends(_references)]
CallerDep = Annotated[Caller, Depends(caller)]
CatalogueDep = Annotated[Catalogue, Depends(_catalogue)]
PaceDep = Annotated[FairScheduler, Depends(_scheduler)]
SettingsDep = Annotated[Settings, Depends(_settings)]
GateDep = Annotated[AdmissionController, Depends(_admission)]
MetricsDep = Annotated[Metrics, Depends(_metrics)]
AttendanceDep = Annotated[GenerationRun, Depends(generation_run)]


def require_content_type(type_: str, *, optional: bool = False) -> Callable[[Request], Awaitable[None]]:
    """A dependency that refuses a body of another media type, and says which one is wanted.

    Args:
        type_: the media type.
        optional: whether there may be no body.
    """

    async def check(request: Request) -> None:
        sent = request.headers.get("content-type", "")
        if optional and not sent and not content_length(request.scope):
            return
        if not content_type.matches(content_type.media_type(request.headers), type_):
            raise UnsupportedMediaType(f"Send the body as {type_}: Content-Type says {sent[:200] or 'nothing'}.")

    return check
