"""Whether the process lives, and whether it can serve. Open to all, and nothing here costs money."""

from typing import Literal

from fastapi import APIRouter
from pydantic import BaseModel

from app.api.http.dependencies import GateDep, SettingsDep
from app.api.http.problems import documented
from app.domain.errors import Overloaded

router = APIRouter(tags=["health"])


class Alive(BaseModel):
    status: Literal["alive"] = "alive"


class Ready(BaseModel):
    status: Literal["ready"] = "ready"
    demo: bool


@router.head("/healthz", include_in_schema=False)
@router.get("/healthz", responses={200: {"content": {"application/json": {"example": {"status": "alive"}}}}})
async def alive() -> Alive:
    """Answer as long as the process does."""
    return Alive()


@router.head("/readyz", include_in_schema=False)
@router.get(
    "/readyz",
    responses={
        200: {"content": {"application/json": {"example": {"status": "ready", "demo": False}}}},
        **documented(Overloaded),
    },
)
async def ready(settings: SettingsDep, gate: GateDep) -> Ready:
    """Answer as soon as requests can be served, and no more once the service has been told to stop. `demo` says whether
    an emulator draws the pictures."""
    if gate.stopping:
        raise Overloaded("This service is about to stop.", retry_after=1)
    return Ready(demo=settings.demo)
