"""Routes for operators: liveness, readiness and metrics. None of them calls Gemini."""

from typing import Literal

from fastapi import APIRouter, Response
from pydantic import BaseModel

from app.api.http.dependencies import AdmissionDep, MetricsDep, SettingsDep
from app.api.http.problem_responses import problem_responses
from app.domain.errors import Overloaded

router = APIRouter(tags=["health"])
metrics_router = APIRouter(tags=["health"])


class LivenessRead(BaseModel):
    status: Literal["alive"] = "alive"


class ReadinessRead(BaseModel):
    status: Literal["ready"] = "ready"
    demo: bool


@router.head("/healthz", include_in_schema=False)
@router.get("/healthz", responses={200: {"content": {"application/json": {"example": {"status": "alive"}}}}})
async def alive() -> LivenessRead:
    """Answer 200 as long as the process runs."""
    return LivenessRead()


@router.head("/readyz", include_in_schema=False)
@router.get(
    "/readyz",
    responses={
        200: {"content": {"application/json": {"example": {"status": "ready", "demo": False}}}},
        **problem_responses(Overloaded),
    },
)
async def ready(settings: SettingsDep, admission: AdmissionDep) -> ReadinessRead:
    """Answer 200 while the service accepts requests, and 503 once it is told to stop. `demo` is true if the built-in
    emulator generates the images."""
    if admission.stopping:
        raise Overloaded("This service is about to stop.", retry_after=1)
    return ReadinessRead(demo=settings.demo)


@metrics_router.get(
    "/metrics",
    response_class=Response,
    responses={200: {"content": {"text/plain": {"example": "gemini_images_in_flight 3.0\n"}}}},
)
async def metrics(metrics: MetricsDep) -> Response:
    """Return metrics in Prometheus' text format: running and finished generations, their duration and their cost."""
    return Response(metrics.render(), media_type="text/plain; version=0.0.4")
