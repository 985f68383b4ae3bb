"""Study files: sweeps that are kept as YAML, so that anybody can make the same runs.

::

    summary: One line.
    grids:                                             # what two of them share is one run
      - methods: ["hvae[n_leapfrog=1,10]", vb]
        tasks: [gaussian-25, gaussian-50]
        seeds: 0-2                                     # as --seeds takes them, or a list
        protocol: report                               # the task's default where none is given
        set: {clip_norm: 1e-4, task.n_data: 1000}      # as --set takes them

or, to tune::

    summary: One line.
    tune:                                              # fields: `harness.plan.tune_options.Tune`
      methods: [hvae]
      tasks: [gaussian-100]
      space: ["lr=1e-4:1e-1:log", method.max_step]     # as --space takes them
      trials: 50

Values are read as the command line reads them. Later wins: class defaults, the task's
recommendation, the protocol, `set`, the values of a selector, `--set` on the command line.
"""

from __future__ import annotations

import importlib.util
import itertools
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    field_validator,
    model_validator,
)

from harness.base import yaml_source
from harness.base.errors import PluginError, UnknownName, UsageError
from harness.base.yaml_source import Document, Place
from harness.plan.tune_options import Tune

if TYPE_CHECKING:
    from harness.base.spec import NewRun
    from harness.plan.grid import Setting
    from harness.plan.registry import Kind

T = TypeVar("T")
ENDINGS = (".yaml", ".yml")


class Grid(BaseModel):
    """Methods crossed with tasks and seeds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    methods: list[str] = Field(min_length=1)
    tasks: list[str] = Field(min_length=1)
    seeds: str
    protocol: str | None = None
    settings: dict[str, str | None] = Field(default={}, alias="set")

    @field_validator("seeds", mode="before")
    @classmethod
    def _joined(cls, value: Any) -> Any:
        """Several seeds as one text."""
        if isinstance(value, list) and value and all(isinstance(item, str) for item in value):
            return ",".join(value)
        if not isinstance(value, str):
            raise ValueError("write seeds as 0-9,12 or as a list of them.")  # noqa: TRY004  pydantic takes no TypeError
        return value

    @field_validator("settings", mode="before")
    @classmethod
    def _one_value_each(cls, value: Any) -> Any:
        if isinstance(value, dict) and (
            lists := [name for name, each in value.items() if isinstance(each, list)]
        ):
            raise ValueError(
                f"'{lists[0]}' has several values. To cross them write a selector, "
                '"hvae[n_leapfrog=1,10]"; a list that is one value is a text, "[1, 2]".'
            )
        return value


class Study(BaseModel):
    """A study file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    summary: str = Field(min_length=1)
    grids: list[Grid] = Field(default=[], min_length=1)
    tune: Tune | None = None
    _document: Document = PrivateAttr()
    _path: Path = PrivateAttr()

    @field_validator("summary")
    @classmethod
    def _one_line(cls, value: str) -> str:
        return " ".join(value.split())

    @model_validator(mode="after")
    def _grids_or_tune(self) -> Study:
        if bool(self.grids) == (self.tune is not None):
            raise ValueError("a study has either grids or tune.")
        return self

    @property
    def path(self) -> Path:
        """The file."""
        return self._path

    @property
    def name(self) -> str:
        """The file's name without its ending."""
        return self._path.stem

    def runs(self, sets: dict[str, Any] | None = None) -> list[NewRun]:
        """The study's runs, each once, in the file's order; `sets` wins over everything in the
        file.

        Raises:
            UsageError: a name, field or value that is not allowed, with its place in the file.
        """
        from harness.plan.grid import parse_selector

        parse = cache(parse_selector)  # a name is looked up in all files
        found: dict[str, NewRun] = {}
        for number in range(len(self.grids)):
            for run in self._runs_of(number, sets or {}, parse):
                found.setdefault(run.spec.key, run)
        return list(found.values())

    def _runs_of(
        self, number: int, sets: dict[str, Any], parse: Callable[[Kind, str], list[Setting]]
    ) -> Iterator[NewRun]:
        """The runs of one grid."""
        from harness.plan.grid import cell_runs, parse_seeds, refuse_too_many

        grid, here = self.grids[number], ("grids", number)
        seeds = self.placed((*here, "seeds"), lambda: parse_seeds(grid.seeds))
        kinds: list[tuple[Kind, list[str]]] = [("method", grid.methods), ("task", grid.tasks)]
        methods, tasks = (
            [
                setting
                for item, text in enumerate(texts)
                for setting in self.placed(
                    (*here, f"{kind}s", item), lambda kind=kind, text=text: parse(kind, text)
                )
            ]
            for kind, texts in kinds
        )
        self.placed(here, lambda: refuse_too_many(len(methods) * len(tasks) * len(seeds)))
        for method, task in itertools.product(methods, tasks):
            try:
                yield from cell_runs(method, task, seeds, grid.protocol, sets, grid.settings)
            except (UsageError, PluginError) as err:
                if any(f"{name}=" in str(err) or f"'{name}'" in str(err) for name in sets):
                    raise  # what was typed beside the file
                raise self._at(here, err) from err

    def placed(self, place: Place, act: Callable[[], T]) -> T:
        """What `act` returns; its errors say where in the file they come from."""
        try:
            return act()
        except (UsageError, PluginError) as err:
            raise self._at(place, err) from err

    def _at(self, place: Place, err: Exception) -> UsageError | PluginError:
        message = self._document.at(place, str(err))
        return PluginError(message) if isinstance(err, PluginError) else UsageError(message)


def listings() -> dict[str, str]:
    """Every shipped study with its summary. Files are read; nothing is imported."""
    summaries = {}
    for name in _shipped():
        try:
            summaries[name] = load(name).summary
        except UsageError as err:
            summaries[name] = f"cannot be used: {err}"
    return summaries


def _shipped() -> dict[str, Path]:
    package = importlib.util.find_spec("harness.studies")
    folders = (package.submodule_search_locations if package else None) or []
    return {
        path.stem: path
        for path in sorted(path for folder in folders for path in Path(folder).glob("*.yaml"))
    }


def load(name_or_path: str) -> Study:
    """A shipped study by its name, or a study file by its path.

    Raises:
        UsageError: there is none, or it is not a study; with file, line and field.
    """
    path, shown = _found(name_or_path)
    try:
        document = yaml_source.read(path, shown)
    except FileNotFoundError as err:
        near = [str(other) for ending in ENDINGS for other in path.parent.glob(f"*{ending}")]
        raise UnknownName("study file", shown, near, "bench list studies") from err
    if not isinstance(document.values, dict):
        raise UsageError(document.at((), "a study is a mapping with summary, and grids or tune."))
    study = document.validated(
        Study, "a study", {"grids": ("a grid", Grid), "tune": ("tune", Tune)}
    )
    study._document, study._path = document, path
    return study


def runs_of(name: str) -> list[NewRun]:
    """The runs of a shipped study.

    Raises:
        UsageError: there is none of that name.
    """
    return load(name).runs()


def _found(text: str) -> tuple[Path, str]:
    """A study's file, and what messages call it."""
    path = Path(text)
    if text.endswith(ENDINGS) or len(path.parts) > 1:
        return path, text
    known = _shipped()
    if text not in known:
        files = [path.name for path in Path().glob("*.yaml")]
        raise UnknownName("study", text, [*known, *files], "bench list studies")
    path = known[text]
    return path, str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)
