"""The files of the pages `add-a-task` and `add-a-method`, as a reader would copy them."""

from __future__ import annotations

import json
import re
from itertools import product
from pathlib import Path

import pytest

PAGES = Path(__file__).parent.parent / "docs"


def blocks(page: str) -> list[str]:
    """The Python code of a page."""
    return re.findall(r"```python\n(.*?)```", (PAGES / page).read_text(), re.DOTALL)


def block(page: str, word: str) -> str:
    (text,) = [text for text in blocks(page) if f"class {word}(" in text]
    return text


def code_lines(text: str) -> int:
    return sum(bool(line.strip()) for line in text.splitlines())


FUNNEL = block("add-a-task.md", "Funnel")
DRAWS = next(text for text in blocks("add-a-task.md") if text.startswith("    def draws"))
WITH_DRAWS = f"import torch\n{FUNNEL}{DRAWS}"
CANCER = block("add-a-task.md", "BreastCancer")
REAL_NVP = block("add-a-method.md", "RealNVP")
METHODS = ("vb", "iwae", "pnf", "iaf", "hvae", "hvae-iaf")


def test_the_examples_are_short():
    assert code_lines(FUNNEL) <= 8
    assert code_lines(CANCER) <= 30
    assert code_lines(REAL_NVP) <= 45


@pytest.mark.parametrize(
    ("name", "text"),
    [("funnel", FUNNEL), ("draws", WITH_DRAWS), ("cancer", CANCER), ("nvp", REAL_NVP)],
)
def test_each_passes_the_checks(bench, name, text):
    Path(f"{name}.py").write_text(text)
    result = bench("check", f"./{name}.py")
    assert result.exit_code == 0, result.output
    told = "holds  draws follow the density: worst |z|" in result.output
    assert told == (name == "draws")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("v = 3 * noise", "v = 2.9 * noise"),  # draws of another density
        ("log_z = 10, 0.0", "log_z = 10, 0.1"),
        ("Normal(0, 3)", "Normal(0.2, 3)"),
    ],
)
def test_exact_answers_that_do_not_agree_are_refused(bench, old, new):
    assert old in WITH_DRAWS
    Path("funnel.py").write_text(WITH_DRAWS.replace(old, new))
    result = bench("check", "./funnel.py")
    assert result.exit_code == 3
    assert "BROKEN draws follow the density" in result.output


@pytest.mark.usefixtures("no_mirror")
def test_every_method_runs_on_both_with_both_bases(bench):
    Path("funnel.py").write_text(FUNNEL)
    Path("cancer.py").write_text(CANCER)
    for base in ("prior", "learned"):
        result = bench(
            "run",
            *(option for method in METHODS for option in ("-m", method)),
            *("-t", "./funnel.py", "-t", "./cancer.py", "--protocol", "smoke", "--seeds", "0"),
            *("--set", f"base={base}", "--set", "steps=10", "--json"),
        )
        assert result.exit_code == 0, result.output
        runs = [json.loads(line) for line in result.stdout.splitlines()]
        assert {(run["method"], run["task"]) for run in runs} == set(
            product(METHODS, ("funnel-10", "breast-cancer"))
        )
        for run in runs:
            metrics = run["metrics"]
            assert ("elbo_gap" in metrics) == (run["task"] == "funnel-10")
            assert ("predictive" in metrics) == (run["task"] == "breast-cancer")
            if run["task"] == "funnel-10":
                assert metrics["elbo_gap"] == pytest.approx(-metrics["elbo"], abs=1e-9)
