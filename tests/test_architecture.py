"""The house rules that can be checked: size, imports, exported names, fresh pages."""

from __future__ import annotations

import ast
import importlib
import itertools
import re
import statistics
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCES = [
    path for folder in ("harness", "methods", "tasks") for path in (ROOT / folder).rglob("*.py")
]
PLUGIN_IMPORTS = {
    "harness",
    "torch",
    "numpy",
    "math",
    "typing",
    "__future__",
    "methods",
    "tasks",
    "collections",
    "dataclasses",
    "sklearn",
}
PLUGIN_IMPORTS |= {
    "collections",
    "csv",
    "functools",
    "itertools",
    "pathlib",
    "scipy",
    "sklearn",
    "struct",
}


def functions(path: Path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def length(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """The lines of a function without those of its docstring."""
    first = node.body[0]
    documented = ast.get_docstring(node, clean=False) is not None
    lines = node.end_lineno - node.lineno + 1
    return lines - (first.end_lineno - first.lineno + 1 if documented else 0)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_and_functions_fit_the_eye(path):
    assert len(path.read_text().splitlines()) <= 700
    assert {node.name: length(node) for node in functions(path) if length(node) > 60} == {}


def test_the_median_function_is_short():
    assert statistics.median(length(node) for path in SOURCES for node in functions(path)) <= 8


@pytest.mark.parametrize(
    "path", [path for path in SOURCES if "harness" not in path.parts], ids=lambda path: path.stem
)
def test_plugins_import_the_interface_alone(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("harness"):
            assert node.module in ("harness.api", "harness.nets", "harness.densities")
        names = (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom) and not node.level
            else []
        )
        assert {name.partition(".")[0] for name in names} <= PLUGIN_IMPORTS


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_public_things_have_a_docstring(path):
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree)
    kinds = ast.ClassDef | ast.FunctionDef
    named = [
        node
        for node in tree.body
        if isinstance(node, kinds)
        and not node.name.startswith("_")
        and "overload" not in map(ast.unparse, node.decorator_list)
    ]
    assert [node.name for node in named if not ast.get_docstring(node)] == []


def test_import_contracts_hold():
    done = subprocess.run(
        [str(Path(sys.executable).with_name("lint-imports"))],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    "script", ["docs/make_commands.py", "docs/make_reliability.py", "docs/make_targets.py"]
)
def test_generated_pages_are_fresh(script):
    done = subprocess.run(
        [sys.executable, script, "--check"],
        cwd=ROOT,
        env={"PYTHONPATH": "."},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "module", ["harness", "harness.api", "harness.store", "harness.conformance"]
)
def test_exported_names_exist_and_nothing_else_is_exported(module):
    loaded = importlib.import_module(module)
    assert sorted(set(loaded.__all__)) == sorted(loaded.__all__, key=str)
    assert [name for name in loaded.__all__ if not hasattr(loaded, name)] == []


def test_only_one_place_imports_each_heavy_library():
    allowed = {
        "sqlalchemy": "harness/store",
        "alembic": "harness/store",
        "mlflow": "harness/tracking",
        "matplotlib": ("harness/training/curve_figures.py", "harness/report/paper.py"),
    }
    allowed |= {
        "optuna": ("harness/tuning", "harness/report/tuning.py"),
        "plotly": "harness/report",
    }
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            names = (
                [alias.name for alias in node.names]
                if isinstance(node, ast.Import)
                else [node.module or ""]
                if isinstance(node, ast.ImportFrom)
                else []
            )
            for name in names:
                place = allowed.get(name.partition(".")[0])
                assert place is None or str(path.relative_to(ROOT)).startswith(place), (
                    f"{path} imports {name}"
                )


def test_no_pickle_anywhere():
    for path in SOURCES:
        assert not re.search(r"\bpickle\b|torch\.load\b|joblib", path.read_text()), path


def test_every_example_of_the_help_parses():
    from harness.plan.grid import expand, parse_seeds

    commands = re.findall(r"^\s+bench run (.+)$", (ROOT / "docs" / "commands.md").read_text(), re.M)
    assert commands
    for command in commands:
        given: dict[str, list[str]] = {}
        words = command.split()
        for flag, value in itertools.pairwise(words):
            given.setdefault(flag, []).append(value)
        methods, tasks = (
            given.get(short, []) + given.get(long, [])
            for short, long in (("-m", "--method"), ("-t", "--task"))
        )
        assert expand(
            methods,
            tasks,
            parse_seeds(given.get("--seeds", ["0"])[0]),
            *given.get("--protocol", []),
        )


def test_the_version_is_the_packages():
    import harness

    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["dynamic"][
        "version"
    ] == {"attr": "harness.__version__"}
    assert harness.__version__ in (ROOT / "CITATION.cff").read_text()


def test_the_examples_of_the_docs_hold(tmp_path):
    from harness import conformance, fit
    from harness.plan import registry

    code = re.search(r"```python\n(.*?)```", (ROOT / "docs" / "add-a-method.md").read_text(), re.S)[
        1
    ]
    path = tmp_path / "affine.py"
    path.write_text(code)
    cls = registry.find("method", str(path)).cls
    assert [check for check in conformance.check_method(cls) if not check.holds] == []
    assert fit(cls(), "gaussian-2", protocol="smoke").score()["elbo_gap"] >= 0


def test_commands_say_what_they_say_in_one_way():
    """`say` and the safe console: no name or reason reaches a terminal otherwise."""
    for_types = re.compile(r"^if TYPE_CHECKING:\n(?: .*\n|\n)+", re.M)
    files = {
        path.name: for_types.sub("", path.read_text(encoding="utf-8"))
        for path in (ROOT / "harness" / "cli").glob("*.py")
    }
    assert [
        name for name, text in files.items() if "click.echo(" in text or "click.secho(" in text
    ] == ["_output.py"]
    makers = re.compile(
        r"rich.*import.*\b(Console|Progress|TextColumn|track|print|from_markup)\b"
    )  # which take texts for markup
    assert [name for name, text in files.items() if makers.search(text)] == ["_render.py"]


def test_the_process_that_mirrors_runs_loads_no_torch():
    modules = "harness.tracking.mirror, harness.training.curve_figures, sys"
    code = f"import {modules}; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
