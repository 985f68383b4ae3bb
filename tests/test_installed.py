"""What is installed: one package, beside which a user's own folders are added to what ships."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest
from test_plugins import PLUGIN

ROOT = Path(__file__).parents[1]
BUILT = (
    "harness",
    "methods",
    "tasks",
    "studies",
    "pyproject.toml",
    "setup.py",
    "README.md",
    "LICENSE",
)
FIT = "import harness; print(harness.fit('vb', 'gaussian-2', protocol='smoke').params.keys())"
STUDY = """
summary: A study of one's own.
grids:
  - methods: [vb, mine]
    tasks: [gaussian-2]
    seeds: "0"
    protocol: smoke
"""


def run(command: list[str], folder: Path, **environment: str) -> str:
    done = subprocess.run(
        command,
        cwd=folder,
        env={"PATH": os.environ["PATH"], "HOME": str(folder), **environment},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="session")
def sources(tmp_path_factory) -> Path:
    """A copy of what a distribution is built from: building leaves folders behind."""
    folder = tmp_path_factory.mktemp("sources")
    for name in BUILT:
        if (ROOT / name).is_dir():
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / name, folder / name, ignore=ignored)
        else:
            shutil.copyfile(ROOT / name, folder / name)
    return folder


@pytest.fixture(scope="session", params=["wheel", "editable"])
def interpreter(request, sources, tmp_path_factory) -> Path:
    """Python in an environment where the distribution is installed; the libraries are this
    one's.
    """
    folder = tmp_path_factory.mktemp(request.param)
    run([sys.executable, "-m", "venv", "--without-pip", str(folder)], folder)
    site = Path(sysconfig.get_path("purelib", vars={"base": str(folder)}))
    libraries = [path for path in sys.path if path.endswith("-packages")]
    (site / "libraries.pth").write_text("\n".join(libraries))
    kind = {"wheel": [str(sources)], "editable": ["-e", str(sources)]}[request.param]
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--quiet"]
    python = folder / "bin" / "python"
    run([sys.executable, "-m", "pip", "--python", str(python), "install", *options, *kind], folder)
    return python


@pytest.fixture
def project(tmp_path) -> Path:
    """A folder with methods, tasks and studies of its own, and a file that shadows none of ours."""
    for name in ("methods", "tasks", "studies"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").touch()
    text = PLUGIN.format(name="mine", added="0.0", imports="", body="")
    (tmp_path / "methods" / "mine.py").write_text(text)
    (tmp_path / "studies" / "own.yaml").write_text(STUDY)
    return tmp_path


def test_the_wheel_puts_one_name_into_site_packages(sources, tmp_path):
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path)]
    run([*build, str(sources)], tmp_path)
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.partition("/")[0] for name in names if ".dist-info/" not in name} == {"harness"}
    shipped = {"harness/methods/hvae.py", "harness/tasks/gaussian.py", "harness/studies/smoke.yaml"}
    assert shipped <= set(names)
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / "harness").rglob("*.py")}
    assert modules <= set(names)


def test_own_folders_are_added_to_what_ships(interpreter, project):
    """From a notebook-like process, `python -m harness.cli` and `bench`."""
    assert "task.log_sigma" in run([str(interpreter), "-c", FIT], project)
    module, script = [str(interpreter), "-m", "harness.cli"], [str(interpreter.with_name("bench"))]
    for command in (module, script):
        listed = run([*command, "list", "methods"], project)
        assert {"vb", "hvae", "mine"} <= set(listed.split())
    runs = ["-m", "vb", "-m", "mine", "-t", "gaussian-2", "--protocol", "smoke", "--json"]
    made = [json.loads(line) for line in run([*script, "run", *runs], project).splitlines()]
    assert [(run["method"], run["status"]) for run in made] == [("vb", "done"), ("mine", "done")]
    own = json.loads(run([*module, "study", "status", "studies/own.yaml", "--json"], project))
    assert own["counts"] == {"done": 2}
    assert "smoke" in run([*module, "list", "studies"], project)
