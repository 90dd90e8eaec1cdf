"""Cursors of lists: the time and the id of the last item of a page, as text that clients pass back."""

import base64
import json
import re
from typing import Annotated

from pydantic import Field, TypeAdapter

from app.domain.errors import FieldError, InvalidRequest

_POSITION = TypeAdapter(tuple[Annotated[float, Field(strict=True, allow_inf_nan=False)], str])


def write_cursor(time: float, id_: str) -> str:
    """Return the cursor of the page after the item with this time and id."""
    return base64.urlsafe_b64encode(json.dumps([time, id_]).encode()).decode().rstrip("=")


def read_cursor(cursor: str | None, id_pattern: str) -> tuple[float, str] | None:
    """Return the time and the id of the item before the page; `None` for the first page.

    Args:
        cursor: as the caller sent it.
        id_pattern: regular expression of ids in this list.

    Raises:
        InvalidRequest: the service has not made this cursor.
    """
    if not cursor:
        return None
    try:
        time, id_ = _POSITION.validate_json(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
    except ValueError as error:
        raise InvalidRequest([FieldError("cursor", "is not a cursor of this service")]) from error
    if not re.fullmatch(id_pattern, id_):
        raise InvalidRequest([FieldError("cursor", "is not a cursor of this list")])
    return time, id_
