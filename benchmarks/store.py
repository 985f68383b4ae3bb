"""How long common questions take in a database of 100,000 finished runs, and what a sweep of
100,000 queued ones asks, on SQLite and on PostgreSQL.

    python benchmarks/store.py
    python benchmarks/store.py --json out.json

On SQLite, and on PostgreSQL where its server programs are installed.

Each figure is the median of `--repeats` calls after start-up, in seconds, with the smallest and the
largest. Of the sweep it is processor time, that of the server included, of a call among twenty; 640
of its runs are held by other machines, as 64 workers would hold them.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import timing
from click.testing import CliRunner
from sqlalchemy import insert

from harness.base.spec import NewRun, Plan, Status, canonical_json, digest
from harness.cli import main
from harness.execution.local import AT_ONCE, Remaining, stacks
from harness.execution.workers import Watch
from harness.plan.grid import expand
from harness.store import Owner, ResultStore
from harness.store.database import Database
from harness.store.schema import curves, metrics, plans, runs

N_RUNS = 100_000
DIMS, METHODS = (2, 25, 100, 400), ("vb", "hvae", "iaf", "pnf")
BLOCK = 5_000
Score = Callable[[NewRun, str], float]
METRICS = (
    "elbo",
    "elbo_gap",
    "ess",
    "evidence_gap",
    "log_evidence",
    "pareto_k",
    "sigma_sq_error",
    "theta_sq_error",
)


def finished_runs(n: int) -> Iterator[NewRun]:
    """Runs of many cells, ten seeds each: sixteen pairs of method and task, at ever more steps."""
    pairs = itertools.product((f"gaussian-{dim}" for dim in DIMS), METHODS)
    patterns = [expand([method], [task], [0], "smoke", {})[0] for task, method in pairs]
    for cell in range(n // 10):
        pattern, steps = patterns[cell % len(patterns)], 200 + cell // len(patterns)
        for seed in range(10):
            yield replace(
                pattern, spec=pattern.spec.model_copy(update={"steps": steps, "seed": seed})
            )


def fill(
    url: str, made: Iterator[NewRun], score: Score = lambda run, name: -1.5, points: int = 200
) -> None:
    """Put finished runs into an empty database, as the program would have left them, with curves of
    so many points.
    """
    with ResultStore.open(url):
        pass
    engine = Database(url).engine
    count = 0
    while block := list(itertools.islice(made, BLOCK)):
        count += len(block)
        with engine.begin() as connection:
            write(connection, block, count, score, points)
    engine.dispose()


def write(connection, block: list[NewRun], last: int, score: Score, points: int) -> None:
    """Insert finished runs with their metrics, curves and plans."""
    now = time.time() - N_RUNS
    stacks = {}
    for run in block:
        stacks.setdefault(run.spec.cell, []).append(run.spec.key)
    made = {
        cell: Plan(members=tuple(keys), threads=1, torch="2.13.0").model_dump(mode="json")
        for cell, keys in stacks.items()
    }
    connection.execute(
        insert(plans),
        [{"digest": digest(plan), "plan": canonical_json(plan)} for plan in made.values()],
    )
    rows = [
        {
            "key": run.spec.key,
            "cell": run.spec.cell,
            "method": run.spec.method,
            "task": run.spec.task,
            "task_label": run.task_label,
            "seed": run.spec.seed,
            "spec": canonical_json(run.spec.plain()),
            "status": "done",
            "step": run.spec.steps,
            "steps": run.spec.steps,
            "settings": canonical_json(run.settings),
            "source_hash": run.source_hash,
            "protocol": run.protocol,
            "created_at": now + last + place,
            "started_at": now + last + place,
            "finished_at": now + last + place + 3,
            "wall_s": 3.0,
            "fence": 1,
            "crashes": 0,
            "plan": digest(made[run.spec.cell]),
            "revision": 3,
            "mirrored_revision": 3,
        }
        for place, run in enumerate(block)
    ]
    connection.execute(insert(runs), rows)
    rest = {"kind": "finite", "se": 0.1, "se_kind": "finite"}
    values = [
        {"run": run.spec.key, "name": name, "value": score(run, name), **rest}
        for run in block
        for name in METRICS
    ]
    connection.execute(insert(metrics), values)
    steps = canonical_json(list(range(1, points + 1)))
    bounds = canonical_json([-1000.0 - 1e4 / step for step in range(1, points + 1)])
    connection.execute(
        insert(curves),
        [{"run": row["key"], "name": "bound", "steps": steps, "values": bounds} for row in rows],
    )


def measured(call: Callable[[], object], repeats: int) -> list[float]:
    """Seconds of each of `repeats` calls, after one that nobody counts."""
    call()
    taken = []
    for _ in range(repeats):
        began = time.perf_counter()
        call()
        taken.append(time.perf_counter() - began)
    return taken


def command(*arguments: str) -> Callable[[], object]:
    """A command, in this process: start-up is over."""

    def call() -> None:
        result = CliRunner().invoke(main, list(arguments))
        assert result.exit_code == 0, result.output

    return call


def big_study(folder: Path, n: int) -> Path:
    """A study of the first `n` runs of the database."""
    lines = ["summary: A part of all runs.", "grids:"]
    tasks = ", ".join(f"gaussian-{dim}" for dim in DIMS)
    for steps in range(200, 200 + n // 160):
        crossed = f"methods: [{', '.join(METHODS)}], tasks: [{tasks}], seeds: 0-9"
        lines.append(f"  - {{{crossed}, protocol: smoke, set: {{steps: {steps}}}}}")
    path = folder / "part.yaml"
    path.write_text("\n".join(lines) + "\n")
    return path


def claim_and_return(url: str, fresh: list[NewRun]) -> Callable[[], object]:
    """Find the next stack among all runs, claim it, and give it back, as a worker does."""

    def call() -> None:
        with ResultStore.open(url) as store:
            taken = store.claim_first(list(stacks(store.next_runs(AT_ONCE))), Owner.current())
            assert len(taken.claims) == 10
            store.release(taken.claims, Status.QUEUED, None)

    with ResultStore.open(url) as store:
        store.enqueue(fresh)
    return call


def questions(url: str, folder: Path) -> dict[str, Callable[[], object]]:
    """What is timed."""
    fresh = expand(["vb"], ["gaussian-3"], range(1000), "smoke", {})
    return {
        "bench list runs (the last 50)": command("list", "runs"),
        "bench study status corrected-gaussian (none made)": command(
            "study", "status", "corrected-gaussian"
        ),
        "bench study status of 1,600 of them": command(
            "study", "status", str(big_study(folder, 1600))
        ),
        "find, claim and give back a stack of ten": claim_and_return(url, fresh),
    }


def sweep_questions(store: ResultStore) -> dict[str, Callable[[], object]]:
    """What a sweep of `N_RUNS` queued runs asks again and again."""
    sweep = expand(["vb"], ["gaussian-2"], range(N_RUNS), "smoke", {})
    keys = [run.spec.key for run in sweep]
    store.enqueue(sweep)
    for first in range(0, 640, 10):
        store.claim(
            keys[first : first + 10], Owner("another-host", "boot", first, 1), lease_s=10**6
        )
    left, watch = Remaining(store, keys), Watch(store, keys)
    watch.look(everywhere=True)

    def claim() -> None:
        taken = store.claim_first(list(stacks(store.open_runs(keys[640:660]))), Owner.current())
        store.release(taken.claims, Status.QUEUED, None)

    return {
        "the next runs of a command that asked for all": left.next,
        "the next runs of a worker": lambda: store.next_runs(AT_ONCE),
        "claim a stack of ten and give it back": claim,
        "a look of the command that follows all": lambda: watch.look(everywhere=False),
        "what the mirror of all is behind with": lambda: store.behind(keys),
    }


def processor_s(server: psutil.Process | None) -> float:
    """Processor seconds of this process and of a server's."""
    return time.process_time() + sum(
        sum(child.cpu_times()[:2]) for child in (server.children() if server else ())
    )


def computed(
    call: Callable[[], object], repeats: int, server: psutil.Process | None
) -> list[float]:
    """Processor seconds of a call, `repeats` times the mean of twenty."""
    call()
    taken = []
    for _ in range(repeats):
        began = processor_s(server)
        for _ in range(20):
            call()
        taken.append((processor_s(server) - began) / 20)
    return taken


@contextlib.contextmanager
def databases(folder: Path) -> Iterator[dict[str, tuple[str, psutil.Process | None]]]:
    """Addresses of empty databases by kind, each with its server."""
    found = {"sqlite": (f"sqlite:///{folder / 'bench.db'}", None)}
    import postgres

    if postgres.find_binary("initdb") is None:
        yield found
        return
    import psycopg

    with postgres.server() as running:
        with psycopg.connect(f"{running.url}/postgres", autocommit=True) as connection:
            connection.execute("CREATE DATABASE bench")
        yield found | {"postgresql": (f"{running.url}/bench", psutil.Process(running.process.pid))}


def run(n: int, repeats: int) -> dict[str, Any]:
    """Fill each database and time the questions."""
    figures: dict[str, dict[str, float]] = {}
    sweeps: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as name, databases(Path(name)) as urls:
        os.environ["BENCH_HOME"] = name
        for kind, (url, server) in urls.items():
            os.environ["BENCH_DATABASE_URL"] = url
            began = time.perf_counter()
            fill(url, finished_runs(n))
            print(
                f"{kind}: {n:,} finished runs put in within {time.perf_counter() - began:.0f} s",
                file=sys.stderr,
            )
            for question, call in questions(url, Path(name)).items():
                figures[f"{kind}: {question}"] = summary(
                    f"{kind}: {question}", measured(call, repeats)
                )
            with ResultStore.open(url) as store:
                for question, call in sweep_questions(store).items():
                    sweeps[f"{kind}: {question}"] = summary(
                        f"{kind}: {question}", computed(call, repeats, server)
                    )
    result = timing.medians(repeats, figures)
    about_sweeps = timing.medians(repeats, sweeps)
    result["tables"][
        "A sweep of 100,000 queued runs, processor seconds: median, smallest and largest"
    ] = next(iter(about_sweeps["tables"].values()))
    slowest = max(one["median_s"] for one in sweeps.values())
    result["claims"] = [
        timing.claim(
            "the dearest of a sweep's questions, processor seconds", slowest, 0.05, at_most=True
        )
    ]
    return result | {"sweeps": sweeps}


def summary(name: str, taken: list[float]) -> dict[str, float]:
    """The median with the extremes, which are printed too."""
    print(
        f"{name:62} {statistics.median(taken):6.4f} s  ({min(taken):.4f} to {max(taken):.4f})",
        flush=True,
    )
    return {"median_s": statistics.median(taken), "min_s": min(taken), "max_s": max(taken)}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=N_RUNS)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path, default=timing.FIGURES / f"{Path(__file__).stem}.json")
    arguments = parser.parse_args()
    result = run(arguments.runs, arguments.repeats)
    timing.keep(result, arguments.json)
