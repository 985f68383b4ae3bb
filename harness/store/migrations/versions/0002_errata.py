"""Results can be withdrawn."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the table of withdrawn results."""
    op.create_table(
        "errata",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("run", sa.Text(), nullable=False),
        sa.Column("at", sa.Double(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("lifted_at", sa.Double()),
        sa.Column("replaced_at", sa.Double()),
        sa.Column("result", sa.Text()),
        sa.PrimaryKeyConstraint("id", name="pk_errata"),
        sa.ForeignKeyConstraint(["run"], ["runs.key"], name="fk_errata_run", ondelete="CASCADE"),
    )
    op.create_index("ix_errata_run", "errata", ["run"])
