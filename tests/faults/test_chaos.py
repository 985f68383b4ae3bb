"""A random worker dies every few seconds while a sweep is made: nothing is lost, nothing is made
twice, every bit is the same.

BENCH_TESTS=full makes it a sweep of twelve runs of some eight seconds, with a death about every
six, on each kind of database.
"""

from __future__ import annotations

import os
import random
import time

import pytest
from counts import compared
from runs import finished, start
from sweeps import Place, attack, dask_cluster, drainers, faults, states, sweep

from harness.store import ResultStore

FULL = os.environ.get("BENCH_TESTS") == "full"
N_RUNS, STEPS, EVERY_S, MOST = (12, 6_000, 6.0, 10**6) if FULL else (4, 4_000, 6.0, 2)
KINDS = ["drain", "dask"]
DATABASES = ["sqlite", "postgresql"]
PAIRS = (
    [(kind, database) for kind in KINDS for database in DATABASES]
    if FULL
    else [("drain", "postgresql"), ("dask", "sqlite")]
)


@pytest.fixture(scope="module")
def runs():
    return sweep(N_RUNS, STEPS)


@pytest.fixture(scope="module")
def whole(runs, tmp_path_factory):
    """The results where nothing went wrong."""
    place = Place.sqlite(tmp_path_factory.mktemp("whole"))
    with place.store() as store:
        store.enqueue(runs)
    workers = [
        start(place.home, ["--drain"], command="worker", **place.environment) for _ in range(2)
    ]
    for worker in workers:
        _, said = worker.communicate(timeout=1800)
        assert worker.returncode == 0, said
    return states(place)


@pytest.mark.parametrize(("kind", "database"), PAIRS)
def test_workers_die_and_the_sweep_ends_as_if_none_had(
    kind, database, runs, whole, tmp_path, request, record_property
):
    place = Place.sqlite(tmp_path / "home")
    if database == "postgresql":
        place = Place(place.home, request.getfixturevalue("postgres_database")())
    keys, dice = [run.spec.key for run in runs], random.Random(0)
    if kind == "drain":
        with place.store() as store:
            store.enqueue(runs)
        with drainers(place, 2) as alive:
            killed = attack(place, keys, EVERY_S, alive, dice, MOST)
    else:
        with dask_cluster(place, 2) as (address, alive):
            killed = _on_dask(place, address, alive, runs, dice)
    found = faults(place, keys)
    record_property("interruptions", killed)
    record_property("losses", sum(found.values()))
    assert killed > 0
    assert set(found.values()) == {0}
    compared(record_property, states(place), whole)


def _on_dask(place, address, alive, runs, dice) -> int:
    """The same runs through `bench study run --scheduler`."""
    study = place.home / "sweep.yaml"
    lines = [
        "  - "
        f"{{methods: [vb], tasks: [gaussian-2], seeds: 0, protocol: smoke, set: {_settings(run)}}}"
        for run in runs
    ]
    study.write_text("\n".join(["summary: A sweep.", "grids:", *lines, ""]))
    command = ["run", str(study), "--scheduler", address, "--save-every", "0.5", "--json"]
    process = start(place.home, command, command="study", **place.environment)
    while not _asked_for(place, len(runs)):
        assert process.poll() is None, process.communicate()
        time.sleep(0.2)
    killed = attack(place, [run.spec.key for run in runs], EVERY_S, alive, dice, MOST)
    assert len(finished(process)) == len(runs)
    return killed


def _settings(run) -> str:
    spec = run.spec
    return f"{{steps: {spec.steps}, eval_particles: {spec.eval_particles}, lr: {spec.lr!r}}}"


def _asked_for(place, n_runs) -> bool:
    with ResultStore.open(place.url) as store:
        return sum(store.count().values()) == n_runs
