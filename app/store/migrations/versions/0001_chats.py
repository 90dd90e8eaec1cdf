"""Add chats, their turns, and the blobs that turns refer to."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "chats",
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("owner", sa.String(255), nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("updated_at", sa.Double, nullable=False),
        sa.Column("last_turn", sa.Integer, nullable=False),
        sa.Column("cost_usd", sa.Double, nullable=False),
        sa.Column("lease_holder", sa.String(64)),
        sa.Column("lease_until", sa.Double),
        sa.Column("document", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("id", name="chats_pkey"),
    )
    op.create_index("chats_owner_updated_at_id_idx", "chats", ["owner", "updated_at", "id"])
    op.create_index("chats_updated_at_idx", "chats", ["updated_at"])
    op.create_index("chats_lease_holder_idx", "chats", ["lease_holder"])
    op.create_table(
        "turns",
        sa.Column("chat_id", sa.String(64), nullable=False),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("replaced_by", sa.Integer),
        sa.Column("copied", sa.Boolean, nullable=False, server_default=sa.false()),
        sa.Column("document", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("chat_id", "number", name="turns_pkey"),
        sa.ForeignKeyConstraint(["chat_id"], ["chats.id"], name="turns_chat_id_fkey", ondelete="CASCADE"),
    )
    op.create_table(
        "blobs",
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("name", sa.String(80), nullable=False),
        sa.Column("bytes", sa.Integer, nullable=False),
        sa.Column("touched_at", sa.Double, nullable=False),
        sa.Column("doomed", sa.Boolean, nullable=False, server_default=sa.false()),
        sa.PrimaryKeyConstraint("digest", name="blobs_pkey"),
    )
    op.create_index("blobs_touched_at_idx", "blobs", ["touched_at"])
    op.create_table(
        "turn_blobs",
        sa.Column("chat_id", sa.String(64), nullable=False),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.PrimaryKeyConstraint("chat_id", "number", "digest", name="turn_blobs_pkey"),
        sa.ForeignKeyConstraint(
            ["chat_id", "number"],
            ["turns.chat_id", "turns.number"],
            name="turn_blobs_chat_id_fkey",
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(["digest"], ["blobs.digest"], name="turn_blobs_digest_fkey"),
    )
    op.create_index("turn_blobs_digest_idx", "turn_blobs", ["digest"])


def downgrade() -> None:
    for table in ("turn_blobs", "blobs", "turns", "chats"):
        op.drop_table(table)
