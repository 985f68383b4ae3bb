"""Fields of plugins of every type that pydantic knows: they are stored as JSON holds them, or
refused in one line.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import json_lines

from harness.base.spec import canonical_json
from harness.plan.registry import build, find, settled
from harness.tuning.space import Column, Dimension, space

pytestmark = pytest.mark.usefixtures("no_mirror")

PLUGIN = '''
import datetime, decimal, enum, pathlib
from typing import Any, ClassVar
import torch
from harness.api import Field, Method, Particles, tunable

class Kind(enum.Enum):
    SOFT = "soft"
    HARD = "hard"

class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2

class Rich(Method, frozen=True):
    """Fields of many types."""

    name: ClassVar[str] = "rich"
    source: ClassVar[str] = "a test"

    where: pathlib.Path = pathlib.Path("a/b")
    kind: Kind = Kind.SOFT
    level: Level = Level.LOW
    names: frozenset[str] = frozenset({"a", "b", "c", "d", "e"})
    kinds: frozenset[Kind] = frozenset(Kind)
    widths: tuple[int, ...] = (3, 4)
    table: dict[int, str] = {10: "x", 9: "y"}
    since: datetime.date = datetime.date(2020, 1, 2)
    share: decimal.Decimal = decimal.Decimal("0.50")
    k: float = tunable(0.5, 0, 1)
    maybe: float | None = tunable(None, 1, 8, log=True)
    n: int = tunable(2, 1.0, 4.5)

    def init(self, dim, noise, n_context=0):
        return {"shift": torch.zeros(dim, dtype=torch.float64)}

    def particles(self, params, problem, noise, n_particles, trace=False):
        assert isinstance(self.where, pathlib.Path) and isinstance(self.kind, Kind)
        assert isinstance(self.names, frozenset)
        z_0 = problem.base.sample(noise, n_particles)
        z = z_0 + params["shift"]
        return Particles(z, problem.log_joint(z) - problem.base.log_prob(z_0))

class Opaque(Rich, frozen=True):
    """One that cannot be stored."""

    name: ClassVar[str] = "opaque"
    thing: Any = object()

class Required(Rich, frozen=True):
    """One without a value of its own."""

    name: ClassVar[str] = "required"
    needed: int
'''
SMOKE = ("-t", "gaussian-2", "--protocol", "smoke", "--set", "steps=5")


@pytest.fixture
def rich(workspace: Path) -> str:
    (workspace / "many.py").write_text(PLUGIN)
    return "./many.py:Rich"


def test_every_type_is_stored_found_again_and_read_back(rich, bench, workspace):
    (made,) = json_lines(bench("run", "-m", rich, *SMOKE, "--json"))
    assert (made["status"], made["outcome"]) == ("done", "ran")
    (hit,) = json_lines(
        bench(
            "run",
            "-m",
            rich,
            *SMOKE,
            "--json",
            "--set",
            "method.kind=soft",
            "--set",
            "method.where=a/b",
        )
    )
    assert (hit["key"], hit["outcome"]) == (made["key"], "hit")
    (other,) = json_lines(
        bench(
            "run",
            "-m",
            rich,
            *SMOKE,
            "--json",
            "--set",
            "method.kind=hard",
            "--set",
            'method.names=["z","y"]',
        )
    )
    assert {name: other["settings"][name] for name in ("method.kind", "method.names")} == {
        "method.kind": "hard",
        "method.names": ["y", "z"],
    }
    (shown,) = json_lines(bench("show", made["key"], "--json"))
    fields = shown["spec"]["method_fields"]
    assert (fields["where"], fields["kinds"], fields["since"], fields["share"]) == (
        "a/b",
        ["hard", "soft"],
        "2020-01-02",
        "0.50",
    )
    cls = find("method", rich).cls
    assert build(cls, "it", fields) == cls()
    assert bench("show", rich, "--json").exit_code == 0
    assert bench("show", f"{workspace}/many.py:Required", "--json").exit_code == 0
    assert bench("compare").exit_code == 0


def test_a_set_has_one_key_in_every_process(rich, workspace):
    code = (
        "from harness.plan.registry import find, settled; print(settled(find('method', "
        f"{rich!r}).cls()))"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent)}
    texts = {
        subprocess.run(
            [sys.executable, "-c", code],
            cwd=workspace,
            env=environment | {"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(texts) == 1


def test_what_json_held_before_has_the_text_it_had(rich):
    method = find("method", rich).cls()
    before: dict[str, Any] = {
        name: getattr(method, name) for name in ("level", "widths", "k", "maybe", "n")
    }
    assert canonical_json({name: settled(method)[name] for name in before}) == canonical_json(
        before
    )


def test_what_cannot_be_stored_is_one_line_that_names_the_field(rich, bench, workspace):
    result = bench("run", "-m", "./many.py:Opaque", *SMOKE)
    assert (result.exit_code, result.stderr.count("\n"), result.stdout) == (2, 1, "")
    assert "Field 'thing' of Opaque cannot be stored: its value is a object" in result.stderr
    assert not (workspace / "bench.db").exists()


def column(rich: str) -> Column:
    from harness.plan.grid import parse_selector

    (method,), (task,) = parse_selector("method", rich), parse_selector("task", "gaussian-2")
    return Column(method, task, "smoke", {})


def test_the_type_of_a_field_says_which_numbers_are_tried(rich):
    by_name = {one.address: one for one in space(column(rich), [])}
    assert by_name["method.k"] == Dimension("method.k", 0.0, 1.0)
    assert by_name["method.maybe"] == Dimension("method.maybe", 1.0, 8.0, True)
    assert "method.n" not in by_name, "whole numbers change what a step costs"
    named = space(column(rich), ["method.k", "method.n", "method.k=0:3"][:2])
    assert [type(one.low) for one in named] == [float, int]
    assert (named[1].low, named[1].high) == (1, 4)
    assert type(space(column(rich), ["method.k=0:3"])[0].low) is float
    assert named[0].points(3) == [0.0, 0.5, 1.0]


def test_a_real_number_with_whole_ends_is_tuned_between_them(rich, bench):
    command = (
        "tune",
        "-m",
        rich,
        *SMOKE,
        "--trials",
        "3",
        "--seeds",
        "1000",
        "--report-seeds",
        "0",
        "--sampler",
        "random",
        "--json",
    )
    (told,) = json_lines(bench(*command, "--space", "method.k"))
    assert 0 < told["best"]["settings"]["method.k"] < 1


@pytest.mark.parametrize("text", ["method.widths=[1],[2]", 'method.names=["a"],["b"]'])
def test_lists_cannot_be_tuned_and_it_is_said_in_one_line(text, rich, bench, workspace):
    result = bench("tune", "-m", rich, *SMOKE, "--space", text)
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
    assert "can be tuned" in result.stderr
    assert not (workspace / "studies.db").exists()


def test_enumerations_and_paths_can_be_tuned(rich):
    (dimension,) = space(column(rich), ["method.kind=soft,hard"])
    assert dimension.choices == ("soft", "hard")
    (dimension,) = space(column(rich), ["method.where=a,b"])
    assert dimension.choices == ("a", "b")
