"""`bench figure`: what is drawn is what is stored."""

from __future__ import annotations

import json
import shutil
import statistics
from collections.abc import Iterator
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
from click.testing import CliRunner
from conftest import NoMirror

from harness.cli import main
from harness.cli.figure import KINDS
from harness.report import paper
from harness.report.view import View
from harness.store import ResultStore

FUNNEL = """
from torch.distributions import Normal
from harness.api import LogDensity

class MyFunnel(LogDensity):
    "Neal's funnel."
    dim, log_z = 3, 0.0
    def log_density(self, z):
        v, x = z[..., :1], z[..., 1:]
        return Normal(0, 3).log_prob(v)[..., 0] + Normal(0, (v / 2).exp()).log_prob(x).sum(-1)
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A workspace of two methods on three sizes and a target, three seeds each."""
    folder = tmp_path_factory.mktemp("figures")
    (folder / "my_funnel.py").write_text(FUNNEL)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr("harness.tracking.Mirror.start", NoMirror.start)
        tasks = [word for n in (2, 3, 4) for word in ("-t", f"gaussian-{n}")]
        options = ["--protocol", "smoke", "--seeds", "0-2", "--set", "steps=60"]
        result = CliRunner().invoke(
            main, ["run", "-m", "vb", "-m", "pnf", *tasks, "-t", "./my_funnel.py", *options]
        )
        assert result.exit_code == 0, result.output
        yield folder


@pytest.fixture
def there(home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    shutil.copytree(home, tmp_path / "home")
    monkeypatch.chdir(tmp_path / "home")
    return tmp_path / "home"


def drawn(kind: str, metric: str | None = None, task: str = "*"):
    """The figure as matplotlib has it, and the selected runs."""
    from harness.analysis.selection import RunFilter, select_runs

    with ResultStore.open("sqlite:///bench.db") as store, mpl.rc_context(paper.STYLE):
        view = View(select_runs(store, RunFilter(tasks=(task,))))
        return paper.KINDS[kind](view, metric, 6.9), view


def means(metric: str) -> dict[tuple[str, str], float]:
    """The mean of each method on each task, from `bench compare`."""
    result = CliRunner().invoke(main, ["compare", "--metric", metric, "--json"])
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    return {(row["method"], row["task"]): row["mean"] for row in rows if "mean" in row}


def test_the_kinds_of_the_command_are_those_that_are_drawn():
    assert tuple(paper.KINDS) == KINDS


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("suffix", "magic"), [(".pdf", b"%PDF"), (".svg", b"<?xml"), (".png", b"\x89PNG")]
)
def test_a_file_is_written_and_the_same_runs_give_the_same_bytes(there, kind, suffix, magic):
    files = [Path(f"{name}{suffix}") for name in ("one", "two")]
    for file in files:
        result = CliRunner().invoke(main, ["figure", kind, "-o", str(file)])
        assert result.exit_code == 0, result.output
        assert "For the caption: n = 3 finished runs each, seeds 0-2" in result.stderr
        assert "steps=60" in result.stderr
    first, second = (file.read_bytes() for file in files)
    assert first == second
    assert first.startswith(magic)


def test_scores_are_the_means_of_compare(there):
    figure, _ = drawn("scores", "elbo")
    expected = means("elbo")
    assert {axis.get_title(loc="left") for axis in figure.axes} == {task for _, task in expected}
    for axis in figure.axes:
        names = [label.get_text() for label in axis.get_yticklabels()]
        points = [line for line in axis.get_lines() if line.get_marker() not in ("None", "")]
        assert len(points) == len(names) == 2
        for line in points:
            ((x,), (y,)) = line.get_xdata(), line.get_ydata()
            assert x == pytest.approx(expected[names[int(y)], axis.get_title(loc="left")])
        assert axis.get_xlabel().startswith("elbo (nats)")


def test_sizes_are_on_the_axis_with_the_exact_fit(there):
    figure, _ = drawn("dimension", "sigma_sq_error", "gaussian-*")
    expected, exact = means("sigma_sq_error"), means("mle_sigma_sq_error")
    (axis,) = figure.axes
    lines = [line for line in axis.get_lines() if list(line.get_xdata()) == [2, 3, 4]]
    assert len(lines) == 3
    by_color = {line.get_color(): list(line.get_ydata()) for line in lines}
    assert by_color.pop("black") == pytest.approx([exact["vb", f"gaussian-{n}"] for n in (2, 3, 4)])
    for row, method in zip(sorted(by_color.values()), ("pnf", "vb"), strict=True):
        assert row == pytest.approx([expected[method, f"gaussian-{n}"] for n in (2, 3, 4)])


def test_curves_are_gaps_to_what_a_perfect_fit_would_have(there):
    figure, view = drawn("curves", task="my-funnel-3")
    (axis,) = figure.axes
    assert axis.get_ylabel() == "gap of the training bound (nats)"
    lines = [line for line in axis.get_lines() if len(line.get_xdata()) > 2]
    with ResultStore.open("sqlite:///bench.db") as store:
        for group, line in zip(view.groups, lines, strict=True):
            curves = [dict(store.curves(run.key)["bound"]) for run in group.done]
            middle = [statistics.median(-curve[step] for curve in curves) for step in curves[0]]
            np.testing.assert_allclose(line.get_ydata(), middle, rtol=1e-9)  # log Z = 0
    figure, view = drawn("curves", task="gaussian-2")
    for group, line in zip(
        view.groups,
        [line for line in figure.axes[0].get_lines() if len(line.get_xdata()) > 2],
        strict=True,
    ):
        values = {
            name: view.sample.values(group, name) for name in ("elbo", "elbo_gap", "evidence_gap")
        }
        assert (np.asarray(line.get_ydata()) > 0).all(), group
        assert set(values["elbo"]) == {0, 1, 2}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["scores", "-o", "a.docx"], "Cannot tell the format of 'a.docx'"),
        (["scores", "-o", "a.pdf", "--metric", "nothing"], "There is nothing of 'nothing' to draw"),
        (["dimension", "-o", "a.pdf", "-t", "gaussian-2"], "No task was run in two sizes"),
        (["curves", "-o", "a.pdf", "-t", "norms-2"], "There is no finished run"),
        (["pie", "-o", "a.pdf"], "'pie'"),
    ],
)
def test_what_cannot_be_drawn_is_said_in_one_line(there, options, message):
    result = CliRunner().invoke(main, ["figure", *options])
    assert result.exit_code == 2
    assert message in result.stderr
    assert not list(Path().glob("a.*"))
