"""What the tests of the result database do in processes of their own."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from dataclasses import replace
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, event

from harness.base.spec import Description, NewRun, RunSpec
from harness.store import Owner, ResultStore
from harness.store.create import create_file


def spec(seed: int = 0, **other: Any) -> RunSpec:
    """A small valid specification."""
    fields = {
        "method_version": 1,
        "method_fields": {"n_leapfrog": 10},
        "task_version": 1,
        "task_fields": {"dim": 25},
        "steps": 1000,
        "lr": 0.01,
    }
    return RunSpec(**{"method": "hvae", "task": "gaussian", "seed": seed, **fields, **other})


def new_run(seed: int = 0, **other: Any) -> NewRun:
    """The same as something to enqueue."""
    return NewRun(
        spec(seed, **other),
        "gaussian-25",
        {"n_leapfrog": 10},
        "source",
        "standard",
        Description(method="hvae", stacks=True),
    )


def open_together(url: str, barrier: Barrier, seed: int) -> str:
    """Open a database at the same moment as the others do, and write into it."""
    barrier.wait()
    with ResultStore.open(url) as store:
        store.enqueue([new_run(seed)])
    return "opened"


def claim_together(url: str, barrier: Barrier, keys: list[str]) -> list[tuple[str, int]]:
    """Claim what is free, in batches and in an order of this process's own, until nothing is."""
    owner = replace(
        Owner.current(), host="another-host"
    )  # whose end nobody sees, so that what it took stays taken
    shift = os.getpid() % len(keys)
    order = keys[shift:] + keys[:shift]
    taken: list[tuple[str, int]] = []
    with ResultStore.open(url) as store:
        barrier.wait()
        for start in range(0, len(order), 3):
            taken += [
                (claim.key, claim.fence) for claim in store.claim(order[start : start + 3], owner)
            ]
    return taken


def enqueue_together(url: str, barrier: Barrier, seeds: list[int]) -> str:
    """Enqueue the same runs as the others, at the same moment."""
    with ResultStore.open(url) as store:
        barrier.wait()
        store.enqueue([new_run(seed) for seed in seeds])
    return "enqueued"


def claim_and_stay(url: str, keys: list[str], report: Any) -> None:
    """Claim runs and hold them until killed."""
    with ResultStore.open(url) as store:
        report.put([claim.key for claim in store.claim(keys, Owner.current())])
    signal.pause()


def claim_and_wait(url: str, keys: list[str]) -> None:
    """Claim runs, print which, and hold them until killed."""
    with ResultStore.open(url) as store:
        print(*[claim.key for claim in store.claim(keys, Owner.current())], flush=True)
        signal.pause()


def build_and_wait(file: str) -> None:
    """Begin to build a file, print the name of its part, and be at it until killed."""

    def build(part: Path) -> None:
        part.touch()
        print(part.name, flush=True)
        signal.pause()

    create_file(Path(file), build)


def open_alone(url: str, seed: int) -> None:
    """Open a database, write into it and say so."""
    with ResultStore.open(url) as store:
        store.enqueue([new_run(seed)])
    print("opened", flush=True)


def die_at_statement(
    url: str, number: int, work: Callable[[str], object] = ResultStore.open
) -> None:
    """Open a database, or do something else to it, and be killed before the n-th statement."""
    seen = 0

    def count(*_: Any) -> None:
        nonlocal seen
        seen += 1
        if seen == number:
            die()

    event.listen(Engine, "before_cursor_execute", count)
    work(url)


def die_at_call(url: str, name: str, after: bool) -> None:
    """Open a database and be killed at a system call: before it, or after it."""
    real: Callable[..., Any] = getattr(os, name)

    def dying(*arguments: Any, **named: Any) -> None:
        if after:
            real(*arguments, **named)
        die()

    setattr(os, name, dying)
    ResultStore.open(url)


def die() -> None:
    """End at once, as by kill -9."""
    os.kill(os.getpid(), signal.SIGKILL)


def collect(answers: Any, work: Callable[..., Any], *arguments: Any) -> None:
    """Run `work` and hand over what it returned, or the error."""
    try:
        answers.put(work(*arguments))
    except Exception as error:  # noqa: BLE001  whatever it is, the test has to see it
        answers.put(error)
