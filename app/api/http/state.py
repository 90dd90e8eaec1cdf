"""The objects that all requests share, and the values that middleware and routes add for one request.

Handlers reach them through `dependencies.py`; middleware and responses call `request_state`.
"""

from typing import TypedDict, cast

from starlette.types import Scope

from app.api.http.problems import Reporter
from app.api.http.uploads import UploadBody, UploadLimiter
from app.domain.caller import Caller
from app.domain.catalogue import Catalogue
from app.domain.limits import Allowance
from app.lib.byte_budget import ByteBudget
from app.lib.event_loop_scheduler import FairScheduler
from app.lib.idle_trim import IdleMemoryTrimmer
from app.service.callers.administration import KeyAdministration
from app.service.callers.bills import Reservation
from app.service.callers.keys import KeyRegistry
from app.service.callers.spending import CallerSpending
from app.service.chats.service import ChatService
from app.service.conversion import ImageConverter
from app.service.generation.references import ReferenceValidator
from app.service.generation.runs import GenerationRuns
from app.service.generation.service import ImageService
from app.service.metrics import Metrics
from app.service.recorded.service import RecordedGenerations
from app.service.resilience.admission import AdmissionController
from app.service.webhooks.service import WebhookDeliveries
from app.settings import Settings


class State(TypedDict):
    """Objects that live as long as the process. `create_app` makes them."""

    settings: Settings
    keys: KeyRegistry
    key_administration: KeyAdministration
    catalogue: Catalogue
    images: ImageService
    chats: ChatService
    references: ReferenceValidator
    runs: GenerationRuns
    recorded: RecordedGenerations
    webhooks: WebhookDeliveries
    spending: CallerSpending
    converter: ImageConverter
    scheduler: FairScheduler
    memory_trimmer: IdleMemoryTrimmer
    admission: AdmissionController
    upload_limiter: UploadLimiter
    response_memory: ByteBudget
    metrics: Metrics
    reporter: Reporter


class RequestState(State, total=False):
    """`State`, and the values of one request. The server makes a copy of the state for each request."""

    caller: Caller
    """Set by `AuthenticationMiddleware`, except on public paths, for signed links and for administrators."""
    end_user_hash: str
    """Of the header `X-End-User`, for the log. Set by `AuthenticationMiddleware`."""
    upload: UploadBody
    """Set by `ExtractingRoute` before the body is read."""
    reservation: Reservation
    """What the request has reserved of its caller's limits, if it has."""
    allowance: Allowance
    """What is left of the caller's limits, if a recorded generation has reserved."""
    generation_pending: bool
    """True while the request asks for an image and its generation has not begun. A failure in this time is counted as
    a rejection; a failure after it is counted as the outcome of the generation."""


def request_state(scope: Scope) -> RequestState:
    """Return the state of a request."""
    return cast("RequestState", scope.setdefault("state", {}))
