"""What is typed: selectors, settings, seeds, names and paths that nobody means."""

from __future__ import annotations

import os
import re
from contextlib import suppress

import pytest
from hostile import TEXTS as WRITTEN
from hostile import called, snapshot, tried
from hypothesis import strategies as st

pytestmark = pytest.mark.usefixtures("no_mirror")


def can_be_typed(text: str) -> bool:
    """Whether a system passes a program such an argument: without a NUL, and made of bytes."""
    with suppress(UnicodeEncodeError):
        return b"\0" not in os.fsencode(text)
    return False


TEXTS = WRITTEN.filter(can_be_typed)
RUN = ("run", "-m", "vb", "-t", "gaussian-2", "--protocol", "smoke", "--dry-run", "--json")
SELECTORS = st.one_of(
    TEXTS,
    st.builds("{}[{}={}]".format, st.sampled_from(("vb", "hvae", "iaf")), TEXTS, TEXTS),
    st.builds("hvae[n_leapfrog={}]".format, TEXTS),
    st.builds("gaussian-{}".format, TEXTS),
    st.builds("./{}.py:{}".format, TEXTS, TEXTS),
)
FIELDS = st.sampled_from(
    ("lr", "steps", "batch_size", "dtype", "clip_norm", "task.dim", "task.n_data", "eval_particles")
)
SETTINGS = st.one_of(
    TEXTS,
    st.builds("{}={}".format, FIELDS | TEXTS, TEXTS),
    st.builds("{}={}".format, FIELDS, st.integers() | st.floats()),
)
SEEDS = st.one_of(
    TEXTS,
    st.builds("{}-{}".format, st.integers(), st.integers()),
    st.lists(st.integers(), max_size=5).map(lambda n: ",".join(map(str, n))),
)
OPTIONS = {
    "-m": SELECTORS,
    "-t": SELECTORS,
    "--set": SETTINGS,
    "--seeds": SEEDS,
    "--protocol": TEXTS,
    "--preset": TEXTS,
}


@pytest.fixture
def home(tmp_path):
    """A workspace with a neighbour that nothing may touch."""
    (tmp_path / "neighbour").mkdir()
    (tmp_path / "neighbour" / "file").write_text("mine")
    (tmp_path / "home").mkdir()
    return tmp_path / "home"


@pytest.mark.parametrize("option", OPTIONS)
def test_whatever_is_typed_is_runs_or_one_line(option, home, monkeypatch, record_property):
    monkeypatch.chdir(home)
    before = snapshot(home.parent)

    def typed(value):
        called([*RUN, f"{option}={value}" if option.startswith("--") else f"{option}{value}"], home)

    record_property("bad inputs", tried(typed, {"value": OPTIONS[option]}, 30, 3000))
    assert snapshot(home.parent) == before


RIGHT_SPACE = re.compile("lr|steps|leapfrog|dim")
"""Such a space may be one to search, and then it is searched."""
COMMANDS = (
    *(
        ("show",),
        ("why",),
        ("rm",),
        ("verify",),
        ("nothing",),
        ("import",),
        ("sample", "-r"),
        ("encode", "-r"),
    ),
    *(
        ("study", "show"),
        ("study", "status"),
        ("study", "best"),
        ("study", "run", "--dry-run"),
        ("data", "verify"),
        ("data", "fetch"),
    ),
    *(("list", "runs", "--status"), ("list", "runs", "-m"), ("list", "runs", "-n")),
    *(
        ("compare", "--metric"),
        ("compare", "-m"),
        ("compare", "--seeds"),
        ("invalidate", "--reason"),
        ("invalidate", "-m"),
    ),
    *(("export", "--format"), ("export", "--status"), ("export", "--study")),
    *((*RUN, "--time-limit"), (*RUN, "--memory-limit"), (*RUN, "--workers")),
    *(("tune", "-m"), ("tune", *RUN[1:5], "--space"), ("tune", *RUN[1:5], "--sampler")),
)


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_refuses_what_it_does_not_know(command, home, monkeypatch, record_property):
    """A workspace without results, so whatever is typed finds nothing."""
    monkeypatch.chdir(home)
    before = snapshot(home.parent)

    def typed(value):
        called([*command, value], home)

    texts = TEXTS.filter(
        lambda text: bool(text) and not (command[-1] == "--space" and RIGHT_SPACE.search(text))
    )
    record_property("bad inputs", tried(typed, {"value": texts}, 12, 1000))
    assert snapshot(home.parent) == before


@pytest.mark.parametrize("command", ["show", "run --dry-run -t gaussian-2 -m"])
def test_a_name_that_no_file_can_have_is_refused(command, home):
    assert called([*command.split(), '{"a":' * 2000], home).exit_code == 2
