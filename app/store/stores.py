"""All stores over one database and one blob store."""

from app.settings import Settings
from app.store.blobs import BlobIndex, BlobStore
from app.store.callers import CallerStore, Reservations
from app.store.chats import ChatStore, StorageLimits
from app.store.database import Database
from app.store.deliveries import LEASE_SECONDS, DeliveryStore
from app.store.generations import GenerationStore, Lifetimes
from app.store.leases import Leases


class Stores:
    def __init__(self, settings: Settings, database: Database, blobs: BlobStore) -> None:
        index = BlobIndex(database, blobs)
        reservations = Reservations(database, settings.chat_lease_seconds)
        self.callers = CallerStore(database, reservations)
        self.leases = Leases(database, settings.chat_lease_seconds)
        self.deliveries = DeliveryStore(database, LEASE_SECONDS)
        self.chats = ChatStore(
            database,
            blobs,
            index,
            settings.chat_ttl.total_seconds() or None,
            settings.chat_lease_seconds,
            StorageLimits(settings.max_chats_per_caller, settings.max_stored_bytes_per_caller),
        )
        self.generations = GenerationStore(
            database,
            blobs,
            index,
            self.chats.turns,
            reservations,
            Lifetimes(
                lease=settings.chat_lease_seconds,
                idempotency_key=settings.idempotency_ttl.total_seconds(),
                generation=settings.generation_ttl.total_seconds(),
            ),
            settings.max_queued_async,
        )
