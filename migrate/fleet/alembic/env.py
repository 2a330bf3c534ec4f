"""Alembic's door to the database: the connection that migrate.fleet.store hands over."""

from alembic import context

from migrate.fleet.schema import METADATA

context.configure(connection=context.config.attributes["connection"], target_metadata=METADATA, render_as_batch=True)
with context.begin_transaction():
    context.run_migrations()
