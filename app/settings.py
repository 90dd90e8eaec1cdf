"""Every setting of the service. docs/settings.md and .env.example are generated from here; a test holds them equal.

Values come from the environment, then from a file `.env` in the working directory.
"""

from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AliasChoices,
    BeforeValidator,
    DirectoryPath,
    Field,
    SecretStr,
    model_validator,
)
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from app.domain.catalogue import MODEL_ID_PATTERN, Catalogue
from app.lib.env_types import (
    ApiKey,
    BaseUrl,
    Duration,
    DurationOrZero,
    HeaderKey,
    Hosts,
    HttpUrl,
    Origins,
    WebhookSecrets,
)
from app.lib.env_values import parse_json, parse_named_secrets

MIB = 1024 * 1024

ModelId = Annotated[str, Field(pattern=MODEL_ID_PATTERN)]
ModelPattern = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.*-]{1,100}$")]


class UnsafeConfiguration(SystemExit):
    """The service must not start with these settings. The message has one sentence for each reason.

    If no code catches it, Python prints the message and ends the process with exit code 1. This works under every ASGI
    server.
    """


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
    """Address to listen on. An address other than loopback needs `SERVICE_API_KEYS`, `REQUIRE_KEYS` or
    `ALLOW_ANONYMOUS`."""
    port: int = Field(default=8000, ge=0, le=65535)
    """Port to listen on. 0 chooses a free port."""

    gemini_api_key: HeaderKey | None = Field(
        default=None, validation_alias=AliasChoices("GOOGLE_API_KEY", "GEMINI_API_KEY")
    )
    """Key of the Gemini Developer API. `GOOGLE_API_KEY` is also read and takes precedence, as in Google's SDK."""
    google_genai_use_vertexai: bool = Field(
        default=False, validation_alias=AliasChoices("GOOGLE_GENAI_USE_ENTERPRISE", "GOOGLE_GENAI_USE_VERTEXAI")
    )
    """Call Vertex AI instead of the Developer API. `GOOGLE_GENAI_USE_ENTERPRISE` is the newer name of this variable."""
    google_cloud_project: str | None = Field(default=None, pattern=r"^[A-Za-z0-9.:_-]+$")
    """Vertex: the Google Cloud project that pays. Credentials are Google's application default credentials."""
    google_cloud_location: str = Field(default="global", pattern=r"^[a-z0-9-]+$")
    """Vertex: the region in which the model runs."""
    google_gemini_base_url: HttpUrl | None = None
    """Base URL of the Developer API. Set it to reach the API through a gateway."""
    google_vertex_base_url: HttpUrl | None = None
    """Base URL of Vertex AI. Set it to reach Vertex through a gateway."""
    google_genai_api_version: str | None = Field(default=None, pattern=r"^[A-Za-z0-9_.-]+$")
    """API version in the path of Gemini's URLs. Default: `v1beta`; on Vertex `v1beta1`."""

    demo: bool = False
    """Use the built-in emulator instead of Gemini: drawn images, no cost, no key. Images, response headers, `/readyz`
    and the log show that it is a demo."""
    demo_delay_seconds: float = Field(default=1.0, ge=0, le=600)
    """Demo: time that the emulator takes for each image, in seconds."""

    default_model: ModelId = "gemini-3-pro-image"
    """Model for requests that name none: a model id or an alias."""
    model_aliases: Annotated[dict[ModelId, ModelId], NoDecode, BeforeValidator(parse_json)] = {}
    """Additional names for models, as JSON: `{"house-style": "gemini-3-pro-image"}`."""
    openai_model_aliases: Annotated[dict[ModelPattern, ModelId], NoDecode, BeforeValidator(parse_json)] = {}
    """Models for the names that clients of OpenAI's API send, as JSON: `{"dall-e-*": "gemini-nano-banana-2.1"}`. `*`
    stands for any characters. `gpt-image-*`, `chatgpt-image-*` and `dall-e-*` mean `DEFAULT_MODEL` unless this says
    otherwise."""
    extra_models: Annotated[dict[ModelId, dict[str, Any]], NoDecode, BeforeValidator(parse_json)] = {}
    """Additional models, or changes to built-in ones, as JSON: `{"gemini-4-image": {"like": "gemini-3-pro-image"}}`."""

    fallback_model: ModelId | None = None
    """Model to call when the requested one is out of capacity or quota. A request's `fallbackModel` takes
    precedence."""

    upstream_attempts: int = Field(default=3, ge=1, le=10)
    """Maximum number of calls to Gemini for one image, over all models. docs/failures.md lists which failures are
    retried. With a fallback model and two or more calls, the last call is reserved for the fallback model."""
    upstream_timeout_seconds: float = Field(default=300, gt=0, le=3600)
    """Time limit of one call to Gemini, in seconds. A 4K image with references can take 250 s."""
    upstream_connect_seconds: float = Field(default=10, gt=0, le=300)
    """Time limit for connecting to Gemini, in seconds."""
    upstream_first_byte_seconds: float = Field(default=300, gt=0, le=3600)
    """Time limit until Gemini's response begins, in seconds. In a stream it also limits the time between two events."""
    upstream_stall_seconds: float = Field(default=30, gt=0, le=3600)
    """Longest pause within Gemini's response, in seconds. In a stream it applies inside an event."""
    max_upstream_body_bytes: int = Field(default=96 * MIB, ge=1)
    """Largest response of Gemini in bytes, including thought signatures."""
    retry_initial_backoff_seconds: float = Field(default=1, ge=0, le=60)
    """Upper bound of the wait before the second call, in seconds. It doubles for each further call. The actual wait is
    a random part of it. If Gemini names a delay, that delay applies instead."""
    retry_max_backoff_seconds: float = Field(default=10, ge=0, le=600)
    """Longest wait before another call, in seconds. If Gemini asks for more, the call is not repeated and the caller
    gets the delay as `Retry-After`."""
    retry_budget: float = Field(default=0.2, ge=0, le=10)
    """Retries allowed per call, averaged over the calls of the last 10 seconds: 0.2 allows one retry for five calls. 20
    retries are always allowed. 0 turns retrying off."""
    circuit_breaker_failures: int = Field(default=10, ge=0)
    """Consecutive failures after which calls to a model are stopped for a while. 0 turns the circuit breaker off."""
    circuit_breaker_open_seconds: float = Field(default=15, gt=0, le=3600)
    """Time for which calls to the failed model stay stopped, in seconds. Then one trial call at a time checks whether
    the model has recovered."""

    deadline_seconds: float = Field(default=600, gt=0, le=7200)
    """Time limit of one request in seconds, including the queue and retries. A caller can set less with
    `X-Timeout-Seconds` or `Prefer: wait=…`."""
    heartbeat_seconds: float = Field(default=10, gt=0, le=15)
    """Time without an event after which an event stream sends a comment, in seconds. The comment keeps proxies from
    closing the connection."""

    max_in_flight: int = Field(default=1000, ge=1)
    """Maximum number of generations at the same time."""
    max_queued: int = Field(default=1000, ge=0)
    """Maximum number of requests that wait while all slots are in use. The queue is fair between callers."""
    queue_timeout_seconds: float = Field(default=30, ge=0, le=3600)
    """Longest time in the queue, in seconds. A request with a longer expected wait is refused immediately."""
    max_buffered_bytes: int = Field(default=1024 * MIB, ge=2)
    """Memory for image data, in bytes. One half is for uploads; uploads beyond it are refused. The other half is for
    Gemini's responses; responses beyond it wait."""
    max_connections: int = Field(default=4000, ge=1)
    """Maximum number of connections from clients. Only under `python -m app`."""
    max_header_bytes: int = Field(default=64 * 1024, ge=1024)
    """Largest head of a request in bytes: request line and headers. The same limit holds for the trailers and chunk
    extensions of a chunked body. Only under `python -m app`."""
    header_timeout_seconds: float = Field(default=15, gt=0, le=600)
    """Time limit for receiving the head of a request, in seconds. Only under `python -m app`."""
    caller_idle_timeout_seconds: float = Field(default=30, gt=0, le=3600)
    """Longest pause of an upload, and longest time in which a client reads nothing of a response, in seconds. Then the
    connection is closed. The limit on reading holds only under `python -m app`."""
    shutdown_delay_seconds: float = Field(default=0, ge=0, le=600)
    """Time in which the service still accepts new requests after SIGTERM, in seconds. `/readyz` fails immediately, so
    that a load balancer can notice."""
    shutdown_grace_seconds: float = Field(default=300, ge=0, le=7200)
    """Time that running generations may still take after SIGTERM, in seconds."""

    service_api_keys: Annotated[tuple[ApiKey, ...], NoDecode, BeforeValidator(parse_named_secrets)] = ()
    """Callers and their secrets, comma-separated: `web:secret1,batch:secret2`. Without keys only loopback is served. A
    name may have two secrets while one replaces the other. On other addresses a secret needs at least 16 characters, 8
    of them different, and none of the words `changeme`, `password` and `secret` (`openssl rand -hex 16`). Keys in the
    database need no restart: `python -m app keys`."""
    require_keys: bool = False
    """Callers need a key. `SERVICE_API_KEYS` implies it. Set it if all keys are in the database (`python -m app keys
    add NAME`); the service may then listen on every address."""
    admin_api_key: HeaderKey | None = None
    """Secret of the routes `/admin/keys`, which make, change and revoke keys in the database. Only `/metrics` accepts
    it too. Without it there are no such routes. On addresses other than loopback the rules of `SERVICE_API_KEYS` apply
    to it."""
    allow_anonymous: bool = False
    """Accept requests without keys on every address, because a proxy in front authenticates callers. All callers then
    count as one and share one list of chats."""
    docs_access: Literal["open", "key", "off"] = "open"
    """Access to `/docs` and `/openapi.json`: `open` to all, `key` for callers with a key, `off` for none."""
    playground_access: Literal["open", "off"] = "open"
    """Access to the playground at `/`: `open` serves the page to all, `off` is a 404. What the page sends still needs a
    key where keys are set."""
    metrics_access: Literal["open", "key", "off"] = "key"
    """Access to `/metrics`: `open`, `key` or `off`. `key` admits `ADMIN_API_KEY` and every key of a caller; if no keys
    are set, every caller that the service accepts."""
    alert_dollars_per_hour: float = Field(default=0, ge=0)
    """Estimated cost in US dollars per hour, over all replicas, above which the rules in deploy/observability raise an
    alert. 0 turns the alert off."""
    cors_allow_origins: Origins = ()
    """Web origins whose pages may call, comma-separated: `https://app.example`; `*` allows all. If no keys are set,
    pages of loopback origins may always call."""

    max_body_bytes: int = Field(default=144 * MIB, ge=1)
    """Largest request body in bytes. Base64 in JSON is a third larger than the files."""
    max_reference_bytes: int = Field(default=32 * MIB, ge=1)
    """Largest reference image in bytes. Vertex itself accepts 7 MB."""
    max_references_bytes: int = Field(default=100 * MIB, ge=1)
    """Largest sum of one request's reference images in bytes. Gemini accepts 100 MB per request."""
    max_reference_pixels: int = Field(default=50_000_000, ge=1)
    """Largest reference image in pixels (width × height), as its header says."""

    data_dir: Path = Path("data")
    """Folder for chats, where `DATABASE_URL` and `BLOB_URL` do not say otherwise. It is created with the first chat."""
    database_url: SecretStr | None = None
    """Database of chats: `postgresql://user:password@host/name` or `sqlite:///…`. Default: `chats.db` in `DATA_DIR`.
    Several replicas need PostgreSQL."""
    blob_url: str | None = None
    """Storage of the chats' images: `file:///…`, `s3://bucket/prefix`, `gs://…` or `az://…`. Credentials are read as in
    each cloud's own tools. Default: `blobs` in `DATA_DIR`."""
    auto_migrate: bool = True
    """Update the database schema at first use. If `false`, run `python -m app migrate` before a new version starts."""
    chat_ttl: DurationOrZero = timedelta(days=30)
    """Time for which a chat is stored after its last turn: seconds, or for example `30d`, `12h`, `90m`. 0 stores it
    without limit."""
    chat_lease_seconds: float = Field(default=15, ge=1, le=600)
    """Time for which a chat or a recorded generation stays locked if the service crashes during it, in seconds. The
    lease is renewed while the generation runs."""
    chat_cleanup_interval_seconds: float = Field(default=300, ge=1, le=86_400)
    """Interval at which expired chats, expired generations and unused images are removed, in seconds."""

    max_chats_per_caller: int = Field(default=10_000, ge=0)
    """Maximum number of chats of one caller, without expired ones. 0 is no limit."""
    max_stored_bytes_per_caller: int = Field(default=100 * 1024 * MIB, ge=0)
    """Maximum number of bytes that one caller's chats store, texts and images together. A fork counts like a copy. 0 is
    no limit."""

    idempotency_ttl: Duration = timedelta(hours=24)
    """Time for which an `Idempotency-Key` returns the first result: seconds, or for example `24h`."""
    generation_ttl: Duration = timedelta(days=7)
    """Time for which a recorded generation and its images are stored after its end. Results grounded in Google Search
    are stored for 24 hours at most."""
    max_queued_async: int = Field(default=10_000, ge=0)
    """Maximum number of asynchronous generations that wait, over all replicas. More are refused."""
    image_url_ttl: Duration = timedelta(hours=1)
    """Time for which a signed link to an image works without a key."""
    public_url: BaseUrl | None = None
    """Address of this service in links to images, such as `https://images.example`. Default: the address of the
    request."""
    webhook_secret: WebhookSecrets = ()
    """Secret that signs webhooks (Standard Webhooks): `whsec_` and 24 to 64 bytes as base64. Two, comma-separated, sign
    together while one replaces the other. Without a secret requests with a webhook are refused."""
    webhook_allow_hosts: Hosts = ()
    """Hosts and networks that webhooks may call although they are not public, comma-separated: `hooks.internal`,
    `10.1.0.0/16`. They may use plain http."""

    log_level: Annotated[Literal["debug", "info", "warning", "error"], BeforeValidator(str.lower)] = "info"
    """Lowest level that is logged: `debug`, `info`, `warning` or `error`. Keys, prompts and images are never logged."""
    log_format: Literal["auto", "text", "json"] = "auto"
    """`text` writes one line of text per event, `json` one JSON object. `auto` is `text` on a terminal, else `json`."""
    log_sensitive: bool = False
    """Log the messages of Google's errors and of unexpected errors unchanged. They can quote prompts."""

    demo_recordings_dir: DirectoryPath | None = None
    """Demo: folder of recorded responses. The emulator replays them for the prompts with which they were recorded."""

    @model_validator(mode="after")
    def _require_valid_models(self) -> Self:
        try:
            _ = self.catalogue
        except ValueError as error:
            raise ValueError(f"EXTRA_MODELS: {error}") from error
        return self

    @property
    def catalogue(self) -> Catalogue:
        """A new catalogue with the models of these settings. Building it takes some time, so keep it."""
        return Catalogue(self.default_model, self.extra_models, self.model_aliases)

    @property
    def has_credentials(self) -> bool:
        """Whether there are credentials for Gemini. They may still be invalid."""
        if self.google_genai_use_vertexai:
            return bool(self.google_cloud_project or self.gemini_api_key)
        return self.gemini_api_key is not None

    @property
    def missing_credentials(self) -> str | None:
        """A sentence that names the settings to set, if neither Gemini nor the emulator can be called."""
        if self.demo or self.has_credentials:
            return None
        variables = (
            "GOOGLE_CLOUD_PROJECT (or GOOGLE_API_KEY for express mode)"
            if self.google_genai_use_vertexai
            else "GEMINI_API_KEY, or GOOGLE_GENAI_USE_VERTEXAI and GOOGLE_CLOUD_PROJECT"
        )
        return f"There are no credentials for Gemini. Set {variables}. Or set DEMO=true to use the built-in emulator."

    @property
    def guarded(self) -> bool:
        """Whether callers are authenticated, by this service or by a proxy in front of it."""
        return self.keys_required or self.allow_anonymous

    @property
    def keys_required(self) -> bool:
        """Whether every caller needs a key."""
        return self.require_keys or bool(self.service_api_keys)
