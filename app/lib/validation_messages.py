"""Pydantic's messages about invalid values, in plain words."""

import re
from collections.abc import Mapping
from typing import Any

_MESSAGES = {
    "missing": "is required",
    "extra_forbidden": "there is no such field",
    "string_type": "must be text",
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_from_float": "must be a whole number",
    "int_parsing_size": "has too many digits",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "finite_number": "must be a finite number",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "list_type": "must be a list",
    "dict_type": "must be a JSON object",
    "model_type": "must be a JSON object",
    "model_attributes_type": "must be a JSON object",
    "string_pattern_mismatch": "has characters that are not allowed",
}
"""Messages that replace those of Pydantic, by its error type."""


def plain_message(error: Mapping[str, Any]) -> str:
    """Return the message of one of Pydantic's errors as the rest of a sentence that begins with the field's name."""
    message = _MESSAGES.get(error["type"]) or str(error["msg"]).removeprefix("Value error, ")
    message = re.sub("^(Input|String|List|Dictionary|Tuple|Value) should ", "must ", message)
    return message[:1].lower() + message[1:]
