"""The tables. What is searched by has a column; the rest of a chat or a turn is a JSON document.

Documents are text, ASCII by JSON's escapes: PostgreSQL's own JSON refuses two things that prompts may hold, NUL and
half of a surrogate pair. Long documents of turns and long system instructions are rows of `texts`, so that forks refer
to them instead of copying them. Times are seconds since 1970 by the database's clock, the only one that replicas share.
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
    Column("touched_at", Double, nullable=False),  # when a chat or a turn was last written that refers to it
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
    Column("instruction_digest", ForeignKey("texts.digest")),  # of a system instruction that is not in the document
    Column("bytes", BigInteger, nullable=False, server_default="0"),  # documents and files, as if nothing were shared
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
    Column("document", Text, nullable=False),  # empty if it is in `texts`
    Column("document_digest", ForeignKey("texts.digest")),
    Column("bytes", BigInteger, nullable=False, server_default="0"),
    Index(None, "document_digest"),
)

blobs = Table(
    "blobs",
    metadata,
    Column("digest", String(64), primary_key=True),  # SHA-256 in hexadecimal; as a rule the name of the file, too
    Column("name", String(80), nullable=False),
    Column("bytes", Integer, nullable=False),
    Column("touched_at", Double, nullable=False),  # when somebody last set out to refer to it
    Column("doomed", Boolean, nullable=False, server_default=false()),  # whether its file is being removed
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

_versions = table("alembic_version", column("version_num"))

current_version = select(func.max(_versions.c.version_num))
"""Which migration the database has."""
