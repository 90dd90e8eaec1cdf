"""Add callers with their keys and limits, reservations, and usage by day."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "callers",
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("rate", sa.String(32)),
        sa.Column("concurrent", sa.Integer),
        sa.Column("budget_micro_usd", sa.BigInteger),
        sa.Column("budget_per", sa.String(8)),
        sa.Column("max_size", sa.String(8)),
        sa.Column("models", sa.Text, nullable=False, server_default=""),
        sa.Column("track_users", sa.Boolean, nullable=False, server_default=sa.false()),
        sa.Column("tat", sa.Double),
        sa.PrimaryKeyConstraint("name", name="callers_pkey"),
    )
    op.create_table(
        "api_keys",
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("caller", sa.String(64), nullable=False),
        sa.Column("hint", sa.String(16), nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("expires_at", sa.Double),
        sa.Column("revoked_at", sa.Double),
        sa.PrimaryKeyConstraint("digest", name="api_keys_pkey"),
        sa.ForeignKeyConstraint(["caller"], ["callers.name"], name="api_keys_caller_fkey", ondelete="CASCADE"),
    )
    op.create_index("api_keys_caller_idx", "api_keys", ["caller"])
    op.create_table(
        "reservations",
        sa.Column("id", sa.String(80), nullable=False),
        sa.Column("owner", sa.String(255), nullable=False),
        sa.Column("generation_id", sa.String(64)),
        sa.Column("date", sa.String(10), nullable=False),
        sa.Column("model", sa.String(255), nullable=False),
        sa.Column("end_user", sa.String(64)),
        sa.Column("unit_micro_usd", sa.BigInteger, nullable=False),
        sa.Column("units", sa.Integer, nullable=False),
        sa.Column("asked", sa.Boolean, nullable=False),
        sa.Column("lease_holder", sa.String(64)),
        sa.Column("lease_until", sa.Double),
        sa.PrimaryKeyConstraint("id", name="reservations_pkey"),
        sa.ForeignKeyConstraint(
            ["generation_id"], ["generations.id"], name="reservations_generation_id_fkey", ondelete="CASCADE"
        ),
    )
    for columns in (["owner", "date"], ["generation_id"], ["lease_holder"], ["lease_until"]):
        op.create_index(f"reservations_{'_'.join(columns)}_idx", "reservations", columns)
    for table, column, length in (("usage", "model", 255), ("end_user_usage", "end_user", 64)):
        op.create_table(
            table,
            sa.Column("owner", sa.String(255), nullable=False),
            sa.Column("date", sa.String(10), nullable=False),
            sa.Column(column, sa.String(length), nullable=False),
            sa.Column("images", sa.Integer, nullable=False),
            sa.Column("tokens", sa.BigInteger, nullable=False),
            sa.Column("micro_usd", sa.BigInteger, nullable=False),
            sa.PrimaryKeyConstraint("owner", "date", column, name=f"{table}_pkey"),
        )


def downgrade() -> None:
    for table in ("end_user_usage", "usage", "reservations", "api_keys", "callers"):
        op.drop_table(table)
