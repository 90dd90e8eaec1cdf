"""All errors of the service, as a tree.

    ServiceError
    ├── CallerError                   the caller can correct the request
    │   ├── InvalidHttp                 400 invalid_http
    │   ├── InvalidJson                 400 invalid_json
    │   ├── InvalidForm                 400 invalid_form
    │   ├── Unauthorized                401 unauthorized
    │   ├── ForbiddenOrigin             403 forbidden_origin
    │   ├── ForbiddenHost               403 forbidden_host
    │   ├── InvalidLink                 403 invalid_link
    │   ├── ExpiredLink                 403 expired_link
    │   ├── NotAllowed                  403 not_allowed
    │   ├── NotFound                    404 not_found
    │   ├── ModelNotFound               404 model_not_found
    │   ├── ChatNotFound                404 chat_not_found
    │   ├── TurnNotFound                404 turn_not_found
    │   ├── GenerationNotFound          404 generation_not_found
    │   ├── ImageNotFound               404 image_not_found
    │   ├── MethodNotAllowed            405 method_not_allowed
    │   ├── NotAcceptable               406 not_acceptable
    │   ├── UploadTimeout               408 slow_upload
    │   ├── TurnInProgress              409 turn_in_progress
    │   ├── LeaseLost                   409 turn_lost
    │   ├── ChatLimitReached            409 chat_limit_reached
    │   ├── GenerationInProgress        409 in_progress
    │   ├── AlreadyAsked                409 already_asked
    │   ├── GenerationCancelled         409 cancelled
    │   ├── StaleTurn                   412 stale_turn
    │   ├── TooLarge                    413 too_large
    │   ├── UnsupportedMediaType        415 unsupported_media_type
    │   ├── UnsupportedImage            415 unsupported_image
    │   ├── RangeNotSatisfiable         416 range_not_satisfiable
    │   ├── InvalidRequest              422 invalid_request
    │   ├── IdempotencyKeyReused        422 idempotency_key_reused
    │   ├── WebhookRefused              422 webhook_refused
    │   ├── RateLimited                 429 rate_limited
    │   ├── TooManyAtOnce               429 too_many_at_once
    │   ├── BudgetExhausted             429 budget_exhausted
    │   ├── KeyExists                   409 key_exists
    │   ├── KeyNotFound                 404 key_not_found
    │   └── HeaderTooLarge              431 too_large
    ├── GenerationRefused             Gemini answered without an image
    │   ├── ContentBlocked              422 content_blocked
    │   ├── Recitation                  422 recitation
    │   └── NoImage                     422 no_image
    ├── UpstreamError                 502 upstream_error
    │   ├── UpstreamInvalidResponse     502 upstream_invalid_response
    │   ├── UpstreamRejectedCredentials 502 upstream_rejected_credentials
    │   ├── OutcomeUnknown              502 outcome_unknown             the process ended before the answer was stored
    │   ├── InvalidThoughtSignature     502 upstream_error              the chat continues without them
    │   ├── UpstreamBusy                503 upstream_busy
    │   ├── UpstreamTimeout             504 upstream_timeout
    │   ├── QuotaExhausted              429 quota_exhausted
    │   └── BillingExhausted            429 billing_exhausted           the account has no credit, or has reached a cap
    ├── StorageError                  chats or uploads cannot be stored or read; `part` says where
    │   ├── StorageDamaged              500 storage_damaged
    │   ├── StorageUnavailable          503 storage_unavailable
    │   └── StorageFull                 507 storage_full
    ├── Overloaded                    503 overloaded
    ├── CallerDisconnected            499 caller_left                 logged only
    ├── CallerTooSlow                 499 slow_reader                 logged only
    └── Internal                      500 internal

Every error has two texts. `detail` is a sentence for the caller. It may hold Gemini's own words and is not logged.
`cause` is for the log. It is not sent to callers and never holds a key, a prompt or an image.
"""

from app.domain.errors.base import (
    CallerDisconnected,
    CallerTooSlow,
    FieldError,
    Internal,
    Overloaded,
    RetrySafety,
    ServiceError,
)
from app.domain.errors.caller import (
    AlreadyAsked,
    CallerError,
    ChatLimitReached,
    ChatNotFound,
    ExpiredLink,
    ForbiddenHost,
    ForbiddenOrigin,
    GenerationCancelled,
    GenerationInProgress,
    GenerationNotFound,
    HeaderTooLarge,
    IdempotencyKeyReused,
    ImageNotFound,
    InvalidForm,
    InvalidHttp,
    InvalidJson,
    InvalidLink,
    InvalidRequest,
    KeyExists,
    KeyNotFound,
    LeaseLost,
    MethodNotAllowed,
    ModelNotFound,
    NotAcceptable,
    NotFound,
    RangeNotSatisfiable,
    StaleTurn,
    TooLarge,
    TurnInProgress,
    TurnNotFound,
    Unauthorized,
    UnsupportedImage,
    UnsupportedMediaType,
    UploadTimeout,
    WebhookRefused,
)
from app.domain.errors.limits import BudgetExhausted, LimitReached, NotAllowed, RateLimited, TooManyAtOnce
from app.domain.errors.storage import StorageDamaged, StorageError, StorageFull, StorageUnavailable
from app.domain.errors.upstream import (
    BillingExhausted,
    ContentBlocked,
    GenerationRefused,
    InvalidThoughtSignature,
    NoImage,
    OutcomeUnknown,
    QuotaExhausted,
    Recitation,
    UpstreamBusy,
    UpstreamError,
    UpstreamInvalidResponse,
    UpstreamRejectedCredentials,
    UpstreamTimeout,
)

__all__ = [
    "AlreadyAsked",
    "BillingExhausted",
    "BudgetExhausted",
    "CallerDisconnected",
    "CallerError",
    "CallerTooSlow",
    "ChatLimitReached",
    "ChatNotFound",
    "ContentBlocked",
    "ExpiredLink",
    "FieldError",
    "ForbiddenHost",
    "ForbiddenOrigin",
    "GenerationCancelled",
    "GenerationInProgress",
    "GenerationNotFound",
    "GenerationRefused",
    "HeaderTooLarge",
    "IdempotencyKeyReused",
    "ImageNotFound",
    "Internal",
    "InvalidForm",
    "InvalidHttp",
    "InvalidJson",
    "InvalidLink",
    "InvalidRequest",
    "InvalidThoughtSignature",
    "KeyExists",
    "KeyNotFound",
    "LeaseLost",
    "LimitReached",
    "MethodNotAllowed",
    "ModelNotFound",
    "NoImage",
    "NotAcceptable",
    "NotAllowed",
    "NotFound",
    "OutcomeUnknown",
    "Overloaded",
    "QuotaExhausted",
    "RangeNotSatisfiable",
    "RateLimited",
    "Recitation",
    "RetrySafety",
    "ServiceError",
    "StaleTurn",
    "StorageDamaged",
    "StorageError",
    "StorageFull",
    "StorageUnavailable",
    "TooLarge",
    "TooManyAtOnce",
    "TurnInProgress",
    "TurnNotFound",
    "Unauthorized",
    "UnsupportedImage",
    "UnsupportedMediaType",
    "UploadTimeout",
    "UpstreamBusy",
    "UpstreamError",
    "UpstreamInvalidResponse",
    "UpstreamRejectedCredentials",
    "UpstreamTimeout",
    "WebhookRefused",
]
