"""Add long texts, stored once for all chats and turns that refer to them, and the size of each chat."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "texts",
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("touched_at", sa.Double, nullable=False),
        sa.Column("text", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("digest", name="texts_pkey"),
    )
    for table, column in (("chats", "instruction_digest"), ("turns", "document_digest")):
        # As SQL, because Alembic cannot add a foreign key to a table of SQLite.
        op.execute(
            f"ALTER TABLE {table} ADD COLUMN {column} VARCHAR(64) "
            f"CONSTRAINT {table}_{column}_fkey REFERENCES texts (digest)"
        )
        op.create_index(f"{table}_{column}_idx", table, [column])
        op.add_column(table, sa.Column("bytes", sa.BigInteger, nullable=False, server_default="0"))


def downgrade() -> None:
    raise NotImplementedError("The previous version cannot read long texts. Restore a backup instead.")
