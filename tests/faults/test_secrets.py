"""What must not leave: passwords in addresses, and anything at all to other machines; and what must
not come in: code in data.
"""

from __future__ import annotations

import ipaddress
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote

import psutil
import pytest
from hostile import called
from runs import ROOT, prepared, start
from sqlalchemy import MetaData, select

from harness.base.workspace import Workspace, redact
from harness.store.database import Database
from harness.tracking.server import ui_command

SECRET = "Tr0ub4dor&3/x"
TOLD = (SECRET, quote(SECRET, safe=""))
SMOKE = ["-m", "vb", "-t", "gaussian-2", "--protocol", "smoke"]
TABLES = [
    ["list", "runs"],
    ["compare"],
    ["why"],
    ["export", "--format", "csv", "-o", "runs.csv"],
    ["report", "-o", "report.html"],
    ["doctor"],
]


def is_kept(text: str) -> bool:
    """Whether the password is nowhere in it."""
    return not any(form in text for form in TOLD)


def watched(process) -> tuple[str, set[str]]:
    """All that a command says, and the command lines of the processes that it starts."""
    lines: set[str] = set()
    while process.poll() is None:
        with suppress(psutil.Error):
            family = psutil.Process(process.pid)
            lines |= {" ".join(one.cmdline()) for one in (family, *family.children(recursive=True))}
        time.sleep(0.05)
    return "".join(process.communicate()), lines


def dumped(url: str) -> str:
    """Every value of a database."""
    tables = MetaData()
    with Database(url) as database, database.read() as connection:
        tables.reflect(connection)
        return "\n".join(
            str(row) for table in tables.sorted_tables for row in connection.execute(select(table))
        )


def test_a_password_is_in_no_output_no_file_no_database_and_no_command_line(
    postgres_database, tmp_path, record_property
):
    """On a real server, with a tracking server that is away: `run`, then everything that shows or
    writes results.
    """
    url = postgres_database().replace("bench@", f"bench:{TOLD[1]}@")
    assert TOLD[1] in url
    home = prepared(tmp_path / "home")
    secrets = {
        "BENCH_DATABASE_URL": url,
        "MLFLOW_TRACKING_URI": f"http://ada:{TOLD[1]}@127.0.0.1:9",
    }
    said, lines = watched(start(home, [*SMOKE, "--workers", "1"], **secrets))
    assert '"done"' in said
    assert any("harness.execution.workers" in line for line in lines)
    for command in TABLES:
        words = [
            str(home / word) if word.startswith(("runs.", "report.")) else word for word in command
        ]
        more, named = watched(start(home, words[1:], words[0], **secrets))
        said, lines = said + more, lines | named
    assert (home / "report.html").exists()
    assert is_kept(said)
    assert all(map(is_kept, lines))
    files = [path for path in home.rglob("*") if path.is_file()]
    assert all(is_kept(path.read_bytes().decode(errors="replace")) for path in files)
    assert "gaussian-2" in dumped(url)
    assert is_kept(dumped(url))
    record_property("faults", 1)


WRONG = (
    "postgresql://ada:{}@127.0.0.1:9/bench",
    "postgresql://127.0.0.1:9/bench?password={}&user=ada",
    "postgresql://ada:{}@127.0.0.1:none/bench",
    "postgresql://ada:{}@nowhere.invalid/bench",
    "mysql://ada:{}@127.0.0.1/bench",
    "postgresql+nothing://ada:{}@127.0.0.1/bench",
    "ada:{}@127.0.0.1/bench",
    "sqlite:///bench.db?password={}",
)


@pytest.mark.parametrize(
    "variable", ["BENCH_DATABASE_URL", "MLFLOW_TRACKING_URI", "BENCH_STUDY_URL"]
)
@pytest.mark.parametrize("address", WRONG)
def test_no_error_repeats_a_password(address, variable, tmp_path, monkeypatch, record_property):
    monkeypatch.setenv(variable, address.format(TOLD[1]))
    commands = [
        ["list", "runs"],
        ["ui", "--port", "0"],
        ["doctor"],
        ["tune", "-m", "vb", "-t", "gaussian-2", "--trials", "1", "--dry-run"],
    ]
    for command in commands:
        if command[0] == "ui" and variable != "MLFLOW_TRACKING_URI":
            continue  # it would serve
        result = called(command, tmp_path, strict=False)
        assert is_kept(result.output), command
    record_property("bad inputs", len(commands))


@pytest.mark.parametrize(
    "address",
    ["postgresql://ada:{}@host/bench", "ada:{}@host/bench", "postgresql://host/bench?password={}"],
)
def test_a_password_is_hidden_however_it_is_written(address):
    """Also one whose slashes are not spelt out, which makes the address one that no parser reads as
    it was meant.
    """
    shown = redact(address.format("a/b:c"))
    assert "a/b" not in shown
    assert "***" in shown


# Servers, and other machines


def test_the_pages_are_served_to_this_machine_only_and_report_nowhere(tmp_path):
    argv, environment = ui_command(Workspace(prepared(tmp_path / "home")))
    assert argv[argv.index("--host") + 1] == "127.0.0.1"
    assert (environment["MLFLOW_DISABLE_TELEMETRY"], environment["DO_NOT_TRACK"]) == (
        "true",
        "true",
    )


def is_here(address: str) -> bool:
    """Whether an address is of this machine."""
    return address in ("unix", "localhost") or ipaddress.ip_address(address).is_loopback


def test_a_session_connects_to_no_machine_unpickles_nothing_and_writes_into_its_workspace(
    tmp_path, record_property
):
    """A session with the audit hooks of Python: in the commands, and in the processes that they
    start.
    """
    home, other, heard = (
        prepared(tmp_path / "home"),
        prepared(tmp_path / "other"),
        tmp_path / "heard",
    )
    out = {name: str(home / name) for name in ("runs.bench", "runs.csv", "report.html")}
    session = [
        ("run", [*SMOKE, "--workers", "1"], home),
        ("tune", ["-m", "hvae", "-t", "gaussian-2", "--trials", "2", "--set", "steps=50"], home),
        ("compare", ["--json"], home),
        ("report", ["-o", out["report.html"]], home),
        ("export", ["--format", "csv", "-o", out["runs.csv"]], home),
        ("export", ["--bundle", out["runs.bench"]], home),
        ("import", [out["runs.bench"]], other),
        ("doctor", [], other),
    ]
    for command, arguments, place in session:
        process = start(
            place, arguments, command, PATH_FIRST=str(ROOT / "tests" / "faulty"), AUDIT=str(heard)
        )
        _, said = process.communicate(timeout=300)
        assert process.returncode == 0, (command, said)
    events = [line.partition(" ") for line in heard.read_text(errors="replace").splitlines()]
    written = {Path(said) for event, _, said in events if event == "open"}
    assert any(
        path.suffix == ".safetensors" or ".safetensors." in path.name for path in written
    )  # the hooks hear
    assert [said for event, _, said in events if event == "pickle.find_class"] == []
    assert [
        said for event, _, said in events if event == "socket.connect" and not is_here(said)
    ] == []
    elsewhere = {
        path
        for path in written
        if not any(path.is_relative_to(place) for place in (home, other, "/dev", "/proc"))
    }
    elsewhere -= {path for path in elsewhere if "__pycache__" in path.parts}
    assert {
        path
        for path in elsewhere
        if not path.is_relative_to(tempfile.gettempdir()) or path.is_relative_to(tmp_path)
    } <= {heard}
    record_property("bad inputs", len(session))
