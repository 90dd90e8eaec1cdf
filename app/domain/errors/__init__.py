"""Everything that can go wrong, drawn as a tree.

    ServiceError
    ├── CallerError                   the caller can change something
    │   ├── InvalidHttp                 400 invalid_http
    │   ├── InvalidJson                 400 invalid_json
    │   ├── InvalidForm                 400 invalid_form
    │   ├── Unauthorized                401 unauthorized
    │   ├── ForbiddenOrigin             403 forbidden_origin
    │   ├── ForbiddenHost               403 forbidden_host
    │   ├── NotFound                    404 not_found
    │   ├── ChatNotFound                404 chat_not_found
    │   ├── TurnNotFound                404 turn_not_found
    │   ├── MethodNotAllowed            405 method_not_allowed
    │   ├── NotAcceptable               406 not_acceptable
    │   ├── SlowUpload                  408 slow_upload
    │   ├── TurnInProgress              409 turn_in_progress
    │   ├── TurnLost                    409 turn_lost
    │   ├── ChatLimitReached            409 chat_limit_reached
    │   ├── StaleTurn                   412 stale_turn
    │   ├── TooLarge                    413 too_large
    │   ├── UnsupportedMediaType        415 unsupported_media_type
    │   ├── UnsupportedImage            415 unsupported_image
    │   ├── RangeNotSatisfiable         416 range_not_satisfiable
    │   ├── InvalidRequest              422 invalid_request
    │   └── HeaderTooLarge              431 too_large
    ├── Refused                       Gemini answered, and there is no image in it
    │   ├── ContentBlocked              422 content_blocked
    │   ├── Recitation                  422 recitation
    │   └── NoImage                     422 no_image
    ├── UpstreamError                 502 upstream_error
    │   ├── UpstreamInvalidResponse     502 upstream_invalid_response
    │   ├── UpstreamRejectedCredentials 502 upstream_rejected_credentials
    │   ├── UnusableSignatures          502 upstream_error              a chat goes on without them
    │   ├── UpstreamBusy                503 upstream_busy
    │   ├── UpstreamTimeout             504 upstream_timeout
    │   ├── QuotaExhausted              429 quota_exhausted
    │   └── BillingExhausted            429 billing_exhausted           no credit left, or a spending cap reached
    ├── StorageError                  chats cannot be read or kept, or uploads not be buffered; `part` says where
    │   ├── StorageDamaged              500 storage_damaged
    │   ├── StorageUnavailable          503 storage_unavailable
    │   └── StorageFull                 507 storage_full
    ├── Overloaded                    503 overloaded
    ├── CallerLeft                    499 caller_left        nobody is there to be told
    ├── SlowReader                    499 slow_reader        nor is anybody here
    └── Internal                      500 internal

Every error has two texts: `detail` is a sentence for the caller, which may hold Gemini's own words and is not logged;
`cause` is for the log, never leaves the house, and never holds a key, a prompt or an image.
"""

from app.domain.errors.base import Again, CallerLeft, FieldError, Internal, Overloaded, ServiceError, SlowReader
from app.domain.errors.caller import (
    CallerError,
    ChatLimitReached,
    ChatNotFound,
    ForbiddenHost,
    ForbiddenOrigin,
    HeaderTooLarge,
    InvalidForm,
    InvalidHttp,
    InvalidJson,
    InvalidRequest,
    MethodNotAllowed,
    NotAcceptable,
    NotFound,
    RangeNotSatisfiable,
    SlowUpload,
    StaleTurn,
    TooLarge,
    TurnInProgress,
    TurnLost,
    TurnNotFound,
    Unauthorized,
    UnsupportedImage,
    UnsupportedMediaType,
)
from app.domain.errors.storage import StorageDamaged, StorageError, StorageFull, StorageUnavailable
from app.domain.errors.upstream import (
    BillingExhausted,
    ContentBlocked,
    NoImage,
    QuotaExhausted,
    Recitation,
    Refused,
    UnusableSignatures,
    UpstreamBusy,
    UpstreamError,
    UpstreamInvalidResponse,
    UpstreamRejectedCredentials,
    UpstreamTimeout,
)

__all__ = [
    "Again",
    "BillingExhausted",
    "CallerError",
    "CallerLeft",
    "ChatLimitReached",
    "ChatNotFound",
    "ContentBlocked",
    "FieldError",
    "ForbiddenHost",
    "ForbiddenOrigin",
    "HeaderTooLarge",
    "Internal",
    "InvalidForm",
    "InvalidHttp",
    "InvalidJson",
    "InvalidRequest",
    "MethodNotAllowed",
    "NoImage",
    "NotAcceptable",
    "NotFound",
    "Overloaded",
    "QuotaExhausted",
    "RangeNotSatisfiable",
    "Recitation",
    "Refused",
    "ServiceError",
    "SlowReader",
    "SlowUpload",
    "StaleTurn",
    "StorageDamaged",
    "StorageError",
    "StorageFull",
    "StorageUnavailable",
    "TooLarge",
    "TurnInProgress",
    "TurnLost",
    "TurnNotFound",
    "Unauthorized",
    "UnsupportedImage",
    "UnsupportedMediaType",
    "UnusableSignatures",
    "UpstreamBusy",
    "UpstreamError",
    "UpstreamInvalidResponse",
    "UpstreamRejectedCredentials",
    "UpstreamTimeout",
]
