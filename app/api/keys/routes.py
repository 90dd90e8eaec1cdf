"""`/admin/keys`: make, change and revoke keys of the database. The routes exist if `ADMIN_API_KEY` is set."""

from collections.abc import Callable, Coroutine
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Request, Response, Security
from fastapi.routing import APIRoute
from fastapi.security import HTTPBearer

from app.api.chats.parameters import EDGE_ERRORS, STORAGE_ERRORS
from app.api.http.dependencies import require_content_type
from app.api.http.generation_route import ExtractingRequest
from app.api.http.openapi import ADMIN_SCHEME
from app.api.http.problem_responses import problem_responses
from app.api.http.state import request_state
from app.api.keys.request import KeyChange, KeyCreate, KeyRotation
from app.api.keys.response import KeyRead, KeysRead, NewKeyRead, key_read, new_key_read
from app.domain import errors
from app.service.callers.administration import KeyAdministration

_BODY_ERRORS = (errors.InvalidJson, errors.TooLarge, errors.UnsupportedMediaType)


class JsonRoute(APIRoute):
    """A route that reads small JSON bodies as the routes for images read theirs, and needs no capacity for them."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handler = super().get_route_handler()

        async def handle(request: Request) -> Response:
            return await handler(ExtractingRequest(request.scope, request.receive))

        return handle


async def _no_store(response: Response) -> None:
    response.headers["Cache-Control"] = "no-store"


router = APIRouter(
    prefix="/admin/keys",
    tags=["keys"],
    route_class=JsonRoute,
    responses=problem_responses(
        *EDGE_ERRORS, *STORAGE_ERRORS, errors.InvalidRequest, errors.HeaderTooLarge, errors.Overloaded
    ),
    # The middleware has checked the key already.
    dependencies=[
        Security(HTTPBearer(scheme_name=ADMIN_SCHEME, auto_error=False, description="ADMIN_API_KEY.")),
        Depends(_no_store),
    ],
)


async def _administration(request: Request) -> KeyAdministration:
    return request_state(request.scope)["key_administration"]


_Keys = Annotated[KeyAdministration, Depends(_administration)]
_Name = Annotated[str, Path(description="Name of the key.", max_length=255, pattern=r"^[^\x00]+$")]
_NotFound = problem_responses(errors.KeyNotFound)
_json = Depends(require_content_type("application/json"))


@router.post(
    "",
    status_code=201,
    dependencies=[_json],
    responses=problem_responses(errors.KeyExists, *_BODY_ERRORS),
)
async def add_key(body: KeyCreate, keys: _Keys) -> NewKeyRead:
    """Make a key. Its `secret` is in this response only. The key works at once on every replica."""
    key, secret = await keys.add(body.name, body.limits, body.expires, track_users=body.track_users)
    return new_key_read(key, secret)


@router.get("")
async def list_keys(keys: _Keys) -> KeysRead:
    """List the keys of the database by name, also those that have ended."""
    return KeysRead(keys=[key_read(key) for key in await keys.all()])


@router.get("/{name}", responses=_NotFound)
async def get_key(name: _Name, keys: _Keys) -> KeyRead:
    """Get a key: its limits, what is used of its budget, and when its secrets end."""
    return key_read(await keys.get(name))


@router.patch("/{name}", dependencies=[_json], responses=_NotFound | problem_responses(*_BODY_ERRORS))
async def change_key(name: _Name, body: KeyChange, keys: _Keys) -> KeyRead:
    """Change a key. `null` removes a limit; what is not named stays. Replicas notice within ten seconds."""
    return key_read(await keys.change(name, body.changes, body.expires_in))


@router.delete("/{name}", status_code=204, responses=_NotFound)
async def revoke_key(name: _Name, keys: _Keys) -> None:
    """Revoke a key with all its secrets. Replicas notice within ten seconds. What it has used stays recorded."""
    await keys.revoke(name)


@router.post(
    "/{name}/rotate",
    dependencies=[Depends(require_content_type("application/json", optional=True))],
    responses=_NotFound | problem_responses(*_BODY_ERRORS),
)
async def rotate_key(name: _Name, keys: _Keys, body: KeyRotation | None = None) -> NewKeyRead:
    """Give a key another secret. The earlier ones stay valid for `overlap`; without it for 24 hours."""
    key, secret = await keys.rotate(name, (body or KeyRotation()).overlap)
    return new_key_read(key, secret)
