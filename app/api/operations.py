"""Whether the process lives, and whether it can serve. Open to all, and nothing here costs money."""

from typing import Literal

from fastapi import APIRouter
from pydantic import BaseModel

from app.api.http.dependencies import GateDep, SettingsDep
from app.api.http.problems import problem_responses
from app.domain.errors import Overloaded

router = APIRouter(tags=["health"])


class LivenessRead(BaseModel):
    status: Literal["alive"] = "alive"


class ReadinessRead(BaseModel):
    status: Literal["ready"] = "ready"
    demo: bool


@router.head("/healthz", include_in_schema=False)
@router.get("/healthz", responses={200: {"content": {"application/json": {"example": {"status": "alive"}}}}})
async def alive() -> LivenessRead:
    """Answer as long as the process does."""
    return LivenessRead()


@router.head("/readyz", include_in_schema=False)
@router.get(
    "/readyz",
    responses={
        200: {"content": {"application/json": {"example": {"status": "ready", "demo": False}}}},
        **problem_responses(Overloaded),
    },
)
async def ready(settings: SettingsDep, admission: GateDep) -> ReadinessRead:
    """Answer as soon as requests can be served, and no more once the service has been told to stop. `demo` says whether
    an emulator draws the pictures."""
    if admission.stopping:
        raise Overloaded("This service is about to stop.", retry_after=1)
    return ReadinessRead(demo=settings.demo)
