"""Alembic's entry point. It uses the connection and the transaction of `app.store.migrate`."""

from alembic import context

from app.store.tables import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata, transactional_ddl=True)
context.run_migrations()
