"""Bundles, and workspaces to take them from and into, for the tests of both."""

from __future__ import annotations

import hashlib
import math
import shutil
import sqlite3
import zipfile
from pathlib import Path

import filled_store
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import save

from harness.base.spec import Status, canonical_json
from harness.cli import main
from harness.execution.bundle import import_bundle, open_bundle, write_bundle
from harness.store import ArtifactFile, CheckpointFile, Estimate, ResultStore
from harness.store.transfer import STAYING

FAULTY = str(Path(__file__).with_name("faulty"))
SMOKE = ("run", "-m", "vb", "-t", "gaussian-2", "--protocol", "smoke", "--seeds", "0-1", "--json")
ODD = {
    "elbo": Estimate(math.nan, math.inf),
    "elbo_gap": Estimate(-math.inf),
    "zero": Estimate(-0.0),
    "tiny": Estimate(5e-324, 0.1 + 0.2),
    "huge": Estimate(1.7976931348623157e308),
}
CURVE = {"bound": [(1, math.nan), (2, -math.inf), (3, 0.1), (2**62, -0.0)]}


def tensors(run, step=20_000, **other):
    """The bytes of a checkpoint of the run of this spec."""
    meta = canonical_json({"format": 1, "key": run.key, "spec": run.plain(), "step": step, **other})
    return save({"params.task.x": torch.full((3,), float(run.seed))}, metadata={"bench": meta})


def end(workspace, store, claim, status=Status.DONE, content=None, picture=None, **other):
    """End a run with a checkpoint and a picture that are what the record says."""
    spec = filled_store.spec(claim.seed)
    content = tensors(spec) if content is None else content
    picture = b"picture of " + claim.key.encode() if picture is None else picture
    paths = filled_store.places(workspace, claim)
    files = {
        "checkpoint": CheckpointFile(
            "final", 20_000, hashlib.sha256(content).hexdigest(), len(content)
        ),
        "artifacts": [
            ArtifactFile("samples.png", hashlib.sha256(picture).hexdigest(), len(picture))
        ],
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
        return list(write_bundle(target, workspace, store.results(sorted(keys))))


def take(workspace, source):
    """Import a bundle; returns what became of each run, by key."""
    with open_bundle(source) as bundle:
        keys = list(bundle.check())
        assert len(keys) == len(bundle)
        with ResultStore.open(workspace.database_url) as store:
            return {adoption.key: adoption for adoption in import_bundle(workspace, store, bundle)}


def told(workspace, keys, history=False):
    """All that is on record of these runs, as text: NaN equals NaN there, and -0.0 is not 0.0."""
    with ResultStore.open(workspace.database_url) as store:
        return [text_of(result, history) for result in store.results(sorted(keys))]


def text_of(result, history=False):
    """All that is on record of a run as text; what belongs to its database alone is left out."""
    staying = {*STAYING, "id", "created_at"}
    rows = {
        table.name: [
            [value for name, value in row._mapping.items() if name not in staying] for row in rows
        ]
        for table, rows in result.rows.items()
        if history or table.name != "run_history"
    }
    return repr((result.run.created_at, rows))


def checked(path):
    """The runs of a bundle, as text, once all of it is checked."""
    with open_bundle(path) as bundle:
        list(bundle.check())
        return [text_of(result, history=True) for result in bundle.results()]


def unpack(path, folder):
    """A bundle's database as a file, and its other entries."""
    folder.mkdir(exist_ok=True)
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    (folder / "bench.db").write_bytes(entries.pop("bench.db"))
    return folder / "bench.db", entries


def pack(path, database, entries):
    """Write a bundle of a database and other entries."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, value in {"bench.db": database.read_bytes(), **entries}.items():
            archive.writestr(name, value)


def edit(path, *statements):
    """Change the database of a bundle by hand."""
    database, entries = unpack(path, path.with_name("unpacked"))
    connection = sqlite3.connect(database)
    for statement in statements:
        connection.execute(*((statement,) if isinstance(statement, str) else statement))
    connection.commit()
    connection.close()
    pack(path, database, entries)
    shutil.rmtree(database.parent)


def files(workspace):
    """The files of a workspace that are no database, with their bytes, by their place in the
    folders of its database.
    """
    found = (
        path
        for folder in ("checkpoints", "pictures")
        for path in (workspace.home / folder).rglob("*")
    )
    return {"/".join(path.parts[-2:]): path.read_bytes() for path in found if path.is_file()}


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
    kind = (
        {}
        if request.param == "sqlite"
        else {"BENCH_DATABASE_URL": request.getfixturevalue("postgres_database")()}
    )
    return filled_store.workspace_in(tmp_path / "goal", **kind)


def cli(workspace, *arguments):
    """The command line in a workspace."""
    environment = {
        "BENCH_HOME": str(workspace.home),
        "BENCH_DATABASE_URL": workspace.environment.get("BENCH_DATABASE_URL"),
    }
    result = CliRunner().invoke(main, [str(argument) for argument in arguments], env=environment)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result
