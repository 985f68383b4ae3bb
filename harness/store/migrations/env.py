"""Alembic's entry: run the migrations on the connection that `harness.store.upgrade` hands over, in
its transaction.
"""

from __future__ import annotations

from alembic import context

from harness.store.schema import metadata
from harness.store.upgrade import VERSION_TABLE


def run() -> None:
    """Run the migrations that are missing."""
    context.configure(
        connection=context.config.attributes["connection"],
        target_metadata=metadata,
        version_table=VERSION_TABLE,
        render_as_batch=True,
    )
    with context.begin_transaction():
        context.run_migrations()


if not __name__.startswith(
    "harness."
):  # alembic runs this file by its path; a plain import does nothing
    run()
