"""FastAPI dependencies that all routes use: the caller, the services, and the generation run of a request.

All of them are `async`, because FastAPI calls other functions in a thread.
"""

from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Annotated

from fastapi import Depends, Header, Request, Security
from fastapi.exceptions import RequestValidationError
from fastapi.security import APIKeyHeader, HTTPBearer
from starlette.exceptions import HTTPException

from app.api.http import content_type
from app.api.http.preferences import preferred_wait
from app.api.http.state import request_state
from app.api.http.uploads import content_length
from app.domain.caller import Caller
from app.domain.catalogue import Catalogue
from app.domain.errors import ServiceError, UnsupportedMediaType
from app.service.chats.service import ChatService
from app.service.generation.references import ReferenceValidator
from app.service.generation.run import GenerationRun
from app.service.generation.service import ImageService
from app.service.metrics import Metrics
from app.service.recorded.service import RecordedGenerations
from app.service.resilience.admission import AdmissionController
from app.settings import Settings

# The middleware has checked the key already. These two put the key into the OpenAPI document.
_Bearer = Annotated[
    object, Security(HTTPBearer(auto_error=False, description="A key: `python -m app keys add`, or SERVICE_API_KEYS."))
]
_Header = Annotated[object, Security(APIKeyHeader(name="X-API-Key", auto_error=False))]


async def caller(request: Request, _bearer: _Bearer, _header: _Header) -> Caller:
    return request_state(request.scope)["caller"]


async def caller_unless_signed(request: Request, _bearer: _Bearer, _header: _Header) -> Caller | None:
    """Return the caller; `None` for a signed link, whose signature the route must check."""
    return request_state(request.scope).get("caller")


async def _images(request: Request) -> ImageService:
    return request_state(request.scope)["images"]


async def _chats(request: Request) -> ChatService:
    return request_state(request.scope)["chats"]


async def _recorded(request: Request) -> RecordedGenerations:
    return request_state(request.scope)["recorded"]


async def _references(request: Request) -> ReferenceValidator:
    return request_state(request.scope)["references"]


async def _catalogue(request: Request) -> Catalogue:
    return request_state(request.scope)["catalogue"]


async def _settings(request: Request) -> Settings:
    return request_state(request.scope)["settings"]


async def _metrics(request: Request) -> Metrics:
    return request_state(request.scope)["metrics"]


async def _admission(request: Request) -> AdmissionController:
    return request_state(request.scope)["admission"]


async def _seconds(
    request: Request,
    x_timeout_seconds: Annotated[
        float | None,
        Header(ge=0.2, description="Time limit for the whole request in seconds; at most `DEADLINE_SECONDS`."),
    ] = None,
    _prefer: Annotated[
        str | None,
        Header(alias="prefer", description="`wait=N` sets the same time limit, for clients that support RFC 7240."),
    ] = None,
) -> float:
    """Return the time limit of the request in seconds: what the caller asks for, at most `DEADLINE_SECONDS`."""
    most = request_state(request.scope)["settings"].deadline_seconds
    return min(x_timeout_seconds or preferred_wait(request.headers) or most, most)


SecondsDep = Annotated[float, Depends(_seconds)]
"""Time limit of the request in seconds."""


async def _generation_runs(request: Request, seconds: SecondsDep) -> AsyncGenerator[Callable[[], GenerationRun]]:
    """Yield a function that begins a run, and finish all runs after the response has been sent."""
    state = request_state(request.scope)
    runs: list[GenerationRun] = []

    def begin() -> GenerationRun:
        run = state["runs"].begin(state["caller"], seconds)
        runs.append(run)
        return run

    with state["memory_trimmer"].busy():
        try:
            yield begin
        except ServiceError as error:
            for run in runs:
                run.fail(error)
            raise
        except (HTTPException, RequestValidationError):
            raise
        except Exception as error:
            failures = [run.unexpected(error) for run in runs]
            if not failures:
                raise
            raise failures[0] from error
        finally:
            for run in runs:
                run.finish()


CallerDep = Annotated[Caller, Depends(caller)]
ImagesDep = Annotated[ImageService, Depends(_images)]
ChatsDep = Annotated[ChatService, Depends(_chats)]
RecordedDep = Annotated[RecordedGenerations, Depends(_recorded)]
ReferencesDep = Annotated[ReferenceValidator, Depends(_references)]
CatalogueDep = Annotated[Catalogue, Depends(_catalogue)]
SettingsDep = Annotated[Settings, Depends(_settings)]
AdmissionDep = Annotated[AdmissionController, Depends(_admission)]
MetricsDep = Annotated[Metrics, Depends(_metrics)]
RunsDep = Annotated[Callable[[], GenerationRun], Depends(_generation_runs)]
"""Begins a run of this request. Each image has a run of its own."""


async def _generation_run(begin: RunsDep) -> GenerationRun:
    return begin()


RunDep = Annotated[GenerationRun, Depends(_generation_run)]


def require_content_type(
    type_: str, *, optional: bool = False, or_form: bool = False
) -> Callable[[Request], Awaitable[None]]:
    """Return a dependency that refuses a body of another media type with 415.

    Args:
        type_: the media type.
        optional: accept a request without a body.
        or_form: another route with the same path reads forms; the error names both types.
    """

    async def check(request: Request) -> None:
        sent = request.headers.get("content-type", "")
        if optional and not sent and not content_length(request.scope):
            return
        if not content_type.matches(content_type.media_type(request.headers), type_):
            found = f"Its Content-Type is {sent[:200]}" if sent else "It has no Content-Type"
            wanted = f"{type_} or {content_type.FORM}" if or_form else type_
            raise UnsupportedMediaType(f"Send the body as {wanted}. {found}.")

    return check
