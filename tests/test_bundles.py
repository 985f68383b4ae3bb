"""Runs out of one workspace and into another: whole, to the bit, and never over what is there."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import math
import stat
import subprocess
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import filled_store
import pytest
import torch
from click.testing import CliRunner
from conftest import json_lines
from runs import mirrored, opened, prepared, start, state
from safetensors.torch import save

import harness.bundle
from harness.bundle import read_in, write
from harness.bundle.lines import decode_line, encode_line
from harness.bundle.moving import _entry
from harness.cli import main
from harness.errors import LeaseLost, UsageError
from harness.spec import Status, canonical_json
from harness.store import ArtifactFile, CheckpointFile, Metric, Owner, ResultStore, Saved
from harness.workspace import Workspace

FAULTY = str(Path(__file__).with_name("faulty"))
SMOKE = ("run", "-m", "vb", "-t", "gaussian-2", "--protocol", "smoke", "--seeds", "0-1", "--json")
ODD = {
    "elbo": Metric(math.nan, math.inf),
    "elbo_gap": Metric(-math.inf),
    "zero": Metric(-0.0),
    "tiny": Metric(5e-324, 0.1 + 0.2),
    "huge": Metric(1.7976931348623157e308),
}
CURVE = {"bound": [(1, math.nan), (2, -math.inf), (3, 0.1), (2**62, -0.0)]}


@pytest.fixture(autouse=True)
def _no_mirror(monkeypatch, request):
    """Most of these tests are not about MLflow."""
    if "mirror" not in request.keywords:
        monkeypatch.setattr("harness.cli.transfer._mirror", lambda *unused: None)
        monkeypatch.setattr("harness.tracking.Mirror.start", lambda *unused: contextlib.nullcontext(Silent()))


class Silent:
    """A mirror that has nothing to do."""

    error = None

    def finish(self):
        return []


def tensors(run, step=20_000, **other):
    """The bytes of a checkpoint of the run of this spec."""
    meta = canonical_json({"format": 1, "key": run.key, "spec": run.plain(), "step": step, **other})
    return save({"params.task.x": torch.full((3,), float(run.seed))}, metadata={"bench": meta})


def end(workspace, store, claim, status=Status.DONE, content=None, picture=None, **other):
    """End a run with a checkpoint and a picture that are what the record says."""
    spec = filled_store.spec(claim.seed)
    content = tensors(spec) if content is None else content
    picture = b"picture of " + claim.key.encode() if picture is None else picture
    paths = (f"checkpoints/{claim.key}/step-000020000.safetensors", f"pictures/{claim.key}/samples.png")
    files = {
        "checkpoint": CheckpointFile("final", 20_000, paths[0], hashlib.sha256(content).hexdigest(), len(content)),
        "artifacts": [ArtifactFile("samples.png", paths[1], hashlib.sha256(picture).hexdigest(), len(picture))],
    }
    filled_store.finish(workspace, store, claim, status, **{**files, **other})
    for path, value in zip(paths, (content, picture), strict=True):
        filled_store.write_file(workspace, path, value)


def fill(workspace, seeds=(0, 1, 2), **other):
    """Finished runs in a workspace; returns their keys by seed."""
    with ResultStore.open(workspace.database_url) as store:
        claims = filled_store.start(store, seeds)
        for claim in claims:
            end(workspace, store, claim, **other)
    return [claim.key for claim in claims]


def export(workspace, target, keys):
    """Write a bundle of these runs."""
    with ResultStore.open(workspace.database_url) as store:
        return list(write(target, workspace.home, store.results(sorted(keys))))


def take(workspace, source):
    """Take a bundle in; returns what became of each run, by key."""
    with harness.bundle.opened(source) as bundle:
        keys = list(bundle.check())
        assert len(keys) == bundle.count
        with ResultStore.open(workspace.database_url) as store:
            return {adoption.key: adoption for adoption in read_in(workspace, store, bundle)}


def told(workspace, keys, history=False):
    """All that is on record of these runs, as text: NaN equals NaN there, and -0.0 is not 0.0."""
    with ResultStore.open(workspace.database_url) as store:
        found = store.results(sorted(keys))
    return [encode_line(result if history else dataclasses.replace(result, history=[])) for result in found]


def files(workspace):
    """The files of a workspace that are no database, with their bytes."""
    found = (path for folder in ("checkpoints", "pictures") for path in (workspace.home / folder).rglob("*"))
    return {str(path.relative_to(workspace.home)): path.read_bytes() for path in found if path.is_file()}


@pytest.fixture
def here(tmp_path):
    """A workspace that results come from."""
    return filled_store.workspace_in(tmp_path / "here")


@pytest.fixture
def there(tmp_path):
    """An empty workspace that results go to."""
    return filled_store.workspace_in(tmp_path / "there")


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A workspace with three runs, and their bundle."""
    folder = tmp_path_factory.mktemp("source")
    workspace = filled_store.workspace_in(folder / "source")
    export(workspace, folder / "three.bench", fill(workspace))
    return workspace, (folder / "three.bench").read_bytes()


@pytest.fixture
def bundle(source, tmp_path):
    """A bundle of three runs."""
    (tmp_path / "three.bench").write_bytes(source[1])
    return tmp_path / "three.bench"


@pytest.fixture(params=["sqlite", "postgresql"])
def goal(request, tmp_path):
    """An empty workspace on each kind of database."""
    kind = {} if request.param == "sqlite" else {"BENCH_DATABASE_URL": request.getfixturevalue("postgres_database")()}
    return filled_store.workspace_in(tmp_path / "goal", **kind)


def cli(workspace, *arguments):
    """The command line in a workspace."""
    environment = {"BENCH_HOME": str(workspace.home), "BENCH_DATABASE_URL": workspace.environment.get("BENCH_DATABASE_URL")}
    result = CliRunner().invoke(main, [str(argument) for argument in arguments], env=environment)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def test_the_public_names_are_these():
    assert sorted(harness.bundle.__all__) == ["Bundle", "opened", "read_in", "write"]


# Whole and to the bit


@pytest.mark.parametrize(("first", "second"), [("sqlite", "postgresql"), ("postgresql", "sqlite"), ("sqlite", "sqlite")])
def test_everything_on_record_arrives_to_the_bit(first, second, tmp_path, request):
    spaces = []
    for name, kind in (("a", first), ("b", second)):
        url = {} if kind == "sqlite" else {"BENCH_DATABASE_URL": request.getfixturevalue("postgres_database")()}
        spaces.append(filled_store.workspace_in(tmp_path / name, **url))
    keys = fill(spaces[0], metrics=ODD, curves=CURVE)
    keys += fill(spaces[0], [3], status=Status.DIVERGED, metrics={}, artifacts=[])
    keys += fill(spaces[0], [4], status=Status.FAILED, metrics={}, curves={}, checkpoint=None, artifacts=[])
    export(spaces[0], tmp_path / "x.bench", keys)
    taken = take(spaces[1], tmp_path / "x.bench")
    assert {key: adoption.what for key, adoption in taken.items()} == dict.fromkeys(sorted(keys), "added")
    here, there = ([line.replace(b":-0.0", b":0.0") for line in told(space, keys)] for space in spaces)  # SQLite has no -0.0
    assert there == here
    assert {adoption.what for adoption in take(spaces[1], tmp_path / "x.bench").values()} == {"same"}
    assert {path: value for path, value in files(spaces[0]).items() if path in files(spaces[1])} == files(spaces[1])
    assert len(files(spaces[1])) == 4 + 3
    with ResultStore.open(spaces[0].database_url) as a, ResultStore.open(spaces[1].database_url) as b:
        for key in keys:
            *before, imported = b.history(key)
            assert before == a.history(key)
            assert (imported.status, imported.step) == (before[-1].status, before[-1].step)
            assert imported.reason == f"imported; made by {Owner.current()}"
            assert str(tmp_path) not in imported.reason
        assert {row.key for row in b.unmirrored()} == set(keys)
        assert b.rows(keys)[keys[0]].created_at == a.rows(keys)[keys[0]].created_at


def test_the_same_runs_give_the_same_bytes(here, tmp_path):
    keys = fill(here, range(5))
    for name, chosen in (("a", keys), ("b", keys[::-1])):
        export(here, tmp_path / name, chosen)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    with zipfile.ZipFile(tmp_path / "a") as archive:
        entries = archive.infolist()
        assert json.loads(archive.read("bundle.json")) == {"format": 1, "bench": harness.__version__, "count": 5}
    assert {(entry.compress_type, entry.date_time) for entry in entries} == {(zipfile.ZIP_STORED, (1980, 1, 1, 0, 0, 0))}
    names = [entry.filename for entry in entries]
    assert names == ["bundle.json", "runs.jsonl", *sorted(names[2:])]
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["a", "b", "here"]


def test_no_path_of_the_workspace_is_in_a_bundle(source, bundle):
    assert str(source[0].home).encode() not in bundle.read_bytes()
    assert b"checkpoints/" not in bundle.read_bytes()


def test_a_second_import_changes_nothing(there, bundle):
    take(there, bundle)
    with ResultStore.open(there.database_url) as store:
        before = {row.key: row for row in store.find("")}
    assert {adoption.what for adoption in take(there, bundle).values()} == {"same"}
    with ResultStore.open(there.database_url) as store:
        assert {row.key: row for row in store.find("")} == before


def test_nan_equals_nan_and_each_bit_counts(here, there, tmp_path):
    keys = fill(here, [0], metrics=ODD)
    export(here, tmp_path / "x.bench", keys)
    fill(there, [0], metrics=ODD)
    assert take(there, tmp_path / "x.bench")[keys[0]].what == "same"


@pytest.mark.parametrize(
    ("other", "says"),
    [
        ({"metrics": {**ODD, "zero": Metric(5e-324)}}, "zero 5e-324 here, 0.0 there"),
        ({"metrics": {**ODD, "tiny": Metric(5e-324, 0.3)}}, "tiny 5e-324 ± 0.3 here, 5e-324 ± 0.30000000000000004 there"),
        ({"metrics": {**ODD, "elbo": Metric(1.0, math.inf)}}, "elbo 1.0 ± inf here, nan ± inf there"),
        ({"metrics": {}}, "elbo missing here, nan ± inf there"),
        ({"curves": {"bound": [*CURVE["bound"][:3], (2**62, 0.0)]}}, "the curve bound"),
        ({"curves": {**CURVE, "grad_norm": [(1, 1.0)]}}, "the curve grad_norm"),
        ({"content": tensors(filled_store.spec(0), extra=1)}, "the checkpoint"),
        ({"status": Status.DIVERGED}, "status diverged here, done there"),
    ],
)
def test_other_numbers_are_a_conflict_and_kept_out(other, says, here, there, tmp_path):
    odd = {"metrics": ODD, "curves": CURVE}
    (key,) = fill(here, [0], **odd)
    export(here, tmp_path / "x.bench", [key])
    fill(there, [0], **{**odd, **other})
    before, kept = told(there, [key], history=True), files(there)
    adoption = take(there, tmp_path / "x.bench")[key]
    assert adoption.what == "conflict"
    assert says in adoption.why
    assert (told(there, [key], history=True), files(there)) == (before, kept)


# What is unfinished where a bundle arrives


def test_an_unfinished_run_takes_the_result_and_one_at_work_is_left_alone(goal, here, tmp_path):
    keys = fill(here, range(5))
    export(here, tmp_path / "x.bench", keys)
    queued, interrupted, timeout, abandoned, held = keys
    with ResultStore.open(goal.database_url) as store:
        store.enqueue([filled_store.new_run(seed) for seed in range(5)])
        [left] = store.claim([interrupted], Owner.current())
        old = CheckpointFile("last", 100, f"checkpoints/{interrupted}/step-000000100.safetensors", "sha", 3)
        filled_store.write_file(goal, old.path, b"old")
        store.save([left], [Saved(100, 1.0, {"bound": [(100, 1.0)], "gone": [(100, 1.0)]}, old)])
        store.release([left], Status.INTERRUPTED, "for a test")
        store.release(store.claim([timeout], Owner.current()), Status.TIMEOUT, "for a test")
        [stale] = store.claim([abandoned], gone_owner())
        [alive] = store.claim([held], Owner.current())
    taken = take(goal, tmp_path / "x.bench")
    assert [taken[key].what for key in keys] == ["replaced an unfinished run"] * 4 + ["held"]
    assert taken[held].why == [f"{Owner.current()} is at work on it"]
    ended = [queued, interrupted, timeout, abandoned]
    assert told(goal, ended) == told(here, ended)
    assert set(files(goal)) == {path for path in files(here) if held not in path}
    with ResultStore.open(goal.database_url) as store:
        assert store.rows([held])[held].status == Status.RUNNING
        store.heartbeat([alive])
        with pytest.raises(LeaseLost):
            store.save([stale], [Saved(5, 1.0)])
        assert [file.role for file in store.checkpoints(interrupted)] == ["final"]
        changes = [line.status for line in store.history(interrupted)]
        assert changes == ["queued", "running", "interrupted", "queued", "running", "done", "done"]


def test_two_imports_at_once_add_each_run_once(goal, bundle):
    ResultStore.open(goal.database_url).close()
    with ThreadPoolExecutor(2) as pool:
        both = list(pool.map(lambda _: take(goal, bundle), range(2)))
    for key in both[0]:
        assert sorted(taken[key].what for taken in both) == ["added", "same"]
    assert len(files(goal)) == 6


def gone_owner():
    """A process of this host that has ended."""
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    return dataclasses.replace(Owner.current(), pid=child.pid, process_start=1)


def test_a_file_that_cannot_be_written_leaves_no_row(there, bundle):
    (there.home / "checkpoints").write_text("no folder")
    result = cli(there, "import", bundle)
    assert (result.exit_code, result.stdout) == (1, "")
    assert "Cannot write the checkpoint" in result.stderr
    with ResultStore.open(there.database_url) as store:
        assert store.count() == {}


@pytest.mark.mirror
def test_killed_at_any_moment_the_same_import_goes_on(source, bundle, tmp_path):
    home = prepared(tmp_path / "home")
    places = ("fsync:checkpoints/.*tmp:1", "-replace:pictures/.*png:2")
    for number, place in enumerate(places):
        fault = {"PATH_FIRST": FAULTY, "FAULT": place, "FAULT_MARK": str(tmp_path / f"fault-{number}")}
        killed = start(home, [str(bundle), "--json"], command="import", **fault)
        killed.communicate(timeout=300)
        assert killed.returncode == -9
        with opened(home) as store:
            assert all(store.checkpoints(row.key) for row in store.find(""))
            assert sum(store.count().values()) == number
    kinds = {line["kind"] for line in json_lines(cli(Workspace(home), "doctor", "--json"))}
    assert kinds == {"orphan file", "mirror"}
    process = start(home, [str(bundle), "--json"], command="import")
    out, said = process.communicate(timeout=300)
    assert (process.returncode, said) == (0, "")
    assert [json.loads(line)["outcome"] for line in out.splitlines()] == ["same", "added", "added"]
    assert told(Workspace(home), state(home)) == told(source[0], state(home))
    assert list(mirrored(home).values()) == [["FINISHED"]] * 3
    assert cli(Workspace(home), "doctor", "--repair").exit_code == 0
    assert set(files(Workspace(home))) == set(files(source[0]))


# The commands


def test_runs_that_were_trained_are_hits_in_another_workspace(here, there, tmp_path):
    made = json_lines(cli(here, *SMOKE))
    result = cli(here, "export", "--bundle", tmp_path / "x.bench", "--json")
    assert [(line["outcome"], line["missing"]) for line in json_lines(result)] == [("exported", [])] * 2
    assert [line["outcome"] for line in json_lines(cli(there, "import", tmp_path / "x.bench", "--json"))] == ["added"] * 2
    again = json_lines(cli(there, *SMOKE))
    assert again == [{**run, "outcome": "hit"} for run in made]
    assert [run["status"] for run in again] == ["done", "done"]
    assert {line["kind"] for line in json_lines(cli(there, "doctor", "--json"))} <= {"mirror"}


def test_runs_are_chosen_by_key_method_and_task(here, tmp_path):
    keys = fill(here)
    with ResultStore.open(here.database_url) as store:
        store.enqueue([filled_store.new_run(7)])
    chosen = {
        "one": (keys[1][:6],),
        "method": ("-m", "hvae", "-t", "gaussian-2"),
        "variant": ("-m", "hvae-untempered"),
        "all": (),
    }
    found = {name: json_lines(cli(here, "export", "--bundle", tmp_path / name, "--json", *picked)) for name, picked in chosen.items()}
    assert {name: [line["key"] for line in lines] for name, lines in found.items()} == {
        "one": [keys[1]],
        "method": sorted(keys),
        "variant": sorted(keys),
        "all": sorted(keys),
    }
    words = cli(here, "export", "--bundle", tmp_path / "words")
    assert words.stdout == f"Wrote 3 runs to {tmp_path / 'words'} ({(tmp_path / 'all').stat().st_size:,} bytes).\n"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((), "bench export --bundle FILE"),
        (("--bundle", "OLD"), "exists already"),
        (("--bundle", "NEW", "-m", "iaf"), "no finished run to export"),
        (("--bundle", "NEW", "-t", "gaussian-3"), "no finished run to export"),
        (("--bundle", "NEW", "ffffffffffffffff"), "No run named 'ffffffffffffffff'"),
        (("--bundle", "NEW", ""), "No run of that key alone"),
        (("--bundle", "NEW", "QUEUED"), "is queued. Only finished runs"),
        (("--bundle", "nowhere/NEW"), "Cannot write"),
    ],
)
def test_an_export_that_cannot_be_made_is_one_line_and_no_file(arguments, says, here, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fill(here)
    with ResultStore.open(here.database_url) as store:
        store.enqueue([filled_store.new_run(7)])
    Path("OLD").write_text("mine")
    result = cli(here, "export", *(filled_store.spec(7).key if word == "QUEUED" else word for word in arguments))
    assert result.exit_code == (1 if "Cannot write" in says else 2)
    assert says in result.stderr
    assert (len(result.stderr.splitlines()), result.stdout) == (1, "")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["OLD", "here"]
    assert Path("OLD").read_text() == "mine"


def test_an_empty_workspace_has_nothing_to_export(there, tmp_path):
    result = cli(there, "export", "--bundle", tmp_path / "x.bench")
    assert (result.exit_code, len(result.stderr.splitlines())) == (2, 1)
    assert list(there.home.iterdir()) == []


def test_a_run_without_its_checkpoint_goes_with_its_numbers(here, there, tmp_path):
    gone, damaged, good = fill(here)
    (here.home / f"checkpoints/{gone}/step-000020000.safetensors").unlink()
    (here.home / f"pictures/{damaged}/samples.png").write_bytes(b"damaged")
    result = cli(here, "export", "--bundle", tmp_path / "x.bench", "--json")
    missing = {line["key"]: line["missing"] for line in json_lines(result)}
    assert missing == {
        gone: [f"checkpoints/{gone}/step-000020000.safetensors"],
        damaged: [f"pictures/{damaged}/samples.png"],
        good: [],
    }
    assert result.stderr == "2 runs went without files that are missing or damaged here. See: bench doctor.\n"
    assert {adoption.what for adoption in take(there, tmp_path / "x.bench").values()} == {"added"}
    with ResultStore.open(there.database_url) as store:
        assert [len(store.checkpoints(key)) for key in (gone, damaged, good)] == [0, 1, 1]
        assert [len(store.artifacts(key)) for key in (gone, damaged, good)] == [1, 0, 1]
    assert {adoption.what for adoption in take(here, tmp_path / "x.bench").values()} == {"same"}


def test_a_conflict_is_one_line_a_run_and_exit_status_3(there, bundle):
    keys = fill(
        there, [0], metrics={**filled_store.METRICS, "elbo": Metric(-1.5), "elbo_gap": Metric(1.0), "pareto_k": Metric(2.0)}, curves={}
    )
    result = cli(there, "import", bundle)
    assert result.exit_code == 3
    assert result.stdout.splitlines() == [
        f"conflict: run {keys[0]}: elbo -1.5 here, -1234.5678901234567 ± 0.25 there; elbo_gap 1.0 here, 0.30000000000000004 there; "
        "pareto_k 2.0 here, 0.3 there; and 2 more",
        "3 runs: 2 added, 1 in conflict.",
    ]
    again = json_lines(cli(there, "import", bundle, "--json"))
    assert sorted(line["outcome"] for line in again) == ["conflict", "same", "same"]
    assert next(line for line in again if line["outcome"] == "conflict")["why"][-1] == "the curve grad_norm"
    assert cli(there, "rm", keys[0], "--yes").exit_code == 0
    assert cli(there, "import", bundle).exit_code == 0


@pytest.mark.mirror
def test_a_mirror_that_fails_does_not_fail_the_import(there, bundle, monkeypatch):
    def refuse(*unused):
        raise OSError("no processes left")

    monkeypatch.setattr("harness.tracking.process.spawn", refuse)
    result = cli(there, "import", bundle)
    assert (result.exit_code, result.stdout) == (0, "3 runs: 3 added.\n")
    assert "does not show 3 of these runs yet (OSError: no processes left)" in result.stderr


# Bundles that are none


def parts(path):
    """A bundle's entries, by name."""
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def pack(target, entries, **archive_options):
    """An archive of names, or entries, and their bytes."""
    with zipfile.ZipFile(target, "w", **archive_options) as archive:
        for name, value in entries:
            archive.writestr(_entry(name) if isinstance(name, str) and not archive_options else name, value)


def edited(path, **changes):
    """Change fields of the first run of a bundle, and write it as one writes bundles."""
    entries = parts(path)
    first, *others = entries["runs.jsonl"].splitlines()
    values = json.loads(first)
    for name, value in changes.items():
        values[name] = value(values[name]) if callable(value) else value
    lines = [canonical_json(values).encode(), *others]
    repack(path, {**entries, "runs.jsonl": b"".join(line + b"\n" for line in lines)})


def repack(path, entries):
    """Write these entries in place of a bundle."""
    pack(path, entries.items())


def raw(path, change):
    """Change the first line of the runs as bytes."""
    entries = parts(path)
    first, rest = entries["runs.jsonl"].split(b"\n", 1)
    repack(path, {**entries, "runs.jsonl": change(first) + b"\n" + rest})


def refused(workspace, path, says=""):
    """Make sure that a bundle is refused in one line and leaves nothing."""
    before = sorted(workspace.home.rglob("*"))
    result = cli(workspace, "import", path)
    assert (result.exit_code, result.stdout) == (2, ""), result.output
    assert len(result.stderr.splitlines()) == 1
    assert len(result.stderr) < 600
    assert says in result.stderr, result.stderr
    assert sorted(workspace.home.rglob("*")) == before
    return result.stderr


def linked(name):
    """An entry that is a symbolic link."""
    entry = _entry(name)
    entry.external_attr = (stat.S_IFLNK | 0o777) << 16
    return entry


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("../evil", "not the name of anything in a bundle"),
        ("/etc/passwd", "not the name of anything in a bundle"),
        ("files/../../evil", "not the name of anything in a bundle"),
        ("files/" + "A" * 64, "not the name of anything in a bundle"),
        ("files/" + "a" * 63, "not the name of anything in a bundle"),
        ("checkpoints/x", "not the name of anything in a bundle"),
        ("files/" + "f" * 64 + "/", "not the name of anything in a bundle"),
        (linked("files/" + "f" * 64), "is a link"),
        ("files/" + "f" * 64, "belong to none of its runs"),
    ],
)
def test_names_that_no_bundle_has_are_refused(name, says, there, bundle):
    pack(bundle, [*parts(bundle).items(), (name, b"evil")])
    refused(there, bundle, says)


def test_entries_twice_missing_or_in_another_order_are_refused(there, bundle):
    whole = parts(bundle)
    entries = list(whole.items())
    with pytest.warns(UserWarning, match="Duplicate"):
        pack(bundle, [*entries, entries[-1]])
    refused(there, bundle, "twice, or out of order")
    for wrong in (entries[1:], entries[::-1], [entries[1], entries[0], *entries[2:]], []):
        pack(bundle, wrong)
        refused(there, bundle, "does not begin with")
    pack(bundle, entries[:-1])
    refused(there, bundle, "is missing")
    pack(bundle, [*entries[:2], *entries[:1:-1]])
    refused(there, bundle, "out of order")


def test_compressed_entries_are_refused(there, bundle):
    entries = {**parts(bundle), "runs.jsonl": b"\0" * 10_000_000}
    pack(bundle, entries.items(), compression=zipfile.ZIP_DEFLATED)
    assert bundle.stat().st_size < 100_000
    refused(there, bundle, "is compressed")


def test_entries_that_say_they_are_longer_are_refused(there, bundle):
    whole = bundle.read_bytes()
    directory = whole.rindex(b"PK\x01\x02")  # the last entry's: both sizes lie 20 bytes behind its start
    size = (2**31).to_bytes(4, "little")
    bundle.write_bytes(whole[: directory + 20] + size + size + whole[directory + 28 :])
    refused(there, bundle, "longer than the file")


def test_entries_that_lie_in_one_another_are_refused(there, bundle):
    whole = bytearray(bundle.read_bytes())
    starts = [place for place in range(len(whole)) if whole.startswith(b"PK\x01\x02", place)]
    whole[starts[-1] + 42 : starts[-1] + 46] = whole[starts[-2] + 42 : starts[-2] + 46]  # where the entry begins
    bundle.write_bytes(whole)
    refused(there, bundle, "lie in one another")


def test_bytes_before_or_behind_the_archive_are_refused(there, bundle):
    whole = bundle.read_bytes()
    for other in (b"#!/bin/sh\n" + whole, whole + b"more"):
        bundle.write_bytes(other)
        refused(there, bundle)


def test_no_file_a_folder_and_no_archive_are_refused(there, bundle, tmp_path):
    refused(there, tmp_path / "nothing.bench", "Cannot read")
    refused(there, tmp_path, "Cannot read")
    for content in (b"", b"PK", b"\x1f\x8b" + bytes(100), bytes(1000)):
        bundle.write_bytes(content)
        refused(there, bundle, "not a zip file")


@pytest.mark.parametrize(
    ("head", "says"),
    [
        (b'{"bench":"9.0","count":3,"format":2}', "it has format 2, and this release reads 1; install"),
        (b'{"bench":"9.0","count":2,"format":1}', "it has 3 runs and says 2"),
        (b'{"count":3}', ""),
        (b"[]", ""),
        (b"[" * 9000, ""),
        (b"\xff", ""),
        (b"[" * 20_000, "too long"),
        (b'{"format":1,"count":"x"}', ""),
        (b'{"format":1,"count":1e999}', ""),
    ],
)
def test_other_formats_are_refused(head, says, there, bundle):
    repack(bundle, {**parts(bundle), "bundle.json": head})
    refused(there, bundle, says)


def shifted(number):
    """A function that adds to the lr of a spec."""
    return lambda spec: {**spec, "lr": spec["lr"] + number}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"key": "0" * 16}, "its key is not the digest of its spec"),
        ({"key": "../../../../../evil"}, "a run does not validate: key"),
        ({"spec": shifted(1)}, "its key is not the digest of its spec"),
        ({"spec": shifted(-1)}, "a run does not validate: lr"),
        ({"spec": lambda spec: {**spec, "path": "../x"}}, "a run does not validate: path"),
        ({"spec": {}}, "a run does not validate"),
        ({"spec": None}, "a run does not validate: spec"),
        ({"status": "running"}, "not that of a finished run"),
        ({"status": "queued"}, "not that of a finished run"),
        ({"status": "won"}, "a run does not validate: status"),
        ({"step": 20_001}, "more steps than its spec"),
        ({"step": -1}, "a run does not validate: step"),
        ({"step": True}, "a run does not validate: step"),
        ({"step": 2**63}, "a run does not validate: step"),
        ({"step": 10**5000 if sys.get_int_max_str_digits() == 0 else 10**4000}, "a run does not validate: step"),
        ({"wall_s": "12"}, "a run does not validate: wall_s"),
        ({"wall_s": 12}, "not written as bench writes it"),
        ({"finished_at": 1e300}, "a run does not validate: finished_at"),
        ({"created_at": -1.0}, "a run does not validate: created_at"),
        ({"task_label": "a\nb"}, "a run does not validate: task_label"),
        ({"reason": "\0"}, "a run does not validate: reason"),
        ({"metrics": {"elbo": {"value": "Infinity", "se": None}}}, "a run does not validate: metrics"),
        ({"metrics": {"elbo": {"value": None, "se": None}}}, "a run does not validate: metrics"),
        ({"metrics": {"a\x1b[2J": {"value": 1.0, "se": None}}}, "a run does not validate: metrics"),
        ({"curves": {"bound": {"steps": [1, 2], "values": [1.0]}}}, "more steps than values"),
        ({"curves": {"bound": {"steps": [1.5], "values": [1.0]}}}, "a run does not validate: curves"),
        ({"plan": lambda plan: {**plan, "members": []}}, "its plan is another run's"),
        ({"plan": lambda plan: {**plan, "threads": 0}}, "a run does not validate: plan"),
        ({"history": lambda lines: [{**lines[0], "fence": 2**31}]}, "a run does not validate: history"),
        ({"checkpoint": lambda file: {**file, "path": "../../evil"}}, "a run does not validate: checkpoint"),
        ({"checkpoint": lambda file: {**file, "step": 5}}, "of another step or spec"),
        ({"checkpoint": lambda file: {**file, "step": 20_001}}, "more steps than its spec"),
        ({"checkpoint": lambda file: {**file, "size": 1}}, "another size"),
        ({"checkpoint": lambda file: {**file, "sha256": "f" * 64}}, "is missing"),
        ({"checkpoint": lambda file: {**file, "sha256": "../" + "f" * 61}}, "a run does not validate: checkpoint"),
        ({"checkpoint": None}, "belong to none of its runs"),
        ({"pictures": lambda files: [{**files[0], "name": "../evil.png"}]}, "a run does not validate: pictures"),
        ({"pictures": lambda files: [{**files[0], "name": ".."}]}, "a run does not validate: pictures"),
        ({"pictures": lambda files: files * 2}, "two pictures have one name"),
        ({"environment": []}, "a run does not validate: environment"),
        ({"more": 1}, "a run does not validate: more"),
    ],
)
def test_a_run_that_is_not_what_it_says_is_refused(changes, says, there, bundle):
    values = json.loads(parts(bundle)["runs.jsonl"].splitlines()[0])
    edited(bundle, **{name: change(values[name]) if callable(change) else change for name, change in changes.items() if name in values})
    if "more" in changes:
        raw(bundle, lambda line: line[:-1] + b',"zzz":1}')
        says = "a run does not validate: zzz"
    refused(there, bundle, says)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda line: line + b" ", "not written as bench writes it"),
        (lambda line: line.replace(b'{"checkpoint"', b'{"key":"0","checkpoint"'), "not written as bench writes it"),
        (lambda line: line.replace(b'"environment":{', b'"environment":{"a":1e999,'), ""),
        (lambda line: line.replace(b'"environment":{', b'"environment":{"a":NaN,'), ""),
        (lambda line: line.replace(b'"environment":{', b'"environment":{"a":"\\ud800",'), ""),
        (lambda line: line.replace(b'"environment":{', b'"environment":{"a":%s,' % (b"9" * 5000)), ""),
        (lambda line: line.replace(b'"environment":{', b'"environment":{"a":%d,' % 2**63), "a whole number is too large"),
        (lambda line: line.replace(b'"environment":{', b'"environment":{"a":%s,' % (b"[" * 100_000 + b"]" * 100_000)), ""),
        (lambda line: line.replace(b'"environment":{', b'"environment":{"a":%s,' % (b'{"a":' * 250 + b"1" + b"}" * 250)), ""),
        (lambda line: line.replace(b'"step":20000', b'"step":2e4'), "a run does not validate: step"),
        (lambda line: line.replace(b'"done"', b'"\xff"'), "a run does not validate"),
        (lambda line: line[:-5], "a run does not validate"),
        (lambda line: b"", "a run does not validate"),
        (lambda line: b"null", "a run does not validate"),
        (lambda line: line + b"\n" + line, "twice, or out of order"),
    ],
)
def test_text_that_is_not_a_run_is_refused(change, says, there, bundle):
    raw(bundle, change)
    refused(there, bundle, says)


def test_a_line_that_is_too_long_is_refused_before_it_is_read(there, bundle, monkeypatch):
    monkeypatch.setattr("harness.bundle.reading.LONGEST_LINE", 1000)
    monkeypatch.setattr("harness.bundle.lines.LONGEST_LINE", 1000)
    refused(there, bundle, "a run takes more than")


def replaced(path, content):
    """Put other bytes in the place of the first run's checkpoint, with the sha256 and the size that belong to them."""
    saved = json.loads(parts(path)["runs.jsonl"].splitlines()[0])["checkpoint"]
    name = hashlib.sha256(content).hexdigest()
    edited(path, checkpoint={**saved, "sha256": name, "size": len(content)})
    entries = {entry: value for entry, value in parts(path).items() if entry != f"files/{saved['sha256']}"}
    entries[f"files/{name}"] = content
    repack(path, {entry: entries[entry] for entry in ["bundle.json", "runs.jsonl", *sorted(set(entries) - {"bundle.json", "runs.jsonl"})]})


def header(text):
    """The bytes of a safetensors file with this header."""
    return len(text).to_bytes(8, "little") + text


def first_spec(path):
    """The spec of a bundle's first run."""
    return decode_line(parts(path)["runs.jsonl"].splitlines(keepends=True)[0]).run.spec


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"junk",
        bytes(1000),
        b"\xff" * 100,
        (2**63).to_bytes(8, "little") + b"{}",
        header(b"{}"),
        header(b"[" * 50_000),
        header(b'{"__metadata__":{"bench":"[]"}}'),
        header(b'{"__metadata__":{"bench":"{}"}}'),
        header(b'{"__metadata__":{"bench":"\\"text\\""}}'),
        header(b'{"__metadata__":{"bench":"' + b"[" * 50_000 + b'"}}'),
        header(b'{"__metadata__":[]}'),
        header(b'{"a":{"dtype":"F32","shape":[4611686018427387904,0],"data_offsets":[0,0]},"__metadata__":{"bench":"{}"}}'),
        header(b'{"a":{"dtype":"Q9","shape":[0],"data_offsets":[0,0]},"__metadata__":{"bench":"{}"}}'),
    ],
    ids=range(14),
)
def test_a_checkpoint_that_is_none_is_refused(content, there, bundle):
    replaced(bundle, content)
    refused(there, bundle, "checkpoint")


def test_a_checkpoint_of_another_run_is_refused(there, bundle):
    spec = first_spec(bundle)
    whole = bundle.read_bytes()
    for content, says in (
        (tensors(filled_store.spec(spec.seed + 100)), "belongs to run"),
        (tensors(spec, step=5), "of another step or spec"),
        (tensors(spec, spec=filled_store.spec(99).plain()), "of another step or spec"),
        (tensors(spec, step=None), "of another step or spec"),
    ):
        bundle.write_bytes(whole)
        replaced(bundle, content)
        refused(there, bundle, says)


def test_a_file_with_other_bytes_than_its_name_says_is_refused(there, bundle):
    entries = parts(bundle)
    last = list(entries)[-1]
    repack(bundle, {**entries, last: b"x" + entries[last][1:]})
    refused(there, bundle, f"the sha256 of {last} is not its name")


def test_a_name_cannot_write_to_the_terminal(there, bundle):
    pack(bundle, [*parts(bundle).items(), ("\x1b[2J\nbench: all is well", b"evil")])
    assert "\x1b" not in refused(there, bundle)


def test_truncated_anywhere_a_bundle_is_refused(bundle):
    whole = bundle.read_bytes()
    for length in [*range(0, len(whole), 499), *range(len(whole) - 60, len(whole))]:
        bundle.write_bytes(whole[:length])
        with pytest.raises(UsageError):
            checked(bundle)


def test_whatever_byte_is_damaged_the_runs_are_the_same_or_refused(bundle):
    whole = bundle.read_bytes()
    runs = checked(bundle)
    let_in = 0
    for place in [*range(0, len(whole), 211), *range(whole.index(b"PK\x01\x02"), len(whole), 3)]:
        damaged = bytearray(whole)
        damaged[place] ^= 0x55
        bundle.write_bytes(damaged)
        with contextlib.suppress(UsageError):
            assert checked(bundle) == runs
            let_in += 1
    assert let_in < 100  # dates and versions of entries mean nothing


def checked(path):
    """The runs of a bundle, as text, once all of it is checked."""
    with harness.bundle.opened(path) as bundle:
        list(bundle.check())
        return [encode_line(result) for result in bundle.results()]


def test_a_run_that_a_bundle_cannot_hold_is_not_written(here, tmp_path):
    (key,) = fill(here, [0], reason="\0")
    result = cli(here, "export", "--bundle", tmp_path / "x.bench")
    assert (result.exit_code, result.stdout) == (2, "")
    assert f"Run {key} cannot be exported: a run does not validate: reason" in result.stderr
    assert not (tmp_path / "x.bench").exists()
