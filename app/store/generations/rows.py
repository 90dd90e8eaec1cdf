"""Rows of the table `generations`: read them inside a transaction, and the values that end one."""

from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, bindparam, delete, or_, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Connection

from app.domain.recorded import GenerationStatus, RecordedGeneration
from app.store.blobs import BlobStore
from app.store.blobs.index import link_to_generation
from app.store.callers import Reservations
from app.store.database import Database
from app.store.generations.serialization import OrderDocument, load_order, load_result
from app.store.tables import generation_blobs, generations

REPETITION_SECONDS = 600
"""After its end, a generation without a key can be repeated for this time. OpenAI's clients wait 8 s at most between
tries, or as long as `Retry-After` says."""

_LINKED = select(generation_blobs.c.digest).where(generation_blobs.c.generation_id == bindparam("this"))

UNLEASED = {"lease_holder": None, "lease_until": None}
"""Values of a row that nobody works on."""


@dataclass(frozen=True, slots=True)
class Lifetimes:
    """How long what is kept, in seconds."""

    lease: float
    """Of a lease that is not renewed."""
    idempotency_key: float
    generation: float


class GenerationRows:
    """What all verbs share."""

    def __init__(self, database: Database, blobs: BlobStore, lifetimes: Lifetimes, reservations: Reservations) -> None:
        self.database = database
        self.blobs = blobs
        self.lifetimes = lifetimes
        self.reservations = reservations
        self.dialect: Any = sqlite if database.is_sqlite else postgresql

    @property
    def now(self) -> ColumnElement[float]:
        return self.database.now

    @property
    def alive(self) -> ColumnElement[bool]:
        """Condition: the generation has not expired."""
        return or_(generations.c.expires_at.is_(None), generations.c.expires_at > self.now)

    def leased_by(self, holder: str | None) -> dict[str, Any]:
        """Return the values of a row that the holder works on."""
        return {"lease_holder": holder, "lease_until": self.now + self.lifetimes.lease}

    def load(self, row: Any, document: OrderDocument | None = None) -> RecordedGeneration:
        """Return the generation of a row with its order and outcomes.

        Args:
            row: of the table.
            document: the row's document, if it was read before.

        Raises:
            StorageDamaged: a document cannot be read.
        """
        document = document or load_order(row.document, self.blobs.blob)
        outcomes, is_converted = load_result(row.result, self.blobs.blob) if row.result else ((), False)
        return RecordedGeneration(
            id=row.id,
            owner=row.owner,
            status=GenerationStatus(row.status),
            is_async=row.is_async,
            created_at=row.created_at,
            started_at=row.started_at,
            asked_at=row.asked_at,
            finished_at=row.finished_at,
            expires_at=row.expires_at,
            attempts=row.attempts,
            may_have_cost=row.may_have_cost,
            order=document.order,
            outcomes=outcomes,
            is_converted=is_converted,
            base_url=document.base_url,
            webhook_url=row.webhook_url,
        )

    def set_blobs(self, connection: Connection, id_: str, wanted: set[str]) -> None:
        """Let the generation refer to exactly these blobs, by their digests. Their rows exist."""
        linked = set(connection.execute(_LINKED, {"this": id_}).scalars())
        if linked - wanted:
            unwanted = generation_blobs.c.digest.in_(linked - wanted)
            connection.execute(delete(generation_blobs).where(generation_blobs.c.generation_id == id_, unwanted))
        if wanted - linked:
            link_to_generation(connection, self.dialect, id_, wanted - linked)
