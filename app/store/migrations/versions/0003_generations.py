"""Add recorded generations, the deliveries of their webhooks, and the key that signs links."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "generations",
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("owner", sa.String(255), nullable=False),
        sa.Column("idempotency_key", sa.String(255)),
        sa.Column("fingerprint", sa.String(64), nullable=False),
        sa.Column("next_count", sa.Integer),
        sa.Column("caller_left", sa.Boolean, nullable=False, server_default=sa.false()),
        sa.Column("chat_id", sa.String(64)),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("is_async", sa.Boolean, nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("due_at", sa.Double, nullable=False),
        sa.Column("started_at", sa.Double),
        sa.Column("asked_at", sa.Double),
        sa.Column("finished_at", sa.Double),
        sa.Column("expires_at", sa.Double),
        sa.Column("key_expires_at", sa.Double),
        sa.Column("lease_holder", sa.String(64)),
        sa.Column("lease_until", sa.Double),
        sa.Column("attempts", sa.Integer, nullable=False, server_default="0"),
        sa.Column("may_have_cost", sa.Boolean, nullable=False, server_default=sa.false()),
        sa.Column("webhook_url", sa.Text),
        sa.Column("document", sa.Text, nullable=False),
        sa.Column("result", sa.Text),
        sa.PrimaryKeyConstraint("id", name="generations_pkey"),
    )
    op.create_index("generations_owner_idempotency_key_idx", "generations", ["owner", "idempotency_key"], unique=True)
    for columns in (
        ["owner", "fingerprint", "next_count"],
        ["owner", "created_at", "id"],
        ["status", "owner", "due_at"],
        ["chat_id"],
        ["lease_holder"],
        ["expires_at"],
    ):
        op.create_index(f"generations_{'_'.join(columns)}_idx", "generations", columns)
    op.create_table(
        "generation_blobs",
        sa.Column("generation_id", sa.String(64), nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.PrimaryKeyConstraint("generation_id", "digest", name="generation_blobs_pkey"),
        sa.ForeignKeyConstraint(
            ["generation_id"], ["generations.id"], name="generation_blobs_generation_id_fkey", ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(["digest"], ["blobs.digest"], name="generation_blobs_digest_fkey"),
    )
    op.create_index("generation_blobs_digest_idx", "generation_blobs", ["digest"])
    op.create_table(
        "deliveries",
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("generation_id", sa.String(64), nullable=False),
        sa.Column("url", sa.Text, nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("tries", sa.Integer, nullable=False, server_default="0"),
        sa.Column("due_at", sa.Double, nullable=False),
        sa.Column("lease_holder", sa.String(64)),
        sa.Column("lease_until", sa.Double),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.PrimaryKeyConstraint("id", name="deliveries_pkey"),
        sa.ForeignKeyConstraint(
            ["generation_id"], ["generations.id"], name="deliveries_generation_id_fkey", ondelete="CASCADE"
        ),
    )
    op.create_index("deliveries_generation_id_idx", "deliveries", ["generation_id"])
    op.create_index("deliveries_status_due_at_idx", "deliveries", ["status", "due_at"])
    op.create_index("deliveries_lease_holder_idx", "deliveries", ["lease_holder"])
    op.create_table(
        "signing_keys",
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("value", sa.String(64), nullable=False),
        sa.PrimaryKeyConstraint("name", name="signing_keys_pkey"),
    )


def downgrade() -> None:
    for table in ("signing_keys", "deliveries", "generation_blobs", "generations"):
        op.drop_table(table)
