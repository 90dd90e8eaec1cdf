"""Limits of the caller at the edges: what it may ask for, and reserving before a generation begins."""

from collections.abc import Sequence

from starlette.types import Scope

from app.api.http.state import request_state
from app.domain.errors import NotAllowed
from app.domain.generation import GenerationRequest
from app.domain.spending import Charge
from app.service.generation.plan import GenerationPlan
from app.service.generation.run import GenerationRun


async def plan_within_limits(scope: Scope, requested: GenerationRequest, idempotency_key: str | None) -> GenerationPlan:
    """Return the plan of a request outside of a chat.

    Raises:
        NotAllowed: the caller may not ask for this now, and has not asked for it before with the same key.
        InvalidRequest, NotAcceptable: as `ImageService.plan`.
    """
    state = request_state(scope)
    try:
        return state["images"].plan(requested, state["caller"].limits)
    except NotAllowed:
        if not await state["recorded"].has_key(state["caller"], idempotency_key):
            raise
        return state["images"].plan(requested)


def charge_of(scope: Scope, plan: GenerationPlan, count: int) -> Charge | None:
    """Return what a request for so many images takes of its caller's limits; `None` if nothing is reserved."""
    state = request_state(scope)
    return state["images"].charge(plan, count) if state["caller"].limits.need_reservation else None


async def reserve(scope: Scope, plan: GenerationPlan, runs: Sequence[GenerationRun]) -> None:
    """Reserve what a request may cost, if its caller has limits. The runs book the real cost. A second call for the
    same request changes nothing.

    Args:
        scope: of the request.
        plan: what to generate.
        runs: one for each image. They have slots, or positions in the queue.

    Raises:
        RateLimited, TooManyAtOnce, BudgetExhausted: the request is over a limit.
        StorageUnavailable, StorageFull: the database, which decides, does not answer.
    """
    state = request_state(scope)
    charge = None if "reservation" in state else charge_of(scope, plan, len(runs))
    if charge is None:
        return
    reservation = await state["spending"].reserve(state["caller"], charge, has_slot=all(run.has_slot for run in runs))
    state["reservation"] = reservation
    for run, bill in zip(runs, reservation.bills, strict=True):
        run.bill = bill
