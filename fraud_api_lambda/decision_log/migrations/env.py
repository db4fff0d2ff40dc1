"""Run by Alembic, with the connection of ``upgrade``, inside its transaction."""

from alembic import context

# transactional_ddl: both databases can take back the making of a table, but Alembic takes SQLite's driver for one that
# commits before it.
context.configure(connection=context.config.attributes["connection"], transactional_ddl=True)
with context.begin_transaction():
    context.run_migrations()
