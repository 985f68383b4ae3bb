"""Plugins that are not installed: known by their text, run where the user named them, and nowhere
else.
"""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import json_lines
from forked import Forked

from harness.base.errors import PluginError
from harness.base.spec import digest
from harness.base.workspace import sqlite_url
from harness.plan import plugin_source as sources
from harness.plan import registry
from harness.store import ResultStore

ROOT = Path(__file__).parent.parent
SMOKE = ("-t", "gaussian-2", "--protocol", "smoke")
PLUGIN = '''
from typing import ClassVar
import torch
from harness.api import Method, Particles
{imports}

class Mine(Method, frozen=True):
    """A method in one file."""

    name: ClassVar[str] = "{name}"
    source: ClassVar[str] = "a test"
    {body}

    def init(self, dim, noise, n_context=0):
        return {{"shift": torch.zeros(dim, dtype=torch.float64)}}

    def particles(self, params, problem, noise, n_particles, trace=False):
        z_0 = problem.base.sample(noise, n_particles)
        z = z_0 + params["shift"]
        return Particles(z, problem.log_joint(z) - problem.base.log_prob(z_0) + {added})
'''

pytestmark = pytest.mark.usefixtures("no_mirror")


def plugin(
    path: Path, added: str = "0.0", name: str = "mine", imports: str = "", body: str = ""
) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(PLUGIN.format(added=added, name=name, imports=imports, body=body))
    return path


def in_process(
    folder: Path, *arguments: str, **environment: str
) -> subprocess.CompletedProcess[str]:
    """The command line in a process of its own that starts in `folder`."""
    inherited = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("BENCH_", "MLFLOW_"))
    }
    variables = {**inherited, "PYTHONPATH": str(ROOT), **environment}
    if "PYTHONPATH" in environment:  # what is found there is known to a new interpreter only
        command = [sys.executable, "-m", "harness.cli", *arguments]
        return subprocess.run(
            command, cwd=folder, env=variables, capture_output=True, text=True, timeout=300
        )
    process = Forked(list(arguments), variables, folder)
    stdout, stderr = process.communicate(timeout=300)
    return subprocess.CompletedProcess(arguments, process.returncode or 0, stdout, stderr)


def elbo(line: dict) -> float:
    return float(line["metrics"]["elbo"])


# What a plugin is


def test_an_edited_file_is_another_cell_and_the_two_are_never_averaged(bench, workspace):
    plugin(workspace / "mine.py")
    old = json_lines(bench("run", "-m", "./mine.py:Mine", *SMOKE, "--seeds", "0-1", "--json"))
    plugin(workspace / "mine.py", added="1e6")
    new = json_lines(bench("run", "-m", "./mine.py:Mine", *SMOKE, "--seeds", "0-2", "--json"))
    assert [line["outcome"] for line in new] == ["ran"] * 3
    assert {line["cell"] for line in old}.isdisjoint(line["cell"] for line in new)
    assert {line["method"] for line in old + new} == {"mine"}
    (entry,) = json_lines(bench("compare", "--metric", "elbo", "--json"))
    assert entry["seeds"] == "0 1 2"
    table = bench("compare", "--metric", "elbo").stdout
    code = registry.find("method", "./mine.py:Mine").source
    assert "2 runs (older code of mine" in " ".join(table.split())
    assert code.digest[:8] not in table  # the newest needs no name
    plugin(workspace / "mine.py")
    older = registry.find("method", "./mine.py:Mine").source.digest[:8]
    (entry,) = json_lines(bench("compare", "-m", f"mine@{older}", "--metric", "elbo", "--json"))
    assert entry["seeds"] == "0 1"
    rows = json_lines(bench("export", "--format", "jsonl"))
    assert {
        (row["seed"], row["method_source"] == code.digest, row["in_means"])
        for row in rows
        if "seed" in row
    } == {
        (0, False, False),
        (1, False, False),
        (0, True, True),
        (1, True, True),
        (2, True, True),
    }


def test_the_same_file_in_another_folder_is_the_same_method(bench, workspace):
    plugin(workspace / "one" / "mine.py")
    plugin(workspace / "two" / "mine.py")
    (ran,) = json_lines(bench("run", "-m", "./one/mine.py:Mine", *SMOKE, "--json"))
    (hit,) = json_lines(bench("run", "-m", "./two/mine.py:Mine", *SMOKE, "--json"))
    assert (ran["outcome"], hit["outcome"], hit["key"]) == ("ran", "hit", ran["key"])


def test_a_neighbour_that_it_imports_is_part_of_it(bench, workspace):
    for folder, value in (("one", "0.0"), ("two", "1e6")):
        plugin(
            workspace / folder / "mine.py",
            added="nets.ADDED + VALUE",
            imports="import nets\nfrom deep.values import VALUE",
        )
        (workspace / folder / "nets.py").write_text(f"ADDED = {value}\n")
        (workspace / folder / "deep").mkdir()
        (workspace / folder / "deep" / "__init__.py").write_text("")
        (workspace / folder / "deep" / "values.py").write_text("from .zero import VALUE\n")
        (workspace / folder / "deep" / "zero.py").write_text("VALUE = 0.0\n")
    one = json_lines(bench("run", "-m", "./one/mine.py:Mine", *SMOKE, "--json"))[0]
    two = json_lines(bench("run", "-m", "./two/mine.py:Mine", *SMOKE, "--json"))[0]
    assert one["key"] != two["key"]
    assert elbo(two) - elbo(one) == pytest.approx(1e6, rel=1e-6)
    with ResultStore.open(sqlite_url(workspace / "bench.db")) as store:
        stored = sources.parsed(store.source(store.rows([two["key"]])[two["key"]].method_source))
    assert set(stored.files) == {
        "mine.py",
        "nets.py",
        "deep/__init__.py",
        "deep/values.py",
        "deep/zero.py",
    }


def test_a_method_that_ships_may_be_extended_by_the_name_it_has_here(bench, workspace):
    (workspace / "mine.py").write_text(
        "from methods.hvae import HVAE\n\n"
        'class Mine(HVAE, frozen=True):\n    """HVAE."""\n    name = "mine"\n'
    )
    runs = ["run", *SMOKE, "--json"]
    (mine,) = json_lines(bench(*runs, "-m", "./mine.py:Mine"))
    (theirs,) = json_lines(bench(*runs, "-m", "hvae"))
    assert elbo(mine) == elbo(theirs)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("vb", "as an installed method does"),
        ("../up", "is up to 60 letters"),
        ("", "is up to 60 letters"),
    ],
)
def test_a_name_that_is_taken_or_none_is_refused(bench, workspace, name, says):
    plugin(workspace / "mine.py", name=name)
    refused = bench("run", "-m", "./mine.py:Mine", *SMOKE)
    assert refused.exit_code == 2
    assert says in refused.stderr
    assert not (workspace / "bench.db").exists()


def test_fields_of_one_text_in_two_classes_are_told_apart_by_name(bench, workspace):
    text = plugin(workspace / "mine.py").read_text()
    (workspace / "mine.py").write_text(text + "\n\nclass Other(Mine, frozen=True):\n    pass\n")
    refused = bench("run", "-m", "./mine.py:Mine", *SMOKE)
    assert (refused.exit_code, "as Other beside it does" in refused.stderr) == (2, True)
    assert bench("check", "./mine.py:Mine").exit_code in (
        0,
        3,
    )  # what is not stored needs no name of its own


# Who makes it, and where


def test_a_worker_makes_a_run_from_the_text_that_was_queued_wherever_it_stands(workspace):
    plugin(workspace / "here" / "mine.py")
    plugin(workspace / "there" / "mine.py", added="1e6")
    queued = in_process(
        workspace / "here",
        "run",
        "-m",
        "./mine.py:Mine",
        *SMOKE,
        "--queue",
        "--json",
        BENCH_HOME=str(workspace),
    )
    assert queued.returncode == 0, queued.stderr
    made = in_process(
        workspace / "there", "worker", "--drain", "--allow-plugins", BENCH_HOME=str(workspace)
    )
    assert made.returncode == 0, made.stderr
    again = in_process(
        workspace / "here",
        "run",
        "-m",
        "./mine.py:Mine",
        *SMOKE,
        "--json",
        BENCH_HOME=str(workspace),
    )
    alone = in_process(
        workspace / "here",
        "run",
        "-m",
        "./mine.py:Mine",
        *SMOKE,
        "--json",
        BENCH_HOME=str(workspace / "other"),
    )
    assert (json.loads(again.stdout)["outcome"], elbo(json.loads(again.stdout))) == (
        "hit",
        elbo(json.loads(alone.stdout)),
    )


def test_a_worker_that_was_not_told_to_sets_such_runs_aside_and_makes_the_others(bench, workspace):
    plugin(workspace / "mine.py")
    bench("run", "-m", "./mine.py:Mine", "-m", "vb", *SMOKE, "--seeds", "0-1", "--queue")
    registry.named.clear()
    worked = bench("worker", "--drain")
    assert worked.exit_code == 3
    assert all(
        part in worked.stderr for part in ("may not run here. If you trust", "--allow-plugins")
    )
    assert "Ended 2 runs, 2 of them done. 2 runs set aside." in worked.stderr
    statuses = {
        (line["method"], line["status"]) for line in json_lines(bench("list", "runs", "--json"))
    }
    assert statuses == {("mine", "queued"), ("vb", "done")}
    assert bench("worker", "--drain", "--allow-plugins").exit_code == 0


def test_workers_of_the_command_that_named_it_make_it(workspace):
    plugin(workspace / "mine.py")
    made = in_process(
        workspace,
        "run",
        "-m",
        "./mine.py:Mine",
        *SMOKE,
        "--seeds",
        "0-1",
        "--workers",
        "2",
        "--json",
    )
    assert made.returncode == 0, made.stderr
    assert [json.loads(line)["status"] for line in made.stdout.splitlines()] == ["done", "done"]


def test_stored_text_that_is_not_what_its_name_says_is_not_run(bench, workspace):
    plugin(workspace / "mine.py")
    bench("run", "-m", "./mine.py:Mine", *SMOKE, "--queue")
    registry.named.clear()
    evil = sources.Source("mine.py", {"mine.py": f"open({str(workspace / 'ran')!r}, 'w')"})
    with sqlite3.connect(workspace / "bench.db") as database:
        database.execute("UPDATE sources SET source = ?", (evil.text,))
    worked = bench("worker", "--drain", "--allow-plugins")
    assert (worked.exit_code, "does not have that hash" in worked.stderr) == (3, True)
    assert not (workspace / "ran").exists()
    assert "sources" in bench("doctor").stdout


@pytest.mark.parametrize("name", ["plots:Evil", "./plots.py:Evil", "antigravity:Evil"])
def test_a_row_that_names_a_file_or_a_module_that_lies_around_runs_nothing(workspace, name):
    """As earlier releases stored them, and as anybody could who may write there."""
    (workspace / "plots.py").write_text(f"open({str(workspace / 'ran')!r}, 'w')")
    assert in_process(workspace, "run", "-m", "vb", *SMOKE, "--queue").returncode == 0
    with sqlite3.connect(workspace / "bench.db") as database:
        spec = json.loads(database.execute("SELECT spec FROM runs").fetchone()[0]) | {
            "method": name
        }
        text = json.dumps(spec, sort_keys=True, separators=(",", ":"))
        database.execute("PRAGMA foreign_keys = OFF")
        database.execute(
            "UPDATE runs SET method = ?, spec = ?, key = ?", (name, text, digest(spec))
        )
    for arguments in ((), ("--allow-plugins",)):
        worked = in_process(workspace, "worker", "--drain", *arguments)
        assert (worked.returncode, "was not kept" in worked.stderr) == (3, True), worked.stderr
    assert not (workspace / "ran").exists()


def test_a_row_whose_specification_is_none_stops_no_worker(bench, workspace):
    bench("run", "-m", "vb", *SMOKE, "--seeds", "0-1", "--queue")
    with sqlite3.connect(workspace / "bench.db") as database:
        database.execute("UPDATE runs SET spec = '{}', cell = 'another' WHERE seed = 0")
    worked = bench("worker", "--drain")
    assert (worked.exit_code, "is not as bench writes it" in worked.stderr) == (3, True)
    with sqlite3.connect(workspace / "bench.db") as database:
        assert dict(database.execute("SELECT seed, status FROM runs")) == {0: "queued", 1: "done"}


def test_a_plugin_that_has_gone_is_set_aside_with_its_reason(bench, workspace, monkeypatch):
    bench("run", "-m", "vb", "-m", "pnf", *SMOKE, "--queue")
    find = registry.find

    def without_pnf(kind, text):
        if text == "pnf":
            raise PluginError("pnf was uninstalled")
        return find(kind, text)

    monkeypatch.setattr(registry, "find", without_pnf)
    worked = bench("worker", "--drain")
    assert (worked.exit_code, "pnf was uninstalled" in worked.stderr) == (3, True)
    assert {
        (line["method"], line["status"]) for line in json_lines(bench("list", "runs", "--json"))
    } == {("vb", "done"), ("pnf", "queued")}


def test_what_is_made_anew_has_the_code_that_made_it(bench, workspace):
    bench("run", "-m", "vb", *SMOKE)
    with sqlite3.connect(workspace / "bench.db") as database:
        (now,) = database.execute("SELECT source_hash FROM runs").fetchone()
        database.execute("UPDATE runs SET source_hash = 'another'")
    assert bench("run", "-m", "vb", *SMOKE, "--rerun").exit_code == 0
    with sqlite3.connect(workspace / "bench.db") as database:
        assert database.execute("SELECT source_hash FROM runs").fetchone() == (now,)


def test_what_may_not_run_here_waits_for_who_may_run_it(bench, workspace):
    """A worker that was not told to run the code of a rerun leaves the request as it is."""
    plugin(workspace / "mine.py")
    bench("run", "-m", "./mine.py:Mine", *SMOKE)
    bench("run", "-m", "./mine.py:Mine", *SMOKE, "--rerun", "--queue")
    registry.named.clear()
    assert bench("worker", "--drain").exit_code == 3
    (line,) = json_lines(bench("list", "runs", "--json"))
    assert line["status"] == "queued"
    assert bench("worker", "--drain", "--allow-plugins").exit_code == 0


# Broken plugins


BROKEN = {
    "syntax.py": "class Mine(:\n",
    "latin.py": "# \xe9t\xe9\n",
    "exits.py": "import sys\nsys.exit(7)\n",
    "raises.py": "raise RuntimeError('no')\n",
}


@pytest.mark.parametrize("name", sorted(BROKEN))
def test_a_file_that_cannot_be_loaded_is_one_line_where_it_is_named(bench, workspace, name):
    (workspace / name).write_bytes(BROKEN[name].encode("latin-1"))
    refused = bench("run", "-m", f"./{name}:Mine", *SMOKE)
    assert refused.exit_code in (1, 2)
    assert name in refused.stderr
    assert len(refused.stderr.strip().splitlines()) == 1


def test_broken_files_among_the_methods_and_broken_entry_points_hurt_nobody_else(workspace):
    """A copy of the program whose folder of methods has broken files, beside a distribution with
    broken entry points.
    """
    import shutil

    program, site = workspace / "program", workspace / "site"
    for package in ("harness", "methods", "tasks", "studies"):
        shutil.copytree(
            ROOT / package, program / package, ignore=shutil.ignore_patterns("__pycache__")
        )
    for name, text in BROKEN.items():
        (program / "methods" / name).write_bytes(text.encode("latin-1"))
    (program / "methods" / "computed.py").write_text(
        PLUGIN.format(name="computed", added="0.0", imports="", body="variants = dict(a={})")
    )
    info = site / "broken-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[bench.methods]\nbroken = nowhere.at.all:Broken\n[bench.tasks]\nlost = nowhere:Lost\n"
    )
    path = {"PYTHONPATH": f"{program}{os.pathsep}{site}", "BENCH_HOME": str(workspace)}
    for command in (
        ("run", "-m", "vb", "-m", "computed", *SMOKE),
        ("list", "methods"),
        ("compare",),
        ("list", "runs"),
        ("report", "-o", "r.html"),
        ("export", "--format", "csv"),
    ):
        done = in_process(workspace, *command, **path)
        assert done.returncode == 0, (command, done.stderr)
        assert "Traceback" not in done.stderr
    named = in_process(workspace, "run", "-m", "broken", *SMOKE, **path)
    assert (named.returncode, "nowhere" in named.stderr, "Traceback" in named.stderr) == (
        2,
        True,
        False,
    )


def test_a_method_that_cannot_draw_in_every_shape_has_its_tables(bench, workspace):
    """Couplings need two dimensions, antithetic draws two particles; counting what a draw costs
    must not ask for others.
    """
    body = (
        "def init(self, dim, noise, n_context=0):\n        raise ValueError('this method needs "
        "an even dimension')\n"
    )
    plugin(workspace / "mine.py", body=body.replace("init", "init_"))
    text = (
        (workspace / "mine.py")
        .read_text()
        .replace("return {", "assert dim % 2 == 1\n        return {")
    )
    (workspace / "mine.py").write_text(text)
    made = bench("run", "-m", "./mine.py:Mine", "-t", "gaussian-3", "--protocol", "smoke")
    assert made.exit_code == 0, made.stderr
    for command in (
        ("compare", "--costs"),
        ("export", "--format", "csv"),
        ("report", "-o", "r.html"),
        ("why", "-m", "mine"),
    ):
        assert bench(*command).exit_code == 0
