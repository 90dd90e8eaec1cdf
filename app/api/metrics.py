"""`/metrics`, for Prometheus."""

from fastapi import APIRouter, Response

from app.api.http.dependencies import MetricsDep

router = APIRouter(tags=["health"])


@router.get(
    "/metrics",
    response_class=Response,
    responses={200: {"content": {"text/plain": {"example": "gemini_images_in_flight 3.0\n"}}}},
)
async def metrics(metrics: MetricsDep) -> Response:
    """What is under way, what came of what was, and what it cost, in Prometheus' text format."""
    return Response(metrics.render(), media_type="text/plain; version=0.0.4")
