"""The tables. Fields that queries use have columns; all other fields of a chat or a turn are in a JSON document.

Documents are ASCII text, with JSON's escapes. PostgreSQL's JSON type refuses two characters that prompts may contain:
NUL and half of a surrogate pair. Long documents of turns and long system instructions are rows of `texts`, so that
forks refer to them instead of copying them. Times are seconds since 1970 by the database's clock, because replicas
share no other clock.
"""

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Double,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    column,
    false,
    func,
    select,
    table,
)

metadata = MetaData(
    naming_convention={
        "pk": "%(table_name)s_pkey",
        "fk": "%(table_name)s_%(column_0_name)s_fkey",
        "ix": "%(table_name)s_%(column_0_N_name)s_idx",
    }
)

texts = Table(
    "texts",
    metadata,
    Column("digest", String(64), primary_key=True),  # SHA-256 of the text, in hexadecimal
    Column("touched_at", Double, nullable=False),  # when a row that refers to it was last written
    Column("text", Text, nullable=False),
)

chats = Table(
    "chats",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("owner", String(255), nullable=False),
    Column("created_at", Double, nullable=False),
    Column("updated_at", Double, nullable=False),
    Column("last_turn", Integer, nullable=False),
    Column("cost_usd", Double, nullable=False),
    Column("lease_holder", String(64)),
    Column("lease_until", Double),
    Column("document", Text, nullable=False),
    Column("instruction_digest", ForeignKey("texts.digest")),  # of a long system instruction
    Column("bytes", BigInteger, nullable=False, server_default="0"),  # of documents and blobs; shared data counts fully
    Index(None, "instruction_digest"),
    Index(None, "owner", "updated_at", "id"),
    Index(None, "updated_at"),
    Index(None, "lease_holder"),
)

turns = Table(
    "turns",
    metadata,
    Column("chat_id", ForeignKey("chats.id", ondelete="CASCADE"), primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("state", String(16), nullable=False),
    Column("created_at", Double, nullable=False),
    Column("replaced_by", Integer),
    Column("copied", Boolean, nullable=False, server_default=false()),
    Column("document", Text, nullable=False),  # empty if the document is in `texts`
    Column("document_digest", ForeignKey("texts.digest")),
    Column("bytes", BigInteger, nullable=False, server_default="0"),
    Index(None, "document_digest"),
)

blobs = Table(
    "blobs",
    metadata,
    Column("digest", String(64), primary_key=True),  # SHA-256 in hexadecimal
    Column("name", String(80), nullable=False),  # of the stored blob: the digest, sometimes with a suffix
    Column("bytes", Integer, nullable=False),
    Column("touched_at", Double, nullable=False),  # when it was last announced (`BlobIndex`)
    Column("doomed", Boolean, nullable=False, server_default=false()),  # marked for deletion
    Index(None, "touched_at"),
)

turn_blobs = Table(
    "turn_blobs",
    metadata,
    Column("chat_id", String(64), primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("digest", ForeignKey("blobs.digest"), primary_key=True),
    ForeignKeyConstraint(["chat_id", "number"], ["turns.chat_id", "turns.number"], ondelete="CASCADE"),
    Index(None, "digest"),
)

generations = Table(
    "generations",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("owner", String(255), nullable=False),
    Column("idempotency_key", String(255)),
    Column("fingerprint", String(64), nullable=False),  # SHA-256 of the parsed request
    Column("next_count", Integer),  # retry count of the request that may take the generation over
    Column("caller_left", Boolean, nullable=False, server_default=false()),
    Column("chat_id", String(64)),  # of the chat to which it adds a turn
    Column("status", String(16), nullable=False),
    Column("is_async", Boolean, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("due_at", Double, nullable=False),  # not claimed before
    Column("started_at", Double),
    Column("asked_at", Double),
    Column("finished_at", Double),
    Column("expires_at", Double),  # of the generation; set when it is over
    Column("key_expires_at", Double),  # until then the key gives the result
    Column("lease_holder", String(64)),
    Column("lease_until", Double),
    Column("attempts", Integer, nullable=False, server_default="0"),
    Column("may_have_cost", Boolean, nullable=False, server_default=false()),
    Column("webhook_url", Text),
    Column("document", Text, nullable=False),  # the order
    Column("result", Text),  # the outcomes
    Index(None, "owner", "idempotency_key", unique=True),  # NULLs differ from each other
    Index(None, "owner", "fingerprint", "next_count"),
    Index(None, "owner", "created_at", "id"),
    Index(None, "status", "owner", "due_at"),
    Index(None, "chat_id"),
    Index(None, "lease_holder"),
    Index(None, "expires_at"),
)

generation_blobs = Table(
    "generation_blobs",
    metadata,
    Column("generation_id", ForeignKey("generations.id", ondelete="CASCADE"), primary_key=True),
    Column("digest", ForeignKey("blobs.digest"), primary_key=True),
    Index(None, "digest"),
)

deliveries = Table(
    "deliveries",
    metadata,
    Column("id", String(64), primary_key=True),  # the `webhook-id`, the same for all tries
    Column("generation_id", ForeignKey("generations.id", ondelete="CASCADE"), nullable=False),
    Column("url", Text, nullable=False),
    Column("status", String(16), nullable=False),  # pending, delivered or failed
    Column("tries", Integer, nullable=False, server_default="0"),
    Column("due_at", Double, nullable=False),
    Column("lease_holder", String(64)),
    Column("lease_until", Double),
    Column("created_at", Double, nullable=False),
    Index(None, "generation_id"),
    Index(None, "status", "due_at"),
    Index(None, "lease_holder"),
)

signing_keys = Table(
    "signing_keys",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("value", String(64), nullable=False),  # in hexadecimal
)

callers = Table(
    "callers",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("created_at", Double, nullable=False),
    Column("rate", String(32)),  # such as 60/min
    Column("concurrent", Integer),
    Column("budget_micro_usd", BigInteger),
    Column("budget_per", String(8)),  # day or month
    Column("max_size", String(8)),
    Column("models", Text, nullable=False, server_default=""),  # comma-separated; empty for all
    Column("track_users", Boolean, nullable=False, server_default=false()),
    Column("tat", Double),  # theoretical arrival time of the next request (GCRA)
)

api_keys = Table(
    "api_keys",
    metadata,
    Column("digest", String(64), primary_key=True),  # SHA-256 of the secret in hexadecimal
    Column("caller", ForeignKey("callers.name", ondelete="CASCADE"), nullable=False),
    Column("hint", String(16), nullable=False),  # the first characters of the secret
    Column("created_at", Double, nullable=False),
    Column("expires_at", Double),
    Column("revoked_at", Double),
    Index(None, "caller"),
)

reservations = Table(
    "reservations",
    metadata,
    Column("id", String(80), primary_key=True),
    Column("owner", String(255), nullable=False),
    Column("generation_id", ForeignKey("generations.id", ondelete="CASCADE")),  # of a recorded generation
    Column("date", String(10), nullable=False),  # UTC, YYYY-MM-DD: where the cost is booked
    Column("model", String(255), nullable=False),
    Column("end_user", String(64)),
    Column("unit_micro_usd", BigInteger, nullable=False),  # what one call normally costs at most
    Column("units", Integer, nullable=False),
    Column("asked", Boolean, nullable=False),  # without a recorded generation: whether Gemini may have been asked
    Column("lease_holder", String(64)),  # without a recorded generation
    Column("lease_until", Double),
    Index(None, "owner", "date"),
    Index(None, "generation_id"),
    Index(None, "lease_holder"),
    Index(None, "lease_until"),
)

usage = Table(
    "usage",
    metadata,
    Column("owner", String(255), primary_key=True),
    Column("date", String(10), primary_key=True),  # UTC, YYYY-MM-DD
    Column("model", String(255), primary_key=True),
    Column("images", Integer, nullable=False),
    Column("tokens", BigInteger, nullable=False),
    Column("micro_usd", BigInteger, nullable=False),
)

end_user_usage = Table(
    "end_user_usage",
    metadata,
    Column("owner", String(255), primary_key=True),
    Column("date", String(10), primary_key=True),
    Column("end_user", String(64), primary_key=True),
    Column("images", Integer, nullable=False),
    Column("tokens", BigInteger, nullable=False),
    Column("micro_usd", BigInteger, nullable=False),
)

_versions = table("alembic_version", column("version_num"))

current_version = select(func.max(_versions.c.version_num))
"""Query for the newest migration that the database has."""
