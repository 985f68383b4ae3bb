"""What many workers ask of one PostgreSQL server: 64 processes that claim and end stacks of ten
among 1,000,000 queued runs.

    python benchmarks/claimers.py                          needs PostgreSQL's server programs
    python benchmarks/claimers.py --runs 10000 --seconds 5

Each claimer looks for the next stack, claims it, ends it at once, and goes on: a thousand times as
often as a worker whose stacks take minutes. Processor time is the server's, all its processes
together. The other questions are asked by one process, one after the other.
"""

from __future__ import annotations

import argparse
import multiprocessing
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import psycopg
import timing
from sqlalchemy import text
from store import processor_s

from harness.base.spec import Status
from harness.execution.local import AT_ONCE, Remaining, stacks
from harness.plan.grid import expand
from harness.store import Outcome, Owner, ResultStore
from harness.store.database import Database

FORK = multiprocessing.get_context("fork")  # what they need is loaded once
ENDED = Outcome(Status.DONE, None, 200, 1.0)


def fill(url: str, n: int) -> None:
    """Queue one run, and copies of its row under other keys, ten to a cell."""
    (pattern,) = expand(["vb"], ["gaussian-2"], [0], "smoke", {})
    with ResultStore.open(url) as store:
        store.enqueue([pattern])
    with Database(url) as database, database.write() as connection:
        names = [
            row[0]
            for row in connection.execute(
                text("SELECT column_name FROM information_schema.columns WHERE table_name = 'runs'")
            )
        ]
        own = {
            "key": "to_hex(n) || '-'",
            "cell": "'cell-' || n / 10",
            "seed": "n % 10",
            "created_at": "created_at + n * 1e-6",
        }
        columns = ", ".join(own.get(name, f'"{name}"') for name in names)
        listed = ", ".join(f'"{name}"' for name in names)
        connection.execute(
            text(
                f"INSERT INTO runs ({listed}) SELECT {columns} FROM runs, generate_series(10, {n}) "
                "AS n"
            )
        )
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("VACUUM ANALYZE runs")


def claimer(url: str, barrier: Any, seconds: float, answers: Any) -> None:
    """Claim and end stacks for so many seconds; tells how many, how many claims were in vain, and
    how long a claim took at most.
    """
    good = futile = 0
    longest = 0.0
    with ResultStore.open(url) as store:
        left = Remaining(store, None)
        barrier.wait()
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            groups = list(stacks(left.next()))
            began = time.monotonic()
            taken = store.claim_first(groups, Owner.current())
            longest = max(longest, time.monotonic() - began)
            if taken.claims:
                good, left.at_once = good + 1, max(AT_ONCE, left.at_once // 2)
                store.finish_all(taken.claims, [ENDED] * len(taken.claims))
            else:
                futile, left.at_once = futile + 1, left.at_once * 2
    answers.put((good, futile, longest))


def claimed_together(url: str, n: int, seconds: float) -> tuple[int, int, float]:
    """All good and futile claims of `n` processes, and the longest."""
    barrier, answers = FORK.Barrier(n), FORK.Queue()
    started = [
        FORK.Process(target=claimer, args=(url, barrier, seconds, answers)) for _ in range(n)
    ]
    for process in started:
        process.start()
    told = [answers.get() for _ in started]
    for process in started:
        process.join()
    return sum(one[0] for one in told), sum(one[1] for one in told), max(one[2] for one in told)


def questions(store: ResultStore) -> dict[str, Callable[[], object]]:
    """What a worker asks while it is at work, and while it waits."""
    left = Remaining(store, None)
    claims = store.claim_first(list(stacks(left.next())), Owner.current(), lease_s=10**6).claims
    keys = [claim.key for claim in claims]

    def claim_and_end() -> None:
        taken = store.claim_first(list(stacks(left.next())), Owner.current()).claims
        store.finish_all(taken, [ENDED] * len(taken))

    return {
        "find, claim and end a stack": claim_and_end,
        "prolong the leases of a stack": lambda: store.heartbeat(claims),
        "ask what the mirror of a stack is behind with": lambda: store.behind(keys),
        "look for the next runs": left.next,
    }


def served(call: Callable[[], object], server: psutil.Process, count: int = 50) -> float:
    """The server's processor seconds for a call."""
    call()
    began = processor_s(server) - time.process_time()
    for _ in range(count):
        call()
    return (processor_s(server) - time.process_time() - began) / count


def run(n: int, claimers: int, seconds: float) -> dict[str, Any]:
    """Fill a database, have it asked by many, then by one."""
    import postgres

    with postgres.server() as running:
        with psycopg.connect(f"{running.url}/postgres", autocommit=True) as connection:
            connection.execute("CREATE DATABASE bench")
        url, server = f"{running.url}/bench", psutil.Process(running.process.pid)
        fill(url, n)
        good, futile, longest = claimed_together(url, claimers, seconds)
        with ResultStore.open(url) as store:
            costs = {name: served(call, server) for name, call in questions(store).items()}
    rows = [
        ["good claims", f"{good:,}"],
        ["claims in vain", f"{futile:,}"],
        ["the longest claim, seconds", f"{longest:.2f}"],
    ]
    asked = [[name, f"{1000 * cost:.2f}"] for name, cost in costs.items()]
    return {
        "rounds": 1,
        "tables": {
            f"{claimers} claimers for {seconds:g} seconds, {n:,} queued runs": timing.table(
                ["what", "count"], rows
            ),
            "The server's processor time for a question": timing.table(
                ["question", "milliseconds"], asked
            ),
        },
        "claims": [
            timing.claim("claims in vain for a good one", futile / max(good, 1), 2, at_most=True)
        ],
        "costs_s": costs,
        "made_on": timing.made_on() | {"load": (psutil.getloadavg()[0],) * 2},
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=1_000_000)
    parser.add_argument("--claimers", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--json", type=Path, default=timing.FIGURES / f"{Path(__file__).stem}.json")
    arguments = parser.parse_args()
    result = run(arguments.runs, arguments.claimers, arguments.seconds)
    for title, shown in result["tables"].items():
        print(f"\n{title}\n\n{shown}")
    timing.keep(result, arguments.json)
