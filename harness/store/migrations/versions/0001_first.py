"""The first schema."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def _row_number() -> sa.types.TypeEngine[int]:
    return sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def _belongs_to_run(table: str) -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint(
        ["run"], ["runs.key"], name=f"fk_{table}_run", ondelete="CASCADE"
    )


def upgrade() -> None:
    """Create every table."""
    _create_plans_and_environments()
    _create_runs()
    _create_history()
    _create_results()
    _create_files()


def _create_plans_and_environments() -> None:
    for table, content in (("plans", "plan"), ("environments", "environment")):
        op.create_table(
            table,
            sa.Column("digest", sa.Text(), nullable=False),
            sa.Column(content, sa.Text(), nullable=False),
            sa.PrimaryKeyConstraint("digest", name=f"pk_{table}"),
        )


def _create_runs() -> None:
    op.create_table(
        "runs",
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("cell", sa.Text(), nullable=False),
        sa.Column("method", sa.Text(), nullable=False),
        sa.Column("task", sa.Text(), nullable=False),
        sa.Column("task_label", sa.Text(), nullable=False),
        sa.Column("seed", sa.BigInteger(), nullable=False),
        sa.Column("spec", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text()),
        sa.Column("step", sa.BigInteger(), nullable=False, server_default=sa.text("0")),
        sa.Column("steps", sa.BigInteger(), nullable=False),
        sa.Column("settings", sa.Text(), nullable=False),
        sa.Column("source_hash", sa.Text(), nullable=False),
        sa.Column("protocol", sa.Text(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("started_at", sa.Double()),
        sa.Column("finished_at", sa.Double()),
        sa.Column("wall_s", sa.Double(), nullable=False, server_default=sa.text("0")),
        *_claim_columns(),
        sa.Column("plan", sa.Text()),
        sa.Column("environment", sa.Text()),
        sa.Column("mlflow_run_id", sa.Text()),
        sa.Column("revision", sa.BigInteger(), nullable=False, server_default=sa.text("0")),
        sa.Column(
            "mirrored_revision", sa.BigInteger(), nullable=False, server_default=sa.text("-1")
        ),
        sa.PrimaryKeyConstraint("key", name="pk_runs"),
        sa.ForeignKeyConstraint(["plan"], ["plans.digest"], name="fk_runs_plan"),
        sa.ForeignKeyConstraint(
            ["environment"], ["environments.digest"], name="fk_runs_environment"
        ),
    )
    for columns in (["cell"], ["status"], ["task", "method"], ["created_at"]):
        op.create_index(f"ix_runs_{'_'.join(columns)}", "runs", columns)
    ahead = sa.text("mirrored_revision < revision")
    op.create_index(
        "ix_runs_unmirrored", "runs", ["key"], sqlite_where=ahead, postgresql_where=ahead
    )


def _claim_columns() -> list[sa.Column]:
    return [
        sa.Column("fence", sa.Integer(), nullable=False, server_default=sa.text("0")),
        sa.Column("crashes", sa.Integer(), nullable=False, server_default=sa.text("0")),
        sa.Column("owner_host", sa.Text()),
        sa.Column("owner_boot_id", sa.Text()),
        sa.Column("owner_pid", sa.BigInteger()),
        sa.Column("owner_process_start", sa.BigInteger()),
        sa.Column("claimed_at", sa.Double()),
        sa.Column("lease_expires", sa.Double()),
    ]


def _create_history() -> None:
    op.create_table(
        "run_history",
        sa.Column("id", _row_number(), nullable=False),
        sa.Column("run", sa.Text(), nullable=False),
        sa.Column("at", sa.Double(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text()),
        sa.Column("step", sa.BigInteger(), nullable=False),
        sa.Column("fence", sa.Integer(), nullable=False),
        sa.Column("owner", sa.Text()),
        sa.PrimaryKeyConstraint("id", name="pk_run_history"),
        _belongs_to_run("run_history"),
    )
    op.create_index("ix_run_history_run", "run_history", ["run"])


def _create_results() -> None:
    op.create_table(
        "metrics",
        sa.Column("run", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("value", sa.Double()),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("se", sa.Double()),
        sa.Column("se_kind", sa.Text()),
        sa.PrimaryKeyConstraint("run", "name", name="pk_metrics"),
        _belongs_to_run("metrics"),
    )
    op.create_table(
        "curves",
        sa.Column("run", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("steps", sa.Text(), nullable=False),
        sa.Column("values", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("run", "name", name="pk_curves"),
        _belongs_to_run("curves"),
    )


def _create_files() -> None:
    op.create_table(
        "checkpoints",
        sa.Column("id", _row_number(), nullable=False),
        sa.Column("run", sa.Text(), nullable=False),
        sa.Column("role", sa.Text(), nullable=False),
        sa.Column("step", sa.BigInteger(), nullable=False),
        sa.Column("path", sa.Text(), nullable=False),
        sa.Column("sha256", sa.Text(), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_checkpoints"),
        sa.UniqueConstraint("run", "role", "step", name="uq_checkpoints_run_role_step"),
        _belongs_to_run("checkpoints"),
    )
    op.create_table(
        "artifacts",
        sa.Column("run", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("path", sa.Text(), nullable=False),
        sa.Column("sha256", sa.Text(), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("run", "name", name="pk_artifacts"),
        _belongs_to_run("artifacts"),
    )
