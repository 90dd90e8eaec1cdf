"""Every knob of the service. `.env.example` and the README list the same names in the same order; a test keeps it so.

Values come from the environment, then from a file `.env` in the working directory.
"""

from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    AliasChoices,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    DirectoryPath,
    Field,
    SecretStr,
    model_validator,
)
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from app.domain.catalogue import Catalogue
from app.lib.env_values import (
    key_error,
    parse_comma_separated,
    parse_duration,
    parse_json,
    parse_named_secrets,
    require_http_url,
    require_origins,
)

MIB = 1024 * 1024

MODEL_ID_PATTERN = r"^(models/)?[A-Za-z0-9_-]{1,64}(\.[A-Za-z0-9_-]{1,64}){0,4}$"
"""What a model's id may look like: it becomes part of a URL, so no slashes and no `..`."""

ModelId = Annotated[str, Field(pattern=MODEL_ID_PATTERN)]


def _require_valid_key(key: SecretStr) -> SecretStr:
    if error := key_error(key.get_secret_value()):
        raise ValueError(error)
    return key


Origins = Annotated[tuple[str, ...], NoDecode, AfterValidator(require_origins), BeforeValidator(parse_comma_separated)]


class ApiKey(BaseModel):
    """A secret, and the caller it makes of whoever presents it."""

    model_config = ConfigDict(frozen=True)

    name: str
    secret: SecretStr


class Settings(BaseSettings):
    model_config = SettingsConfigDict(
        env_file=".env",
        env_file_encoding="utf-8-sig",  # editors on Windows begin a file with a byte order mark
        env_ignore_empty=True,
        extra="ignore",
        frozen=True,
        allow_inf_nan=False,
        populate_by_name=True,
        hide_input_in_errors=True,
        use_attribute_docstrings=True,
    )

    host: str = "127.0.0.1"
    """Address to listen on. Any but a loopback address needs `SERVICE_API_KEYS`."""
    port: int = Field(default=8000, ge=0, le=65535)
    """Port to listen on; 0 takes a free one."""

    gemini_api_key: Annotated[SecretStr, AfterValidator(_require_valid_key)] | None = Field(
        default=None, validation_alias=AliasChoices("GOOGLE_API_KEY", "GEMINI_API_KEY")
    )
    """Key of the Gemini Developer API. `GOOGLE_API_KEY` is read too and takes precedence, as in Google's SDK."""
    google_genai_use_vertexai: bool = Field(
        default=False, validation_alias=AliasChoices("GOOGLE_GENAI_USE_ENTERPRISE", "GOOGLE_GENAI_USE_VERTEXAI")
    )
    """Call Vertex AI instead of the Developer API. `GOOGLE_GENAI_USE_ENTERPRISE` is the newer name for the same."""
    google_cloud_project: str | None = Field(default=None, pattern=r"^[A-Za-z0-9.:_-]+$")
    """Vertex: the project that pays. Credentials are Google's application default ones."""
    google_cloud_location: str = Field(default="global", pattern=r"^[a-z0-9-]+$")
    """Vertex: where the model runs."""
    google_gemini_base_url: Annotated[str, AfterValidator(require_http_url)] | None = None
    """Base URL of the Developer API if it is reached at another address, through a gateway for instance."""
    google_vertex_base_url: Annotated[str, AfterValidator(require_http_url)] | None = None
    """Base URL of Vertex if it is reached at another address."""
    google_genai_api_version: str | None = Field(default=None, pattern=r"^[A-Za-z0-9_.-]+$")
    """Version in the upstream path: `v1beta` by default, `v1beta1` on Vertex."""

    demo: bool = False
    """Answer from the built-in emulator: real traffic, drawn pictures, no cost, no key. Pictures, headers, `/readyz`
    and the log say so."""
    demo_delay_seconds: float = Field(default=1.0, ge=0, le=600)
    """How long a demo takes over each picture."""

    default_model: ModelId = "gemini-3-pro-image"
    """Model for requests that name none; an id or an alias."""
    model_aliases: Annotated[dict[ModelId, ModelId], NoDecode, BeforeValidator(parse_json)] = {}
    """Further names for models, as JSON: `{"house-style": "gemini-3-pro-image"}`."""
    extra_models: Annotated[dict[ModelId, dict[str, Any]], NoDecode, BeforeValidator(parse_json)] = {}
    """Further models, or changes to listed ones, as JSON: `{"gemini-4-image": {"like": "gemini-3-pro-image"}}`."""

    fallback_model: ModelId | None = None
    """Whom to ask when the model is out of capacity or quota, for requests that do not name a `fallbackModel`."""

    upstream_attempts: int = Field(default=3, ge=1, le=10)
    """Calls to Gemini for one image at the most, all models included; docs/failures.md says what is tried again. Of two
    or more, the last is kept for the fallback model if there is one."""
    upstream_timeout_seconds: float = Field(default=300, gt=0, le=3600)
    """How long a call to Gemini may take altogether. 4K with references has been seen to need 250 s."""
    upstream_connect_seconds: float = Field(default=10, gt=0, le=300)
    """How long a connection to Gemini may take to come about."""
    upstream_first_byte_seconds: float = Field(default=300, gt=0, le=3600)
    """How long Gemini may take to begin its answer."""
    upstream_stall_seconds: float = Field(default=30, gt=0, le=3600)
    """How long Gemini may pause within its answer. Between the events of a stream `UPSTREAM_FIRST_BYTE_SECONDS`
    counts."""
    retry_initial_backoff_seconds: float = Field(default=1, ge=0, le=60)
    """The longest wait before the second attempt, if Gemini names none; twice that before the third, and so on. The
    wait itself is anything up to that."""
    retry_max_backoff_seconds: float = Field(default=10, ge=0, le=600)
    """The longest wait before another attempt. If Gemini asks for a longer one, the caller gets it as `Retry-After`."""
    retry_budget: float = Field(default=0.2, ge=0, le=10)
    """Retries allowed per call, averaged over the calls of the last 10 seconds. 20 retries are always allowed. 0 turns
    retrying off."""
    circuit_breaker_failures: int = Field(default=10, ge=0)
    """Failed attempts in a row after which a model is left alone for a while; 0 never does."""
    circuit_breaker_open_seconds: float = Field(default=15, gt=0, le=3600)
    """How long. After that one attempt at a time finds out whether it is back."""

    deadline_seconds: float = Field(default=600, gt=0, le=7200)
    """How long an image may take altogether, waiting and further attempts included. Callers may ask for less with
    `X-Timeout-Seconds` or `Prefer: wait=…`."""
    heartbeat_seconds: float = Field(default=10, gt=0, le=15)
    """The longest silence in a stream of events."""

    max_in_flight: int = Field(default=1000, ge=1)
    """Images that are made at once."""
    max_queued: int = Field(default=1000, ge=0)
    """Requests that may wait for their turn; callers take turns."""
    queue_timeout_seconds: float = Field(default=30, ge=0, le=3600)
    """How long a request may wait. Who would have to wait longer is refused at once."""
    max_buffered_bytes: int = Field(default=1024 * MIB, ge=2)
    """References and images held at once: half of it for uploads, which are refused beyond it, half for answers, which
    wait for room."""
    max_connections: int = Field(default=4000, ge=1)
    """Connections from callers. Under `python -m app` only, as are the two that follow."""
    max_header_bytes: int = Field(default=64 * 1024, ge=1024)
    """Largest head of a request, its address included."""
    header_timeout_seconds: float = Field(default=15, gt=0, le=600)
    """How long a connection may take to send the head of a request."""
    caller_idle_timeout_seconds: float = Field(default=30, gt=0, le=3600)
    """How long an upload may pause, or an answer go unread, before the connection is cut."""
    shutdown_delay_seconds: float = Field(default=0, ge=0, le=600)
    """How long new requests are still taken when the service is told to stop: `/readyz` fails at once, and whoever
    balances the load needs a moment to notice."""
    shutdown_grace_seconds: float = Field(default=300, ge=0, le=7200)
    """How long images in flight may still take when the service is told to stop."""

    max_upstream_body_bytes: int = Field(default=96 * MIB, ge=1)
    """Largest answer of Gemini's that is read, thought signatures included."""

    service_api_keys: Annotated[tuple[ApiKey, ...], NoDecode, BeforeValidator(parse_named_secrets)] = ()
    """Who may call, comma-separated: `web:secret1,batch:secret2`. A name may have two secrets while one replaces the
    other. Without any, only loopback is served. On other addresses a secret has at least 16 characters
    (`openssl rand -hex 16`)."""
    allow_anonymous: bool = False
    """Serve other addresses without keys, because a proxy in front authenticates callers. To the service all of them
    are one caller: they share one list of chats."""
    docs_access: Literal["open", "key", "off"] = "open"
    """Who sees `/docs` and `/openapi.json`: `open` shows them to everybody, `key` to callers with a key, `off` to
    nobody."""
    metrics_access: Literal["open", "key", "off"] = "key"
    """Who sees `/metrics`, likewise. Without any keys, `key` means whoever may call."""
    alert_dollars_per_hour: float = Field(default=0, ge=0)
    """Estimated dollars an hour, over all replicas, from which the alert rules in deploy/observability call somebody;
    0 is never."""
    cors_allow_origins: Origins = ()
    """Web origins that may call from a browser, comma-separated: `https://app.example`; or `*`. Without keys, pages
    from loopback may call anyway."""

    max_body_bytes: int = Field(default=144 * MIB, ge=1)
    """Largest request body. As JSON, references take a third more than their files."""
    max_reference_bytes: int = Field(default=32 * MIB, ge=1)
    """Largest reference image. (Vertex itself takes 7 MB each.)"""
    max_references_bytes: int = Field(default=100 * MIB, ge=1)
    """Largest sum of a request's reference images. Gemini takes 100 MB a request."""
    max_reference_pixels: int = Field(default=50_000_000, ge=1)
    """Largest reference image in pixels, width times height, as its header claims."""

    data_dir: Path = Path("data")
    """Folder for chats, unless the two that follow put them elsewhere. It is made when there is a first one."""
    database_url: SecretStr | None = None
    """Where chats are: `postgresql://user:password@host/name`, or `sqlite:///…`. Default: `chats.db` in `DATA_DIR`.
    Replicas need PostgreSQL."""
    blob_url: str | None = None
    """Where their images are: `file:///…`, `s3://bucket/prefix`, `gs://…` or `az://…`; credentials as each cloud's own
    tools read them. Default: `blobs` in `DATA_DIR`."""
    auto_migrate: bool = True
    """Bring the database up to date at first use. Else `python -m app migrate` has to have done it."""
    chat_ttl: Annotated[timedelta, BeforeValidator(parse_duration), Field(ge=timedelta())] = timedelta(days=30)
    """How long a chat is kept after its last turn: seconds, or such as `30d`, `12h`, `90m`; 0 is for ever."""
    chat_lease_seconds: float = Field(default=15, ge=1, le=600)
    """How long a chat is blocked after a crash in the middle of a turn. While a turn is made its lease is renewed."""
    chat_cleanup_interval_seconds: float = Field(default=300, ge=1, le=86_400)
    """How often chats that have expired, and images that no chat has any more, are removed."""

    max_chats_per_caller: int = Field(default=10_000, ge=0)
    """Most chats that one caller keeps; expired ones do not count. 0 is no limit."""
    max_stored_bytes_per_caller: int = Field(default=100 * 1024 * MIB, ge=0)
    """Most bytes that the chats of one caller keep, texts and images together; a fork counts as much as a copy would.
    0 is no limit."""

    log_level: Annotated[Literal["debug", "info", "warning", "error"], BeforeValidator(str.lower)] = "info"
    """`debug`, `info`, `warning` or `error`. No level logs keys, prompts or images."""
    log_format: Literal["auto", "text", "json"] = "auto"
    """`text` or `json`: one line of text or one JSON object for each event. `auto` writes text to a terminal."""
    log_sensitive: bool = False
    """Log Google's error messages, and those of unexpected errors, as they are. They can quote prompts."""

    demo_recordings_dir: DirectoryPath | None = None
    """Demo: a folder of recorded answers that the emulator replays for the prompts they were recorded with."""

    @model_validator(mode="after")
    def _models_fit(self) -> Self:
        try:
            _ = self.catalogue
        except ValueError as error:
            raise ValueError(f"EXTRA_MODELS: {error}") from error
        return self

    @property
    def catalogue(self) -> Catalogue:
        """The models, built anew from the settings each time: ask once and keep it."""
        return Catalogue(self.default_model, self.extra_models, self.model_aliases)

    @property
    def has_credentials(self) -> bool:
        """Whether there is anything to show to Gemini; whether Gemini likes it is another matter."""
        if self.google_genai_use_vertexai:
            return bool(self.google_cloud_project or self.gemini_api_key)
        return self.gemini_api_key is not None

    @property
    def guarded(self) -> bool:
        """Whether somebody decides who may call: our keys, or whatever stands in front."""
        return bool(self.service_api_keys) or self.allow_anonymous
