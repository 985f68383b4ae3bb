"""Rows of the database that were edited by hand, and what is never read: pickles, and YAML that makes objects."""

from __future__ import annotations

import ast
import shutil
import sqlite3
from pathlib import Path

import filled_store
import pytest
from hostile import ESCAPES, MARKUP, called, parsed, snapshot

pytestmark = pytest.mark.usefixtures("no_mirror")

ROOT = Path(__file__).parent.parent.parent
READING = (("list", "runs"), ("list", "runs", "--json"), ("compare",), ("compare", "--json"), ("why",), ("why", "--json"))
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
    hostile = [text for text in (*ESCAPES, *MARKUP) if text.encode("utf-8", "replace").decode() == text and "\0" not in text]
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


def calls(tree):
    """Every call by the dotted name that it is written under, with its keywords."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}


def test_nothing_unpickles_and_no_yaml_makes_objects():
    """In all of the program: no pickle, no torch.load, and of YAML only the safe loader, which `plainyaml` narrows."""
    files = [path for folder in ("harness", "methods", "tasks", "studies") for path in (ROOT / folder).rglob("*.py")]
    assert len(files) > 100
    for path in files:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        imported = {name.name for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names}
        imported |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module}
        assert not imported & {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}, path
        assert "yaml" not in imported or path.name == "plainyaml.py", path
        for name, keywords in calls(tree):
            assert name not in {"torch.load", "pickle.load", "pickle.loads", "pd.read_pickle"}, (path, name)
            assert keywords.get("allow_pickle", "False") == "False", (path, name)  # numpy refuses unless asked
            assert name not in {"yaml.load", "yaml.unsafe_load", "yaml.full_load", "eval", "exec"}, (path, name)
    loader = ast.parse((ROOT / "harness" / "plainyaml.py").read_text(encoding="utf-8"))
    bases = [ast.unparse(base) for node in ast.walk(loader) if isinstance(node, ast.ClassDef) for base in node.bases]
    assert [base for base in bases if "Loader" in base] == ["yaml.SafeLoader"]
