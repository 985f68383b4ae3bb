"""Results that are made anew: they stay until their successors are stored."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path

import bundles
import pytest
from conftest import json_lines
from store_processes import new_run
from stores import KEYS, ME, checkpoint, gone_owner, outcome, stack, store, url  # noqa: F401
from toy_data import idx, put

from harness.base.spec import Status
from harness.base.workspace import Workspace
from harness.datasets.files import KNOWN, DataFile, DataSet
from harness.store import ArtifactFile, Estimate, Progress, ResultStore

pytestmark = pytest.mark.usefixtures("no_mirror")
PLUGINS = Path(__file__).with_name("plugins.py")
MOODY = (
    "run",
    "-m",
    f"{PLUGINS}:Moody",
    "-t",
    "gaussian-2",
    "--protocol",
    "smoke",
    "--set",
    "steps=20",
    "--set",
    "eval_particles=50",
)

# The database


def everything(store, keys):  # noqa: F811
    """All that is on record of these runs, but for what counts how often it was written, as text:
    NaN equals NaN there.
    """
    rows = {
        key: dataclasses.replace(row, fence=0, revision=0, mirrored_revision=0, mlflow_run_id=None)
        for key, row in store.rows(keys).items()
    }
    return {
        key: repr(
            (
                row,
                store.metrics([key]),
                store.curves(key),
                store.checkpoints(key),
                store.artifacts(key),
                store.provenance([key]),
                [(mark.reason, mark.replaced_at) for mark in store.retractions.of(key)],
            )
        )
        for key, row in rows.items()
    }


def make(store, keys, **other):  # noqa: F811
    """Claim runs and end them; returns the files that are no longer on record."""
    claims = store.claim(keys, ME)
    store.begin(claims, stack(*keys), {"cpu": "x"})
    store.save(claims, [Progress(10, 1.0, {"bound": [(10, -1.0)]}, checkpoint(10)) for _ in claims])
    left_behind = {
        "metrics": {"elbo": Estimate(float("-inf"), 0.5)},
        "artifacts": [ArtifactFile("a.png", "sha-a", 3)],
    }
    return store.finish_all(claims, [outcome(**{**left_behind, **other}) for _ in claims])


@pytest.fixture
def made(store):  # noqa: F811
    """Two runs that are done, one of which is withdrawn, and all that is on record of them."""
    make(store, KEYS[:2])
    store.retractions.add(KEYS[:1], "wrong")
    return everything(store, KEYS[:2])


def test_an_earlier_result_goes_when_its_successor_is_stored(store, made):  # noqa: F811
    assert store.reset(KEYS[:2]) == []
    assert (store.metrics(KEYS), store.checkpoints(KEYS[0]), store.retractions.reasons()) == (
        {},
        [],
        {},
    )
    assert [mark.replaced_at for mark in store.retractions.of(KEYS[0])] == [None]
    assert store.earlier.of(KEYS[0])["status"] == "done"
    dropped = make(store, KEYS[:2], metrics={"elbo": Estimate(7.5)})
    assert {(file.edition.key, file.edition.number) for file in dropped} == {
        (key, 1) for key in KEYS[:2]
    }
    assert {file.sha256 for file in dropped} == {"sha-10", "sha-a"}
    assert store.metrics(KEYS[:1])[KEYS[0]]["elbo"].value == 7.5
    assert [file.edition.number for file in store.checkpoints(KEYS[0])] == [2]
    assert store.earlier.keys() == set()
    (mark,) = store.retractions.of(KEYS[0])
    assert mark.replaced_at is not None
    assert mark.result is None
    assert store.retractions.of(KEYS[1]) == []


def test_it_is_put_back_where_the_attempt_fails(store, made):  # noqa: F811
    store.reset(KEYS[:2])
    dropped = make(
        store,
        KEYS[:2],
        status=Status.FAILED,
        reason="no",
        traceback='  File "/a/mine.py", line 3, in f',
        artifacts=[],
    )
    assert {file.edition.number for file in dropped} == {2}
    assert everything(store, KEYS[:2]) == made
    assert store.retractions.reasons() == {KEYS[0]: "wrong"}
    assert [(line.status, line.reason) for line in store.history(KEYS[0])[-2:]] == [
        ("failed", "no (mine.py:3 in f)"),
        ("done", "the earlier result is back in its place"),
    ]
    assert store.earlier.given_up(KEYS) == dict.fromkeys(KEYS[:2], "no (mine.py:3 in f)")
    make(store, KEYS[2:3])
    store.reset(KEYS[:2])
    assert store.earlier.given_up(KEYS) == {}


def test_it_is_put_back_where_the_runs_cannot_be_made(store, made):  # noqa: F811
    store.reset(KEYS[:2])
    claims = store.claim([KEYS[0], KEYS[2]], ME)  # one of them is new
    assert store.earlier.give_up(claims, "a wrong shape") == []
    assert [
        file.edition.key
        for file in store.earlier.give_up(store.claim(KEYS[1:2], ME), "a wrong shape")
    ] == []
    assert everything(store, KEYS[:2]) == made
    assert store.earlier.given_up(KEYS) == dict.fromkeys(KEYS[:2], "a wrong shape")
    assert (store.rows(KEYS)[KEYS[2]].status, store.history(KEYS[2])[-1].reason) == (
        "queued",
        "a wrong shape",
    )


def test_only_what_was_given_up_before_a_step_is_taken_back(store):  # noqa: F811
    (claim,) = store.claim(KEYS[:1], ME)
    store.save([claim], [Progress(10, 1.0, {}, checkpoint(10))])
    store.earlier.give_up([claim], "no")
    store.earlier.give_up(store.claim(KEYS[1:2], ME), "no")
    store.claim(KEYS[2:3], ME)
    store.earlier.take_back(KEYS[:4])
    assert list(store.rows(KEYS[:4])) == [KEYS[0], KEYS[2], KEYS[3]]


def test_it_is_put_back_where_its_processes_die_or_it_is_pruned(store, made):  # noqa: F811
    store.reset(KEYS[:2])
    for _ in range(3):
        store.claim(KEYS[:1], gone_owner())
    assert store.claim(KEYS[:1], ME) == []
    store.prune(KEYS[1:2], "hopeless")
    assert everything(store, KEYS[:2]) == made
    assert store.earlier.given_up(KEYS) == {KEYS[0]: "crashed", KEYS[1]: "hopeless"}


def test_the_first_of_several_waits_and_never_what_is_half_made(store, made):  # noqa: F811
    store.reset(KEYS[:2])
    (claim,) = store.claim(KEYS[:1], ME)
    store.save([claim], [Progress(500, 1.0, {"bound": [(500, -2.0)]}, checkpoint(500))])
    store.release([claim], Status.INTERRUPTED, "ctrl-c")
    assert [(file.step, file.edition.number) for file in store.reset(KEYS[:2])] == [(500, 2)]
    assert [row["edition"] for row in map(store.earlier.of, KEYS[:2])] == [1, 1]
    make(store, KEYS[:2], status=Status.FAILED)
    assert everything(store, KEYS[:2]) == made


@pytest.mark.parametrize(
    ("before", "after", "kept"),
    [
        ("failed", "failed", False),
        ("failed", "diverged", False),
        ("diverged", "failed", True),
        ("done", "diverged", False),
    ],
)
def test_a_failure_takes_the_place_of_a_failure_only(store, before, after, kept):  # noqa: F811
    make(store, KEYS[:1], status=Status(before), reason="before")
    store.reset(KEYS[:1])
    make(store, KEYS[:1], status=Status(after), reason="after")
    assert store.rows(KEYS[:1])[KEYS[0]].reason == ("before" if kept else "after")
    assert store.earlier.of(KEYS[0]) is None


def test_half_a_stack_has_earlier_results(store, made):  # noqa: F811
    store.reset(KEYS[:1])
    claims = store.claim([KEYS[0], KEYS[5]], ME)
    store.begin(claims, stack(KEYS[0], KEYS[5]), {})
    store.finish_all(claims, [outcome(Status.FAILED, "no")] * 2)
    assert everything(store, KEYS[:2]) == made
    assert store.rows(KEYS)[KEYS[5]].status == "failed"
    assert store.earlier.given_up(KEYS) == {KEYS[0]: "no"}


def test_a_run_is_removed_with_its_earlier_result(store, made):  # noqa: F811
    store.reset(KEYS[:1])
    assert {file.sha256 for file in store.delete(KEYS[:1])} == {"sha-10", "sha-a"}
    store.enqueue([new_run(0)])
    assert store.earlier.of(KEYS[0]) is None


@pytest.mark.parametrize(
    ("status", "what"), [(Status.DONE, "replaced an unfinished run"), (Status.FAILED, "conflict")]
)
def test_a_bundle_is_a_successor_where_it_is_no_failure(goal, here, tmp_path, status, what):
    (key,) = bundles.fill(goal, [0])
    with ResultStore.open(goal.database_url) as store:  # noqa: F811
        store.reset([key])
        bundles.export(here, tmp_path / "x.bench", bundles.fill(here, [0], status=status))
        adoption = bundles.take(goal, tmp_path / "x.bench")[key]
        assert adoption.what == what
        assert (store.earlier.of(key) is None) == (status == Status.DONE)
        assert len(store.checkpoints(key)) == (status == Status.DONE)
    assert len(bundles.files(goal)) == 2


goal, here = bundles.goal, bundles.here

# The command line


def stored(keys):
    """All that is on record of these runs, and the files of the workspace with their bytes."""
    workspace = Workspace.current()
    with ResultStore.open(workspace.database_url) as store:  # noqa: F811
        return everything(store, keys), bundles.files(workspace)


def faults_of_files(bench):
    """What doctor finds; nothing is mirrored here."""
    return [fault for fault in json_lines(bench("doctor", "--json")) if fault["kind"] != "mirror"]


@pytest.mark.parametrize("how", [(), ("--workers", "2")], ids=["here", "workers"])
@pytest.mark.parametrize("wrong", ["breaks", "raises"])
def test_what_cannot_be_made_anew_stays(bench, monkeypatch, wrong, how):
    command = (*MOODY, "--seeds", "0-11")
    keys = [run["key"] for run in json_lines(bench(*command, "--json"))]
    before = stored(keys)
    monkeypatch.setenv("MOOD", wrong)
    again = bench(*command, "--rerun", *how)
    assert again.exit_code == 3
    assert stored(keys) == before
    assert "12 reruns failed: the earlier results stay as they were" in again.stderr
    if wrong == "raises":
        assert (
            again.stdout.count(
                "rerun failed, done as before: ArithmeticError: the sky fell (plugins.py:"
            )
            == 5
        )
    assert (
        "the sky fell (plugins.py:" in (shown := bench("show", keys[0]).stdout)
        or "log_w of shape" in shown
    )
    hit = bench(*command, "--json")
    assert (hit.exit_code, {run["outcome"] for run in json_lines(hit)}) == (0, {"hit"})
    assert faults_of_files(bench) == []


def test_a_worker_that_cannot_make_it_anew_leaves_it(bench, monkeypatch):
    keys = [run["key"] for run in json_lines(bench(*MOODY, "--seeds", "0-1", "--json"))]
    before = stored(keys)
    assert bench(*MOODY, "--seeds", "0-1", "--rerun", "--queue").exit_code == 0
    assert (
        "done at step 20; that result is kept until the new one is stored"
        in bench("show", keys[0]).stdout
    )
    assert json_lines(bench("show", keys[0], "--json"))[0]["earlier_result"]["status"] == "done"
    assert "2 being rerun: their earlier results are kept until then" in bench("compare").stderr
    assert faults_of_files(bench) == []
    monkeypatch.setenv("MOOD", "raises")
    worked = bench("worker", "--drain", "--allow-plugins")
    assert (worked.exit_code, "Ended 2 runs, 0 of them done." in worked.stderr) == (3, True)
    assert stored(keys) == before


def test_what_is_made_anew_leaves_no_file_of_what_it_had(bench):
    (run,) = json_lines(bench(*MOODY, "--json"))
    files = stored([run["key"]])[1]
    (again,) = json_lines(bench(*MOODY, "--rerun", "--json"))
    assert (again["outcome"], again["metrics"]) == ("ran", run["metrics"])
    now = stored([run["key"]])[1]
    assert len(now) == len(files) == 1
    assert now.keys() != files.keys()
    assert set(now.values()) == set(files.values())
    assert bench("rm", run["key"], "--yes").exit_code == 0
    assert bundles.files(Workspace.current()) == {}


def test_another_command_s_run_is_queued_again_and_never_removed(bench, monkeypatch):
    bench(*MOODY, "--queue")
    monkeypatch.setenv("MOOD", "breaks")
    for command, status in ((MOODY, 1), (("worker", "--drain", "--allow-plugins"), 3)):
        assert bench(*command).exit_code == status
        (run,) = json_lines(bench("list", "runs", "--json"))
        assert run["status"] == "queued"
    assert bench(*MOODY, "--seeds", "0-11").exit_code == 3
    assert len(json_lines(bench("list", "runs", "--json"))) == 1


@pytest.fixture
def images(workspace, monkeypatch):
    """A small data set in the place of MNIST's."""
    content = {
        name: idx(grey(n))
        for name, n in (("train-images-idx3-ubyte", 260), ("t10k-images-idx3-ubyte", 20))
    }
    files = tuple(
        DataFile("mnist", name, len(data), hashlib.sha256(data).hexdigest())
        for name, data in content.items()
    )
    monkeypatch.setitem(KNOWN, "mnist", DataSet("mnist", "MNIST", files, ("http://127.0.0.1:9/",)))
    put(workspace / "elsewhere" / "mnist", content)
    monkeypatch.setenv("BENCH_DATA", str(workspace / "elsewhere"))
    sizes = {"steps": 3, "task.n_train": 200, "task.n_validation": 40, "task.n_test": 20}
    return (
        "run",
        "-m",
        "vb",
        "-t",
        "mnist",
        "--protocol",
        "smoke",
        *(f"--set={name}={value}" for name, value in sizes.items()),
    )


def grey(n):
    """Grey images."""
    import numpy as np

    return np.random.default_rng(n).integers(0, 256, (n, 28, 28))


def test_a_withdrawn_result_stays_where_the_data_are_not_found(bench, images, monkeypatch):
    (run,) = json_lines(bench(*images, "--json"))
    assert bench("invalidate", run["key"], "--reason", "wrong").exit_code == 0
    before, files = stored([run["key"]])
    assert {Path(path).suffix for path in files} == {".png", ".safetensors"}
    monkeypatch.delenv("BENCH_DATA")
    again = bench(*images)
    assert again.exit_code == 2
    assert "is missing: looked in" in again.stderr
    assert "kept beside" not in again.stderr
    assert stored([run["key"]]) == (before, files)
    assert "done, retracted" in bench("list", "runs").stdout
    history = [
        line["reason"] for line in json_lines(bench("show", run["key"], "--json"))[0]["history"]
    ]
    assert history[-1] == "the earlier result is back in its place"
    assert "is missing: looked in" in history[-2]
    monkeypatch.setenv("BENCH_DATA", str(Path("elsewhere").resolve()))
    (made,) = json_lines(bench(*images, "--json"))
    assert (made["status"], made["metrics"]) == ("done", run["metrics"])
    assert ", run again " in bench("show", run["key"]).stdout
