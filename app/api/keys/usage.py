"""`GET /usage`: what a caller has used, and what is left of its limits."""

from datetime import date
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BeforeValidator

from app.api.chats.parameters import EDGE_ERRORS, STORAGE_ERRORS
from app.api.http.dependencies import CallerDep, caller
from app.api.http.problem_responses import problem_responses
from app.api.http.state import request_state
from app.api.keys.request import parse_day, usage_period
from app.api.keys.response import UsageRead, usage_document
from app.domain import errors

router = APIRouter(
    prefix="/usage",
    tags=["keys"],
    responses=problem_responses(*EDGE_ERRORS, *STORAGE_ERRORS, errors.InvalidRequest, errors.HeaderTooLarge),
    dependencies=[Depends(caller)],
)


_Day = Annotated[date, BeforeValidator(parse_day)]


@router.get("", response_model=UsageRead)
async def get_usage(
    request: Request,
    caller: CallerDep,
    first: Annotated[_Day | None, Query(alias="from", description="First day (UTC). Default: of this month.")] = None,
    last: Annotated[_Day | None, Query(alias="to", description="Last day (UTC). It is included.")] = None,
) -> Response:
    """Get your own usage by day and model, and what is left of your limits. Default: this month."""
    try:
        period = usage_period(first, last)
    except ValueError as error:
        raise errors.InvalidRequest([errors.FieldError("from", str(error))]) from error
    usage = await request_state(request.scope)["spending"].usage(caller, *period)
    return JSONResponse(usage_document(caller.name, usage), headers={"Cache-Control": "no-store"})
