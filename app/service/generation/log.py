"""The log line of a generation that has ended. It holds no prompt, key or image."""

import logging

from pydantic.alias_generators import to_camel

from app.domain.errors import ServiceError
from app.domain.generation import Generation
from app.domain.progress import GenerationProgress, Stage

log = logging.getLogger(__name__)


def log_generation(
    caller: str,
    model: str,
    outcome: str,
    progress: GenerationProgress,
    generation: Generation | None,
    failure: ServiceError | None,
    disconnected_in: str | None,
) -> None:
    """Log a generation that has ended.

    Args:
        caller: name of the caller.
        model: id of the model that was asked last.
        outcome: `ok` or the problem's code.
        progress: of the generation.
        generation: the result, if there is one.
        failure: the error, if there is one.
        disconnected_in: the stage in which the caller disconnected, if it did.
    """
    usage = progress.usage
    log.info(
        "generation",
        extra={
            "caller": caller,
            "model": model,
            "attempts": progress.attempts,
            "outcome": outcome,
            "disconnectedIn": disconnected_in,
            "finishReason": generation.finish_reason if generation else getattr(failure, "finish_reason", None),
            **{f"{stage}Ms": round(1000 * seconds) for stage, seconds in _by_stage(progress).items()},
            "receivedBytes": progress.received_bytes,
            "imageBytes": len(generation.image.content) if generation else None,
            "tokens": usage and usage.total_tokens,
            "costUsd": usage and usage.estimated_cost_usd,
        },
    )


def _by_stage(progress: GenerationProgress) -> dict[str, float]:
    """Return the seconds of each stage by the name of its log field, such as `firstByte`."""
    names = {stage: to_camel(str(stage)) for stage in Stage}
    return {name: progress.stage_seconds[stage] for stage, name in names.items() if stage in progress.stage_seconds}
