"""A database knows its id, what its plugins said of themselves, their source, and results that wait
for their successor.
"""

from __future__ import annotations

import uuid

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the tables of identities, descriptions, sources and earlier results, and the columns
    that point to them; drop paths.
    """
    op.create_table(
        "database",
        sa.Column("id", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_database"),
    )
    op.execute(sa.text("INSERT INTO database (id) VALUES (:id)").bindparams(id=uuid.uuid4().hex))
    for table, content in (("descriptions", "description"), ("sources", "source")):
        op.create_table(
            table,
            sa.Column("digest", sa.Text(), nullable=False),
            sa.Column(content, sa.Text(), nullable=False),
            sa.PrimaryKeyConstraint("digest", name=f"pk_{table}"),
        )
    op.create_table(
        "earlier_results",
        sa.Column("run", sa.Text(), nullable=False),
        sa.Column("at", sa.Double(), nullable=False),
        sa.Column("result", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("run", name="pk_earlier_results"),
        sa.ForeignKeyConstraint(
            ["run"], ["runs.key"], name="fk_earlier_results_run", ondelete="CASCADE"
        ),
    )
    # both databases read this; Alembic would add the constraint by a second statement, which SQLite
    # does not know
    op.execute(
        "ALTER TABLE runs ADD COLUMN description TEXT CONSTRAINT fk_runs_description REFERENCES "
        "descriptions (digest)"
    )
    op.add_column(
        "runs", sa.Column("method_label", sa.Text(), nullable=False, server_default=sa.text("''"))
    )
    op.execute("UPDATE runs SET method_label = method")  # until their descriptions are taken down
    op.add_column("runs", sa.Column("method_source", sa.Text()))
    op.add_column("runs", sa.Column("task_source", sa.Text()))
    op.add_column(
        "runs", sa.Column("stacks", sa.Integer(), nullable=False, server_default=sa.text("0"))
    )
    op.add_column(
        "runs", sa.Column("edition", sa.Integer(), nullable=False, server_default=sa.text("0"))
    )
    op.add_column("runs", sa.Column("owner_pid_namespace", sa.Text()))
    op.add_column("runs", sa.Column("traceback", sa.Text()))
    for table in ("checkpoints", "artifacts"):
        op.drop_column(table, "path")  # where a file lies follows from what it is
    op.drop_index("ix_runs_status", "runs")
    op.create_index("ix_runs_status_created_at_key", "runs", ["status", "created_at", "key"])
    op.drop_index("ix_runs_unmirrored", "runs")
    behind = sa.text(
        "mirrored_revision < revision AND (status <> 'queued' OR mlflow_run_id IS NOT NULL)"
    )
    op.create_index(
        "ix_runs_unmirrored", "runs", ["key"], sqlite_where=behind, postgresql_where=behind
    )
