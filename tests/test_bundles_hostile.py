"""Bundles that are none are refused in one line, nothing is written, and nothing in them runs."""

from __future__ import annotations

import contextlib
import json
import shutil
import sqlite3
import stat
import zipfile

import filled_store
import pytest
from bundles import (  # noqa: F401
    bundle,
    checked,
    cli,
    edit,
    export,
    fill,
    here,
    pack,
    source,
    tensors,
    there,
    unpack,
)
from filled_store import sha256
from stores import DATA

from harness.base.errors import UsageError
from harness.base.spec import canonical_json, digest
from harness.store import Estimate, ResultStore


def entries_of(path):
    """A bundle's entries, by name."""
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def write_entries(target, entries, **archive_options):
    """An archive of names, or entries, and their bytes."""
    with zipfile.ZipFile(target, "w", **archive_options) as archive:
        for name, value in entries:
            archive.writestr(name, value)


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


# The archive


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
        ("bench.db-wal", "not the name of anything in a bundle"),
        ("files/" + "f" * 64, "belong to none of its runs"),
    ],
)
def test_names_that_no_bundle_has_are_refused(name, says, there, bundle):
    write_entries(bundle, [*entries_of(bundle).items(), (name, b"evil")])
    refused(there, bundle, says)


def test_a_link_is_not_followed(there, bundle, tmp_path):
    entries = entries_of(bundle)
    link = zipfile.ZipInfo("bench.db")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    entries.pop("bench.db")
    write_entries(bundle, [(link, str(tmp_path / "there" / "bench.db")), *entries.items()])
    refused(there, bundle, "not a database")


def test_entries_that_are_twice_or_missing_are_refused(there, bundle):
    entries = list(entries_of(bundle).items())
    with pytest.warns(UserWarning, match="Duplicate"):
        write_entries(bundle, [*entries, entries[-1]])
    refused(there, bundle, "two of its entries have one name")
    write_entries(bundle, [entry for entry in entries if entry[0] == "bench.db"])
    refused(there, bundle, "no item named 'files/")
    write_entries(bundle, [entry for entry in entries if entry[0] != "bench.db"])
    refused(there, bundle, "no item named 'bench.db'")
    write_entries(bundle, [])
    refused(there, bundle, "no item named 'bench.db'")


def test_compressed_entries_are_refused(there, bundle):
    entries = {**entries_of(bundle), "bench.db": bytes(10_000_000)}
    write_entries(bundle, entries.items(), compression=zipfile.ZIP_DEFLATED)
    assert bundle.stat().st_size < 100_000
    refused(there, bundle, "is compressed")


def test_entries_that_say_they_are_longer_are_refused(there, bundle):
    whole = bundle.read_bytes()
    # the last entry's place in the directory: both sizes lie 20 bytes behind its start
    directory = whole.rindex(b"PK\x01\x02")
    size = (2**31).to_bytes(4, "little")
    bundle.write_bytes(whole[: directory + 20] + size + size + whole[directory + 28 :])
    refused(there, bundle, "longer than the file")


def test_no_file_a_folder_and_no_archive_are_refused(there, bundle, tmp_path):
    refused(there, tmp_path / "nothing.bench", "Cannot read")
    refused(there, tmp_path, "Cannot read")
    for content in (b"", b"PK", b"\x1f\x8b" + bytes(100), bytes(1000)):
        bundle.write_bytes(content)
        refused(there, bundle, "not a zip file")


def test_a_name_cannot_write_to_the_terminal(there, bundle):
    write_entries(bundle, [*entries_of(bundle).items(), ("\x1b[2J\nbench: all is well", b"evil")])
    assert "\x1b" not in refused(there, bundle)


# The database


def test_what_is_no_database_is_refused(there, bundle):
    entries = entries_of(bundle)
    for content in (b"", b"junk", bytes(8192), entries["bench.db"][:5000]):
        write_entries(bundle, {**entries, "bench.db": content}.items())
        refused(there, bundle)


HIDDEN_TRIGGER = (
    "INSERT INTO sqlite_master VALUES ('index', 'ix', 'runs', 0, "
    "'CREATE TRIGGER ix AFTER INSERT ON runs BEGIN DELETE FROM runs; END')"
)


@pytest.mark.parametrize(
    ("statements", "says"),
    [
        (["CREATE VIEW v AS SELECT * FROM runs"], "has 'v', which no result database has"),
        (["CREATE TRIGGER t AFTER INSERT ON runs BEGIN DELETE FROM runs; END"], "has 't'"),
        (["CREATE VIRTUAL TABLE f USING fts5(text)"], "has 'f'"),
        (["PRAGMA writable_schema = ON", HIDDEN_TRIGGER], "schema (ix)"),
        (["DROP TABLE metrics", "CREATE VIEW metrics AS SELECT * FROM curves"], "has 'metrics'"),
        (["CREATE TABLE more (x)"], "tables and columns are not those"),
        (["DROP TABLE errata"], "tables and columns are not those"),
        (["ALTER TABLE runs ADD COLUMN more"], "tables and columns are not those"),
        (["ALTER TABLE runs ADD COLUMN x AS (length(spec))"], "tables and columns are not those"),
        (["UPDATE bench_alembic_version SET version_num = '0099'"], "install the release"),
        (["DELETE FROM bench_alembic_version"], ""),
        (["DROP TABLE bench_alembic_version"], "no such table"),
        (["UPDATE bench_alembic_version SET version_num = '0001'"], ""),
    ],
)
def test_a_schema_that_is_not_of_results_is_refused(statements, says, there, bundle):
    edit(bundle, *statements)
    refused(there, bundle, says)


def test_an_index_may_be_there_and_lead_nowhere(there, bundle):
    edit(bundle, "CREATE INDEX more ON runs (abs(seed))")
    assert cli(there, "import", bundle).exit_code == 0


# Its rows


def spec_with(**values):
    """The spec of seed 0 with other values, as it is stored."""
    return canonical_json({**filled_store.spec(0).plain(), **values})


def renamed(table, text):
    """Statements that put a text, under its own name, in the place of all of a table."""
    column = table.removesuffix("s")
    name = sha256(text.encode())[:16]
    return [
        "PRAGMA foreign_keys = OFF",
        f"DELETE FROM {table}",
        (f"INSERT INTO {table} VALUES (?, ?)", (name, text)),
        f"UPDATE runs SET {column} = '{name}'",
    ]


PLAN = canonical_json({"members": ["0" * 16], "threads": 1, "torch": "2"})
KEY = filled_store.spec(0).key


@pytest.mark.parametrize(
    ("statements", "says"),
    [
        ([f"UPDATE runs SET key = '0000000000000000' WHERE key = '{KEY}'"], "table runs has"),
        ([f"UPDATE runs SET key = '../../evil' WHERE key = '{KEY}'"], "table runs has"),
        ([("UPDATE runs SET spec = ?", (spec_with(lr=2.0),))], "as spec"),
        ([("UPDATE runs SET spec = ?", ("{}",))], "as spec"),
        ([("UPDATE runs SET spec = ?", ("[" * 100_000,))], "as spec"),
        ([("UPDATE runs SET spec = ?", (b"\xff",))], "as spec"),
        (["UPDATE runs SET cell = '0000000000000000'"], "its key is not that of its spec"),
        (["UPDATE runs SET status = 'running'"], "is not finished"),
        (["UPDATE runs SET status = 'queued'"], "is not finished"),
        (["UPDATE runs SET status = 'won'"], "is not finished"),
        (["UPDATE runs SET step = 20001"], "more steps than its spec"),
        (["UPDATE runs SET step = -5"], "as step"),
        (["UPDATE runs SET step = 'x'"], "as step"),
        (["UPDATE runs SET wall_s = 'x'"], "as wall_s"),
        (["UPDATE runs SET wall_s = 9e999"], "as wall_s"),
        (["UPDATE runs SET finished_at = 1e300"], "as finished_at"),
        (["UPDATE runs SET created_at = -1.0"], "as created_at"),
        (["UPDATE runs SET reason = char(0)"], "as reason"),
        (["UPDATE runs SET reason = x'00'"], "as reason"),
        (["UPDATE runs SET reason = CAST(x'ff' AS TEXT)"], ""),
        (["UPDATE runs SET settings = '[]'"], "as settings"),
        (["UPDATE runs SET settings = '{\"a\":NaN}'"], "as settings"),
        (["PRAGMA foreign_keys = OFF", "DELETE FROM plans"], "plan, environment or description"),
        (["PRAGMA foreign_keys = OFF", "DELETE FROM descriptions"], "or description is missing"),
        (["UPDATE plans SET plan = '{}'"], "table plans has"),
        (["UPDATE environments SET environment = '{}'"], "table environments has"),
        (["UPDATE descriptions SET description = '{}'"], "table descriptions has"),
        (renamed("plans", PLAN), "its plan is another run's"),
        (renamed("plans", "{}"), "members"),
        (renamed("environments", "[]"), "table environments has"),
        (renamed("descriptions", "{}"), "method"),
        (["UPDATE metrics SET value = 'Infinity'"], "as value"),
        (["UPDATE metrics SET value = NULL"], "table metrics has"),
        (["UPDATE metrics SET kind = 'odd'"], "as kind"),
        (["UPDATE metrics SET name = char(27) || '[2J' WHERE name = 'elbo'"], "table metrics has"),
        (["UPDATE metrics SET name = printf('%0300d', 1) WHERE name = 'elbo'"], "as name"),
        (["UPDATE curves SET steps = '[1, 2]'"], "table curves has"),
        (["UPDATE curves SET steps = '[1.5]', \"values\" = '[1.0]'"], "table curves has"),
        (["UPDATE run_history SET fence = 2147483648"], "as fence"),
        (["UPDATE run_history SET at = 'noon'"], "as at"),
        (["UPDATE checkpoints SET step = 5"], "of another step or spec"),
        (["UPDATE checkpoints SET step = 20001"], "more steps than its spec"),
        (["UPDATE checkpoints SET size = 1"], "other bytes than its name says"),
        (["UPDATE checkpoints SET sha256 = '../../evil'"], "no item named 'files/../../evil'"),
        (["UPDATE checkpoints SET role = x'00'"], "as role"),
        (["DELETE FROM checkpoints"], "belong to none of its runs"),
        (["UPDATE artifacts SET name = '../evil.png'"], "as name"),
        (["UPDATE artifacts SET name = '..'"], "as name"),
        (["UPDATE artifacts SET name = 'a/b'"], "as name"),
        (
            ["INSERT INTO artifacts SELECT run, upper(name), sha256, size FROM artifacts"],
            "two pictures have one name",
        ),
        (["DELETE FROM runs"], "belong to none of its runs"),
    ],
)
def test_a_run_that_is_not_what_it_says_is_refused(statements, says, there, bundle):
    edit(bundle, *statements)
    refused(there, bundle, says)


def test_a_text_of_a_plugin_goes_by_its_sha256_and_does_not_run(there, here, tmp_path):
    evil = tmp_path / "evil"
    text = f"import pathlib\npathlib.Path({str(evil)!r}).touch()\n"
    name = sha256(text.encode())
    spec = canonical_json(filled_store.spec(0).plain() | {"method_source": name})
    export(here, tmp_path / "x.bench", fill(here, [0]))
    edit(
        tmp_path / "x.bench",
        "PRAGMA foreign_keys = OFF",
        *("DELETE FROM checkpoints", "DELETE FROM plans", "UPDATE runs SET plan = NULL"),
        ("INSERT INTO sources VALUES (?, ?)", (name, text)),
        ("UPDATE runs SET spec = ?, method_source = ?", (spec, name)),
        ("UPDATE runs SET key = ?", (digest(json.loads(spec)),)),
        *(
            f"UPDATE {table} SET run = (SELECT key FROM runs)"
            for table in ("metrics", "curves", "run_history", "artifacts")
        ),
    )
    entries = entries_of(tmp_path / "x.bench")
    pictures = {name: value for name, value in entries.items() if b"picture of" in value}
    (tmp_path / "bench.db").write_bytes(entries["bench.db"])
    cell = digest({n: v for n, v in json.loads(spec).items() if n != "seed"})
    pack(tmp_path / "x.bench", tmp_path / "bench.db", pictures)
    edit(tmp_path / "x.bench", ("UPDATE runs SET cell = ?", (cell,)))
    assert cli(there, "import", tmp_path / "x.bench").exit_code == 0
    for command in (("list", "runs"), ("compare",), ("show", digest(json.loads(spec)))):
        cli(there, *command)
    with ResultStore.open(there.database_url) as store:
        assert store.source(name) == text
    assert not evil.exists()
    edit(tmp_path / "x.bench", "UPDATE sources SET source = 'other'")
    refused(there, tmp_path / "x.bench", "table sources has")


# Files


def header(text):
    """The bytes of a safetensors file with this header."""
    return len(text).to_bytes(8, "little") + text


def replace_checkpoint(path, content):
    """Put other bytes in the place of the checkpoint of seed 0, with the sha256 and the size that
    belong to them.
    """
    database, entries = unpack(path, path.with_name("unpacked"))
    with contextlib.closing(sqlite3.connect(database)) as connection, connection:
        (old,) = connection.execute("SELECT sha256 FROM checkpoints WHERE run = ?", (KEY,))
        values = (sha256(content), len(content), KEY)
        connection.execute("UPDATE checkpoints SET sha256 = ?, size = ? WHERE run = ?", values)
    entries.pop(f"files/{old[0]}")
    pack(path, database, {**entries, f"files/{sha256(content)}": content})
    shutil.rmtree(database.parent)


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
        header(
            b'{"a":{"dtype":"F32","shape":[4611686018427387904,0],"data_offsets":[0,0]},"__metadata__":{"bench":"{}"}}'
        ),
        header(
            b'{"a":{"dtype":"Q9","shape":[0],"data_offsets":[0,0]},"__metadata__":{"bench":"{}"}}'
        ),
    ],
    ids=range(14),
)
def test_a_checkpoint_that_is_none_is_refused(content, there, bundle):
    replace_checkpoint(bundle, content)
    refused(there, bundle, "checkpoint")


def test_a_checkpoint_of_another_run_is_refused(there, bundle):
    spec = filled_store.spec(0)
    whole = bundle.read_bytes()
    for content, says in (
        (tensors(filled_store.spec(100)), "belongs to run"),
        (tensors(spec, step=5), "of another step or spec"),
        (tensors(spec, spec=filled_store.spec(99).plain()), "of another step or spec"),
        (tensors(spec, step=None), "of another step or spec"),
    ):
        bundle.write_bytes(whole)
        replace_checkpoint(bundle, content)
        refused(there, bundle, says)


def test_a_file_with_other_bytes_than_its_name_says_is_refused(there, bundle):
    entries = entries_of(bundle)
    name = next(name for name in entries if name.startswith("files/"))
    write_entries(bundle, {**entries, name: b"x" + entries[name][1:]}.items())
    refused(there, bundle, "other bytes than its name says")


# Damage


def test_truncated_anywhere_a_bundle_is_refused(bundle):
    whole = bundle.read_bytes()
    for length in [*range(0, len(whole), 7993), *range(len(whole) - 60, len(whole), 5)]:
        bundle.write_bytes(whole[:length])
        with pytest.raises(UsageError):
            checked(bundle)


def test_whatever_byte_is_damaged_the_runs_are_the_same_or_refused(bundle):
    whole = bundle.read_bytes()
    runs = checked(bundle)
    let_in = 0
    for place in [*range(0, len(whole), 4999), *range(whole.index(b"PK\x01\x02"), len(whole), 17)]:
        damaged = bytearray(whole)
        damaged[place] ^= 0x55
        bundle.write_bytes(damaged)
        with contextlib.suppress(UsageError):
            assert checked(bundle) == runs
            let_in += 1
    assert let_in < 30  # dates and versions of entries mean nothing


# The first format


@pytest.mark.parametrize(
    "change",
    [
        lambda line: line[:-5],
        lambda line: b"null",
        lambda line: b"[" * 100_000,
        lambda line: line.replace(b'"spec":{', b'"spec":{"path":"../x",'),
        lambda line: line.replace(b'"status":"done"', b'"status":"running"'),
        lambda line: line.replace(b'"environment":{', b'"environment":{"a":NaN,'),
        lambda line: line.replace(b'"step":', b'"step":"x","more":'),
        lambda line: line.replace(
            b'"pictures":[', b'"pictures":[{"name":"..","sha256":"","size":1}'
        ),
        lambda line: line.replace(b'"members":[', b'"members":[],"more":['),
    ],
)
def test_a_line_that_is_not_a_run_is_refused(change, there, tmp_path):
    entries = entries_of(DATA / "format-1.bundle")
    first, *others = entries["runs.jsonl"].splitlines()
    assert change(first) != first
    entries["runs.jsonl"] = b"\n".join([change(first), *others])
    write_entries(tmp_path / "x.bench", entries.items())
    refused(there, tmp_path / "x.bench")


# What cannot be written


def test_a_run_that_a_bundle_cannot_hold_is_not_written(here, tmp_path):
    (key,) = fill(here, [0], reason="\0")
    result = cli(here, "export", "--bundle", tmp_path / "x.bench")
    assert (result.exit_code, result.stdout) == (2, "")
    assert f"Run {key} is left out: row '{key}' of table runs has" in result.stderr
    assert "There is no finished run to export: row" in result.stderr
    assert not (tmp_path / "x.bench").exists()


def test_a_run_that_a_bundle_cannot_hold_does_not_keep_the_others_back(here, tmp_path):
    (good,), (odd,) = fill(here, [0]), fill(here, [1], metrics={"x" * 251: Estimate(1.0)})
    result = cli(here, "export", "--bundle", tmp_path / "x.bench", "--json")
    assert result.exit_code == 0
    assert {
        line["key"]: line["outcome"] for line in map(json.loads, result.stdout.splitlines())
    } == {good: "exported", odd: "left out"}
    assert f"Run {odd} is left out" in result.stderr
    assert len(checked(tmp_path / "x.bench")) == 1
