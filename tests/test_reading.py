"""Reading commands read the databases and nothing else: no plugin is imported or run, whatever is
stored and whatever lies around.
"""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from test_plugins import SMOKE, in_process, plugin

from harness.base.spec import digest
from harness.plan import plugin_source as sources

ROOT = Path(__file__).parent.parent
HOOK = """
import json, sys
seen = []

def watch(event, arguments):
    name = getattr(arguments[0], "co_filename", "") if event == "exec" else arguments[0] if event == "import" else ""
    top = name.partition(".")[0]
    code = ("methods", "tasks", "plots", "broken", "gone", "evil", "nowhere")
    plugin = ("bench_plugin", "harness.methods.", "harness.tasks.")
    if event == "import" and (top in code or name.startswith(plugin)):
        seen.append(f"import {name}")
    known = (sys.prefix, sys.base_prefix, "-packages", "/harness/")
    if event == "exec" and name.startswith("/") and not any(place in name for place in known):
        seen.append(f"exec {name}")

sys.addaudithook(watch)
from click.testing import CliRunner
from harness.cli import main

for command in json.loads(sys.argv[1]):
    ended = CliRunner().invoke(main, command)
    error = ended.exception
    print(json.dumps({
        "command": command, "status": ended.exit_code, "allowed": [0, 3] if command[0] == "doctor" else [0], "seen": seen[:],
        "error": None if error is None or isinstance(error, SystemExit) else repr(error), "said": ended.stderr[-500:],
    }), flush=True)
    seen.clear()
"""
STUDY = """
summary: A search with a method in a file.
tune:
  methods: [./mine.py:Mine]
  tasks: [gaussian-2]
  protocol: smoke
  trials: 1
  space: ["lr=1e-3,1e-2"]
  seeds: "1000"
  report_seeds: "0"
"""
READING = [
    ("compare",),
    ("compare", "--costs", "--differences"),
    ("compare", "--format", "latex"),
    ("compare", "--json"),
    ("report", "-o", "report.html"),
    ("export", "--format", "csv"),
    ("export", "-o", "runs.parquet"),
    ("export", "--what", "curves", "--format", "jsonl"),
    ("export", "--bundle", "all.zip"),
    ("list", "runs"),
    ("list", "runs", "-m", "hvae-untempered"),
    ("list", "methods"),
    ("list", "tasks"),
    ("list", "studies"),
    ("study", "list"),
    ("study", "best", "tuned"),
    ("study", "show", "tuned"),
    ("study", "status", "tuned"),
    ("why", "-m", "vb"),
    ("db", "info"),
    ("doctor",),
    ("show", "KEY"),
    ("invalidate", "-m", "vb", "--reason", "a test", "--dry-run"),
]


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """A workspace with runs of installed, evil, broken and missing plugins, each in the ways in
    which they may be stored.
    """
    home = tmp_path_factory.mktemp("reading")
    plugin(home / "mine.py")
    made = in_process(
        home,
        "run",
        "-m",
        "./mine.py:Mine",
        "-m",
        "vb",
        "-m",
        "hvae-untempered",
        *SMOKE,
        "--seeds",
        "0-1",
    )
    assert made.returncode == 0, made.stderr
    (home / "tuned.yaml").write_text(STUDY)
    tuned = in_process(home, "study", "run", "tuned.yaml")
    assert tuned.returncode == 0, tuned.stderr
    (home / "tuned.yaml").unlink()
    evil = f"open({str(home / 'EVIL')!r}, 'a').write('ran')\n"
    (home / "plots.py").write_text(evil)
    (home / "mine.py").write_text(evil)  # the file that was queued is another one now
    (home / "broken.py").write_text("class Broken(:\n")
    with sqlite3.connect(home / "bench.db") as database:
        rows = database.execute("SELECT * FROM runs WHERE method = 'vb'")
        columns = [column[0] for column in rows.description]
        (row, *_) = [dict(zip(columns, values, strict=True)) for values in rows]
        text = sources.Source("evil.py", {"evil.py": evil}).text
        database.execute("INSERT INTO sources VALUES (?, ?)", ("e" * 64, text))
        hostile = [
            ("./plots.py:Evil", None),
            ("./broken.py:Broken", None),
            ("gone", None),
            ("nowhere.at:All", None),
            ("evil", "e" * 64),
        ]
        for number, (name, source) in enumerate(hostile):
            spec = (
                json.loads(row["spec"])
                | {"method": name}
                | ({"method_source": source} if source else {})
            )
            cell = digest({field: value for field, value in spec.items() if field != "seed"})
            changed = {
                "key": digest(spec),
                "cell": cell,
                "method": name,
                "method_source": source,
                "spec": _text(spec),
                "plan": None,
                "mlflow_run_id": None,
            }
            changed |= {"description": None} if number % 2 else {}
            values = row | changed
            database.execute(
                f"INSERT INTO runs VALUES ({', '.join('?' * len(columns))})",
                [values[column] for column in columns],
            )
            for table in ("metrics", "curves"):
                _copy(database, table, row["key"], values["key"])
    return home


def _text(value: object) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def _copy(database: sqlite3.Connection, table: str, old: str, new: str) -> None:
    found = database.execute(f"SELECT * FROM {table} WHERE run = ?", (old,)).fetchall()
    for row in found:
        database.execute(
            f"INSERT INTO {table} VALUES ({', '.join('?' * len(row))})",
            [new if value == old else value for value in row],
        )


@pytest.fixture
def copy(home, tmp_path) -> Iterator[Path]:
    """A copy of that workspace."""
    shutil.copytree(home, tmp_path / "home")
    yield tmp_path / "home"
    assert not (home / "EVIL").exists()


def run(folder: Path, commands: list[tuple[str, ...]]) -> list[dict]:
    """These commands one after the other in one process that writes down what it imports and runs;
    how each ended.
    """
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("BENCH_", "MLFLOW_"))
    }
    done = subprocess.run(
        [sys.executable, "-c", HOOK, json.dumps(commands)], cwd=folder, env={**environment, "PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_reading_commands_run_no_plugin(copy):
    with sqlite3.connect(copy / "bench.db") as database:
        (key,) = database.execute(
            "SELECT key FROM runs WHERE method = './plots.py:Evil'"
        ).fetchone()
    ended = run(
        copy, [tuple(key if word == "KEY" else word for word in command) for command in READING]
    )
    assert len(ended) == len(READING)
    wrong = [
        end for end in ended if end["seen"] or end["error"] or end["status"] not in end["allowed"]
    ]
    assert wrong == [], "\n".join(map(str, wrong))


def test_the_hook_sees_what_runs(copy):
    (end,) = run(copy, [("run", "-m", "vb", *SMOKE)])
    assert any(seen.endswith("/methods/vb.py") for seen in end["seen"])


def test_a_bundle_brings_no_code(copy, tmp_path):
    (end,) = run(copy, [("export", "--bundle", "all.zip")])
    assert (end["status"], end["seen"]) == (0, []), end
    other = tmp_path / "other"
    other.mkdir()
    for name in ("plots.py", "all.zip"):
        shutil.copyfile(copy / name, other / name)
    reading = [
        ("import", "all.zip"),
        ("compare",),
        ("list", "runs"),
        ("export", "--format", "csv"),
        ("report", "-o", "r.html"),
    ]
    assert [(end["status"], end["seen"]) for end in run(other, reading)] == [(0, [])] * len(reading)
