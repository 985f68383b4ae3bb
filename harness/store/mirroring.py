"""How far MLflow's mirror of the runs is, as the database knows it."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from sqlalchemy import select, update

from harness.base.errors import StoreError
from harness.store.database import CHUNK, Operations, chunks
from harness.store.schema import BEHIND, runs


class Mirroring(Operations):
    """Notes which revision of each run its mirror shows."""

    def behind(self, keys: Collection[str] | None = None) -> list[str]:
        """Find those of these runs, or of all, whose mirror lacks something that there is to show,
        the oldest first.
        """
        query, wanted = select(runs.c.key, runs.c.created_at).where(BEHIND), set(keys or ())
        if keys is not None and len(wanted) <= CHUNK:
            query = query.where(runs.c.key.in_(wanted))
        with self._read() as connection:
            rows = connection.execute(query).all()
        # Sorted here: SQLite would rather walk through all runs in the right order than sort the
        # few that it finds.
        in_order = sorted(rows, key=lambda row: (row.created_at, row.key))
        return [row.key for row in in_order if keys is None or row.key in wanted]

    def copies(self) -> dict[str, str]:
        """Read the run in MLflow of each run that has one."""
        query = select(runs.c.key, runs.c.mlflow_run_id).where(runs.c.mlflow_run_id.is_not(None))
        with self._read() as connection:
            return {row.key: row.mlflow_run_id for row in connection.execute(query)}

    def set_mlflow_run(self, key: str, mlflow_run_id: str) -> str:
        """Name the run's mirror, unless it has a name; returns the name that it has now."""
        unnamed = update(runs).where(runs.c.key == key, runs.c.mlflow_run_id.is_(None))
        with self._write() as connection:
            connection.execute(unnamed.values(mlflow_run_id=mlflow_run_id))
            query = select(runs.c.mlflow_run_id).where(runs.c.key == key)
            stored = connection.execute(query).scalar()
        if stored is None:
            raise StoreError(f"Run {key} is not in the database. See: bench list runs.")
        return str(stored)

    def mirrored(self, key: str, revision: int) -> None:
        """Note that the mirror shows this revision; it never goes back."""
        behind = update(runs).where(runs.c.key == key, runs.c.mirrored_revision < revision)
        with self._write() as connection:
            connection.execute(behind.values(mirrored_revision=revision))

    def clear_mirror(self, keys: Sequence[str] | None) -> None:
        """Forget the mirror of these runs, or of all of them, so that it is built anew."""
        forget = update(runs).values(mlflow_run_id=None, mirrored_revision=-1)
        with self._write() as connection:
            if keys is None:
                connection.execute(forget)
            for chunk in chunks(sorted(keys or ())):
                connection.execute(forget.where(runs.c.key.in_(chunk)))
