"""Types of settings: a value of the environment is parsed and checked by its type."""

from datetime import timedelta
from typing import Annotated

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, SecretStr
from pydantic_settings import NoDecode

from app.lib.env_values import (
    key_error,
    parse_comma_separated,
    parse_duration,
    require_base_url,
    require_hosts,
    require_http_url,
    require_origins,
    webhook_secret_error,
)


def _require_valid_key(key: SecretStr) -> SecretStr:
    if error := key_error(key.get_secret_value()):
        raise ValueError(error)
    return key


def _require_webhook_secrets(secrets: tuple[SecretStr, ...]) -> tuple[SecretStr, ...]:
    if len(secrets) > 2:
        raise ValueError("has more than two secrets")
    for number, secret in enumerate(secrets, 1):
        if error := webhook_secret_error(secret.get_secret_value()):
            raise ValueError(f"secret number {number} {error}")
    return secrets


class ApiKey(BaseModel):
    """A caller's name and secret."""

    model_config = ConfigDict(frozen=True)

    name: str
    secret: SecretStr


HeaderKey = Annotated[SecretStr, AfterValidator(_require_valid_key)]
"""A key that is sent in a header."""

HttpUrl = Annotated[str, AfterValidator(require_http_url)]
BaseUrl = Annotated[str, AfterValidator(require_base_url)]
"""An address without query, fragment and credentials."""

Origins = Annotated[tuple[str, ...], NoDecode, AfterValidator(require_origins), BeforeValidator(parse_comma_separated)]
Hosts = Annotated[tuple[str, ...], NoDecode, AfterValidator(require_hosts), BeforeValidator(parse_comma_separated)]
WebhookSecrets = Annotated[
    tuple[SecretStr, ...], NoDecode, AfterValidator(_require_webhook_secrets), BeforeValidator(parse_comma_separated)
]

Duration = Annotated[timedelta, BeforeValidator(parse_duration), Field(gt=timedelta())]
DurationOrZero = Annotated[timedelta, BeforeValidator(parse_duration), Field(ge=timedelta())]
