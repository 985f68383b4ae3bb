"""Scores that are computed from stored runs, and which process is computing them."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the two tables."""
    op.create_table(
        "scores",
        sa.Column("run", sa.Text(), nullable=False),
        sa.Column("estimator", sa.Text(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("settings", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("value", sa.Double()),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("se", sa.Double()),
        sa.Column("se_kind", sa.Text()),
        sa.Column("scored_at", sa.Double(), nullable=False),
        sa.Column("wall_s", sa.Double(), nullable=False),
        sa.Column("environment", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint(
            "run", "estimator", "version", "settings", "name", name="pk_scores"
        ),
        sa.ForeignKeyConstraint(["run"], ["runs.key"], name="fk_scores_run", ondelete="CASCADE"),
        sa.ForeignKeyConstraint(
            ["environment"], ["environments.digest"], name="fk_scores_environment"
        ),
    )
    op.create_table(
        "scoring",
        sa.Column("run", sa.Text(), nullable=False),
        sa.Column("owner_host", sa.Text(), nullable=False),
        sa.Column("owner_boot_id", sa.Text(), nullable=False),
        sa.Column("owner_pid_namespace", sa.Text()),
        sa.Column("owner_pid", sa.BigInteger(), nullable=False),
        sa.Column("owner_process_start", sa.BigInteger(), nullable=False),
        sa.Column("lease_expires", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("run", name="pk_scoring"),
        sa.ForeignKeyConstraint(["run"], ["runs.key"], name="fk_scoring_run", ondelete="CASCADE"),
    )
