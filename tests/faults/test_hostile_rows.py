"""Rows of the database that were edited by hand, and what is never read: pickles, and YAML that
makes objects.
"""

from __future__ import annotations

import ast
import random
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import filled_store
import pytest
from hostile import ESCAPES, FULL, MARKUP, called, parsed, snapshot

from harness.base.workspace import sqlite_url
from harness.store.integrity import find_edited_rows
from harness.store.schema import metadata

pytestmark = pytest.mark.usefixtures("no_mirror")

ROOT = Path(__file__).parent.parent.parent
READING = (
    ("list", "runs"),
    ("list", "runs", "--json"),
    ("compare",),
    ("compare", "--json"),
    ("why",),
    ("why", "--json"),
)
TEXTS = ("task_label", "method", "protocol", "reason")


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    """A workspace with two finished runs."""
    workspace = filled_store.workspace_in(tmp_path_factory.mktemp("filled"))
    filled_store.fill(workspace, [0, 1])
    return workspace.home


@pytest.mark.parametrize("column", TEXTS)
def test_stored_text_steers_no_terminal(column, filled, tmp_path, record_property):
    """Every reading command shows it, and changes nothing."""
    home = tmp_path / "home"
    hostile = [
        text
        for text in (*ESCAPES, *MARKUP)
        if text.encode("utf-8", "replace").decode() == text and "\0" not in text
    ]
    for text in hostile:
        shutil.copytree(filled, home)
        with sqlite3.connect(home / "bench.db") as database:
            database.execute(f"UPDATE runs SET {column} = ?", (f"a{text}b",))
        database.close()
        before = snapshot(home)
        for command in READING:
            shown = called(command, home)
            if "--json" in command and shown.exit_code == 0:
                parsed(shown)
        assert snapshot(home) == before
        shutil.rmtree(home)
    record_property("bad inputs", len(hostile) * len(READING))


EDITS = (
    "'abc'",
    "NULL",
    "-1",
    "1e300",
    "x'ff00'",
    "'[[['",
    "'{}'",
    "'null'",
    "9223372036854775807",
    "''",
    "'{\"a\":NaN}'",
    "-1e300",
)
COMMANDS = (
    *(
        ("list", "runs", "--json"),
        ("show", "KEY", "--json"),
        ("doctor", "--json"),
        ("compare", "--json"),
        ("why", "hvae"),
        ("list", "runs"),
    ),
    *(
        ("show", "KEY"),
        ("report", "-o", "report.html"),
        ("export", "--format", "csv", "-o", "runs.csv"),
        ("export", "--bundle", "x.bench"),
    ),
    *(
        ("invalidate", "-m", "hvae", "--reason", "wrong"),
        ("rm", "KEY", "--yes"),
        ("run", "-m", "hvae", "-t", "gaussian-2", "--dry-run"),
    ),
)
COLUMNS = [
    (table.name, column.name) for table in metadata.sorted_tables for column in table.columns
]


def edited_copy(filled, home, table, column, value):
    """A copy of a workspace in which every row of a table has this in a column; None where the
    database itself refuses it.
    """
    shutil.copytree(filled, home)
    with closing(sqlite3.connect(home / "bench.db")) as database:
        try:
            database.execute(f'UPDATE {table} SET "{column}" = {value}')
        except sqlite3.Error:
            shutil.rmtree(home)
            return None
        database.commit()
    return home


@pytest.mark.parametrize(("table", "column"), COLUMNS, ids=".".join)
def test_an_edited_column_is_read_or_named(
    table, column, filled, tmp_path, monkeypatch, record_property
):
    """Whatever stands in it: nothing outside the workspace; what a command cannot read is named by
    `doctor`.
    """
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    dice, tried = random.Random(f"{table}.{column}"), 0
    edits = EDITS if FULL else dice.sample(EDITS, 2)
    for value in edits:
        home = edited_copy(filled, tmp_path / "home", table, column, value)
        if home is None:
            continue
        monkeypatch.chdir(home)
        with closing(sqlite3.connect(home / "bench.db")) as database:
            (key,) = database.execute("SELECT key FROM runs ORDER BY seed").fetchone()
        key = key if isinstance(key, str) else "0"
        for command in COMMANDS if FULL else dice.sample(COMMANDS, 4):
            tried += 1
            try:
                words = [key if word == "KEY" else word for word in command]
                shown = called(words, home, strict=False)
            except Exception:  # noqa: BLE001
                edited = " ".join(find_edited_rows(sqlite_url(home / "bench.db")))
                assert f"of table {table} has" in edited, (value, command)
                continue
            if "--json" in command and shown.exit_code == 0:
                parsed(shown)
        monkeypatch.chdir(tmp_path)
        assert [path.name for path in tmp_path.iterdir()] == ["home"]
        shutil.rmtree(home)
    record_property("bad inputs", tried)


@pytest.mark.parametrize(
    ("statement", "named"),
    [
        ("UPDATE runs SET spec = '[]' WHERE seed = 1", "'[]' as spec"),
        ("UPDATE runs SET spec = replace(spec, '0.01', '0.02')", "as spec"),
        ("UPDATE runs SET status = 'finished' WHERE seed = 1", "'finished' as status"),
        ("UPDATE runs SET created_at = 1e300", "1e+300 as created_at"),
        ("UPDATE metrics SET kind = 'many'", "'many' as kind"),
        ("UPDATE curves SET steps = '[1, 2'", "as values"),
        ("UPDATE environments SET environment = 'none'", "'none' as environment"),
        ("UPDATE runs SET method = x'ff00' WHERE seed = 1", "as method"),
    ],
)
def test_doctor_names_a_row_that_was_edited_and_says_what_to_do(statement, named, filled, tmp_path):
    home = tmp_path / "home"
    shutil.copytree(filled, home)
    with closing(sqlite3.connect(home / "bench.db")) as database:
        database.execute(statement)
        database.commit()
    before = snapshot(home)
    found = called(("doctor", "--json"), home)
    faults = parsed(found)
    assert (
        found.exit_code,
        {fault["kind"] for fault in faults},
        {fault["state"] for fault in faults},
    ) == (3, {"row"}, {"lost"})
    assert all(named in fault["fault"] and "backup" in fault["advice"] for fault in faults)
    assert snapshot(home) == before


def test_a_command_that_reads_what_is_not_json_says_who_looks_for_it(filled, tmp_path):
    home = tmp_path / "home"
    shutil.copytree(filled, home)
    with closing(sqlite3.connect(home / "bench.db")) as database:
        database.execute("UPDATE runs SET settings = '[[['")
        database.commit()
    shown = called(("list", "runs"), home)
    assert shown.exit_code == 1
    assert "'[[['" in shown.stderr
    assert "See: bench doctor" in shown.stderr


def calls(tree):
    """Every call by the dotted name that it is written under, with its keywords."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield (
                ast.unparse(node.func),
                {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords},
            )


def test_nothing_unpickles_and_no_yaml_makes_objects():
    """In all of the program: no pickle, no torch.load, and of YAML only the safe loader, which
    `yaml_source` narrows.
    """
    files = [
        path
        for folder in ("harness", "methods", "tasks", "studies")
        for path in (ROOT / folder).rglob("*.py")
    ]
    assert len(files) > 100
    for path in files:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        imported = {
            name.name
            for node in ast.walk(tree)
            if isinstance(node, ast.Import)
            for name in node.names
        }
        imported |= {
            node.module
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom) and node.module
        }
        assert not imported & {
            "pickle",
            "cPickle",
            "dill",
            "cloudpickle",
            "joblib",
            "marshal",
            "shelve",
        }, path
        assert "yaml" not in imported or path.name == "yaml_source.py", path
        for name, keywords in calls(tree):
            assert name not in {"torch.load", "pickle.load", "pickle.loads", "pd.read_pickle"}, (
                path,
                name,
            )
            assert keywords.get("allow_pickle", "False") == "False", (
                path,
                name,
            )  # numpy refuses unless asked
            assert name not in {
                "yaml.load",
                "yaml.unsafe_load",
                "yaml.full_load",
                "eval",
                "exec",
            }, (path, name)
    loader = ast.parse((ROOT / "harness" / "base" / "yaml_source.py").read_text(encoding="utf-8"))
    bases = [
        ast.unparse(base)
        for node in ast.walk(loader)
        if isinstance(node, ast.ClassDef)
        for base in node.bases
    ]
    assert [base for base in bases if "Loader" in base] == ["yaml.SafeLoader"]
