"""Alembic's way in. The connection, and the transaction, are those of whoever upgrades."""

from alembic import context

from app.store.tables import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata, transactional_ddl=True)
context.run_migrations()
