"""The tables. `migrations/` builds the same ones step by step; a test compares the two."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Column,
    Double,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
    text,
)

metadata = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    }
)

# SQLite numbers rows by itself only where the type is exactly INTEGER.
RowNumber = BigInteger().with_variant(Integer(), "sqlite")


def _run(primary: bool = False) -> Column[str]:
    """The run that a row belongs to, and with which it goes."""
    return Column(
        "run", Text, ForeignKey("runs.key", ondelete="CASCADE"), primary_key=primary, nullable=False
    )


def _by_digest(name: str, content: str) -> Table:
    """Texts that many runs point to, each stored once under its hash."""
    return Table(
        name,
        metadata,
        Column("digest", Text, primary_key=True),
        Column(content, Text, nullable=False),
    )


# A stack's plan is stored once; its members point to it.
plans = _by_digest("plans", "plan")

environments = _by_digest("environments", "environment")

# One row: which database this is, whatever it is called and wherever it lies.
database = Table("database", metadata, Column("id", Text, primary_key=True))

# What a run's plugins said of themselves when it was queued: reading needs no plugin.
descriptions = _by_digest("descriptions", "description")

# The text of plugins that are not installed, by its sha256.
sources = _by_digest("sources", "source")

# Times are seconds since 1970, UTC; leases and history carry the database's clock.
runs = Table(
    "runs",
    metadata,
    Column("key", Text, primary_key=True),
    Column("cell", Text, nullable=False),
    Column("method", Text, nullable=False),
    Column("method_label", Text, nullable=False, server_default=text("''")),
    Column("method_source", Text),
    Column("task", Text, nullable=False),
    Column("task_source", Text),
    Column("task_label", Text, nullable=False),
    Column("stacks", Integer, nullable=False, server_default=text("0")),
    Column("seed", BigInteger, nullable=False),
    Column("spec", Text, nullable=False),
    Column("status", Text, nullable=False),
    Column("reason", Text),
    Column("step", BigInteger, nullable=False, server_default=text("0")),
    Column("steps", BigInteger, nullable=False),
    Column("settings", Text, nullable=False),
    Column("source_hash", Text, nullable=False),
    Column("protocol", Text, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("started_at", Double),
    Column("finished_at", Double),
    Column("wall_s", Double, nullable=False, server_default=text("0")),
    Column("fence", Integer, nullable=False, server_default=text("0")),
    Column("crashes", Integer, nullable=False, server_default=text("0")),
    Column("owner_host", Text),
    Column("owner_boot_id", Text),
    Column("owner_pid_namespace", Text),
    Column("owner_pid", BigInteger),
    Column("owner_process_start", BigInteger),
    Column("claimed_at", Double),
    Column("lease_expires", Double),
    Column("plan", Text, ForeignKey("plans.digest")),
    Column("environment", Text, ForeignKey("environments.digest")),
    Column("description", Text, ForeignKey("descriptions.digest")),
    # 1, and one more each time that it is put back to its start; 0 of runs from before databases
    # had an id
    Column("edition", Integer, nullable=False, server_default=text("0")),
    Column("traceback", Text),  # of a run that failed, the last lines
    Column("mlflow_run_id", Text),
    Column("revision", BigInteger, nullable=False, server_default=text("0")),
    Column("mirrored_revision", BigInteger, nullable=False, server_default=text("-1")),
    Index(None, "cell"),
    Index(None, "status", "created_at", "key"),  # the next of those that wait is found at once
    Index(None, "task", "method"),
    Index(None, "created_at"),
)
# Few runs are ahead of their mirror: this index holds those only. One that waits for its first
# start has nothing to show yet. The words are those of the index to the letter, or it is not used.
BEHIND = text("mirrored_revision < revision AND (status <> 'queued' OR mlflow_run_id IS NOT NULL)")
Index("ix_runs_unmirrored", runs.c.key, sqlite_where=BEHIND, postgresql_where=BEHIND)

run_history = Table(
    "run_history",
    metadata,
    Column("id", RowNumber, primary_key=True),
    _run(),
    Column("at", Double, nullable=False),
    Column("status", Text, nullable=False),
    Column("reason", Text),
    Column("step", BigInteger, nullable=False),
    Column("fence", Integer, nullable=False),
    Column("owner", Text),
    Index(None, "run"),
)

# SQLite stores NaN as NULL, so `kind` tells finite, nan, +inf and -inf apart.
metrics = Table(
    "metrics",
    metadata,
    _run(primary=True),
    Column("name", Text, primary_key=True),
    Column("value", Double),
    Column("kind", Text, nullable=False),
    Column("se", Double),
    Column("se_kind", Text),
)

# Computed from the checkpoints of finished runs. A changed estimator has another version, so that
# nothing is overwritten; `settings` is what differs from the run's own protocol.
scores = Table(
    "scores",
    metadata,
    _run(primary=True),
    Column("estimator", Text, primary_key=True),
    Column("version", Integer, primary_key=True),
    Column("settings", Text, primary_key=True),
    Column("name", Text, primary_key=True),
    Column("value", Double),
    Column("kind", Text, nullable=False),
    Column("se", Double),
    Column("se_kind", Text),
    Column("scored_at", Double, nullable=False),
    Column("wall_s", Double, nullable=False),
    Column("environment", Text, ForeignKey("environments.digest"), nullable=False),
)

# Which process is scoring a finished run. Columns as in `runs`.
scoring = Table(
    "scoring",
    metadata,
    _run(primary=True),
    Column("owner_host", Text, nullable=False),
    Column("owner_boot_id", Text, nullable=False),
    Column("owner_pid_namespace", Text),
    Column("owner_pid", BigInteger, nullable=False),
    Column("owner_process_start", BigInteger, nullable=False),
    Column("lease_expires", Double, nullable=False),
)

curves = Table(
    "curves",
    metadata,
    _run(primary=True),
    Column("name", Text, primary_key=True),
    Column("steps", Text, nullable=False),
    Column("values", Text, nullable=False),
)

checkpoints = Table(
    "checkpoints",
    metadata,
    Column("id", RowNumber, primary_key=True),
    _run(),
    Column("role", Text, nullable=False),
    Column("step", BigInteger, nullable=False),
    Column("sha256", Text, nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("created_at", Double, nullable=False),
    UniqueConstraint("run", "role", "step"),
)

artifacts = Table(
    "artifacts",
    metadata,
    _run(primary=True),
    Column("name", Text, primary_key=True),
    Column("sha256", Text, nullable=False),
    Column("size", BigInteger, nullable=False),
)

# Marks on results that do not stand. `result` holds what the run had when it was made anew; until
# then it is in the tables above.
errata = Table(
    "errata",
    metadata,
    Column("id", RowNumber, primary_key=True),
    _run(),
    Column("at", Double, nullable=False),
    Column("reason", Text, nullable=False),
    Column("lifted_at", Double),
    Column("replaced_at", Double),
    Column("result", Text),
    Index(None, "run"),
)

# What a run had when it was put back to its start, until its successor is stored.
earlier_results = Table(
    "earlier_results",
    metadata,
    _run(primary=True),
    Column("at", Double, nullable=False),
    Column("result", Text, nullable=False),
)
