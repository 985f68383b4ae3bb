"""Study files: sweeps that are kept as YAML, so that anybody can make the same runs.

::

    summary: One line.
    grids:                                             # each one is crossed; what two of them share
        is one run
      - methods: ["hvae[n_leapfrog=1,10]", vb]
        tasks: [gaussian-25, gaussian-50]
        seeds: 0-2                                     # as --seeds takes them, or a list
        protocol: report                               # the task's default where none is given
        set: {clip_norm: 1e-4, task.n_data: 1000}      # as --set takes them

or, to tune::

    summary: One line.
    tune:                                              # `harness.plan.tune_options.Tune` has all
        fields
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
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    ValidationError,
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
LIST = "write a list: [a, b]."
VALUE = (
    'write one value. To cross several write a selector, "hvae[n_leapfrog=1,10]"; a list that '
    'is one value is a text, "[1, 2]".'
)
MAPPING = "write fields with values, name: value."
SAID = {
    "list_type": LIST,
    "dict_type": MAPPING,
    "model_type": MAPPING,
    "model_attributes_type": MAPPING,
}


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

        parse = cache(
            parse_selector
        )  # grids name the same methods and tasks, and each name is looked up in all files
        runs_by_key: dict[str, NewRun] = {}
        for number in range(len(self.grids)):
            for run in self._runs_of(number, sets or {}, parse):
                runs_by_key.setdefault(run.spec.key, run)
        return list(runs_by_key.values())

    def _runs_of(
        self, number: int, sets: dict[str, Any], parse: Callable[[Kind, str], list[Setting]]
    ) -> Iterator[NewRun]:
        """The runs of one grid."""
        from harness.plan.grid import cell_runs, parse_seeds, refuse_too_many

        grid, here = self.grids[number], ("grids", number)
        seeds = self.placed((*here, "seeds"), lambda: parse_seeds(grid.seeds))
        methods = self._settings(
            (*here, "methods"), grid.methods, lambda text: parse("method", text)
        )
        tasks = self._settings((*here, "tasks"), grid.tasks, lambda text: parse("task", text))
        self.placed(here, lambda: refuse_too_many(len(methods) * len(tasks) * len(seeds)))
        for (method_line, method), (task_line, task) in itertools.product(methods, tasks):
            try:
                yield from cell_runs(method, task, seeds, grid.protocol, sets, grid.settings)
            except (UsageError, PluginError) as err:
                place = _culprit(grid, method, task, str(err))
                if place is None and sets:
                    raise  # what was typed beside the file
                line = (
                    method_line
                    if place == ("methods",)
                    else task_line
                    if place == ("tasks",)
                    else None
                )
                raise _like(
                    err, self._document.at((*here, *(place or ())), str(err), line)
                ) from err

    def _settings(
        self, place: Place, texts: list[str], parse: Callable[[str], list[Setting]]
    ) -> list[tuple[int, Setting]]:
        """What the selectors of a list stand for, each with its line."""
        lines = [self._document.lines[(*place, item)] for item in range(len(texts))]
        return [
            (line, setting)
            for line, text in zip(lines, texts, strict=True)
            for setting in self.placed(place, lambda text=text: parse(text), line)
        ]

    def placed(self, place: Place, act: Callable[[], T], line: int | None = None) -> T:
        """What `act` returns; its errors say where in the file they come from."""
        try:
            return act()
        except (UsageError, PluginError) as err:
            raise _like(err, self._document.at(place, str(err), line)) from err


def _like(err: Exception, message: str) -> UsageError | PluginError:
    return PluginError(message) if isinstance(err, PluginError) else UsageError(message)


def _culprit(grid: Grid, method: Setting, task: Setting, message: str) -> tuple[str, ...] | None:
    """The part of a grid that gives this error by itself, if one does."""
    from harness.plan.grid import cell_runs

    bare_method, bare_task = (
        replace(setting, values=setting.plugin.fields) for setting in (method, task)
    )
    any_method, any_task = (
        replace(setting, plugin=replace(setting.plugin, fields={}), values={})
        for setting in (method, task)
    )
    attempts: list[tuple[tuple[str, ...], Setting, Setting, str | None, dict[str, Any]]] = [
        (("methods",), method, any_task, None, {}),
        (("tasks",), any_method, task, None, {}),
        (("protocol",), bare_method, bare_task, grid.protocol, {}),
    ]
    attempts += [
        (("set", name), bare_method, bare_task, grid.protocol, {name: value})
        for name, value in grid.settings.items()
    ]
    for place, rows, columns, protocol, below in attempts:
        try:
            cell_runs(rows, columns, [0], protocol, {}, below)
        except (UsageError, PluginError) as err:
            if str(err) == message:
                return place
    return None


def listings() -> dict[str, str]:
    """Every shipped study with its summary. Files are read; nothing is imported."""
    return {name: _summary(name) for name in _shipped()}


def _summary(name: str) -> str:
    try:
        return load(name).summary
    except UsageError as err:
        return f"cannot be used: {err}"


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
    path, display_name = _locate(name_or_path)
    try:
        document = yaml_source.read(path, display_name)
    except FileNotFoundError as err:
        similar_files = [
            str(other) for ending in ENDINGS for other in path.parent.glob(f"*{ending}")
        ]
        raise UnknownName("study file", display_name, similar_files, "bench list studies") from err
    if not isinstance(document.values, dict):
        raise UsageError(document.at((), "a study is a mapping with summary, and grids or tune."))
    try:
        study = Study.model_validate(document.values)
    except ValidationError as err:
        raise UsageError(_first_line(document, err)) from err
    study._document, study._path = document, path
    return study


def runs_of(name: str) -> list[NewRun]:
    """The runs of a shipped study.

    Raises:
        UsageError: there is none of that name.
    """
    return load(name).runs()


def _locate(text: str) -> tuple[Path, str]:
    """A study's file, and what messages call it."""
    path = Path(text)
    if text.endswith(ENDINGS) or len(path.parts) > 1:
        return path, text
    shipped = _shipped()
    if text not in shipped:
        if f"{text}.yaml" in {other.name for other in Path().glob("*.yaml")}:
            raise UsageError(
                f"No study named '{text}'. For the file write its whole name: {text}.yaml."
            )
        raise UnknownName("study", text, shipped, "bench list studies")
    path = shipped[text]
    return path, str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


def _first_line(document: Document, err: ValidationError) -> str:
    """What pydantic found first, as we say it."""
    first_error = min(err.errors(), key=lambda error: document.lines.get(error["loc"], 0))
    place: Place = first_error["loc"]
    if first_error["type"] == "extra_forbidden":
        owners: dict[str, tuple[str, type[BaseModel]]] = {
            "grids": ("a grid", Grid),
            "tune": ("tune", Tune),
        }
        owner, model = (
            owners.get(str(place[0]), ("a study", Study)) if len(place) > 1 else ("a study", Study)
        )
        names = [field.alias or name for name, field in model.model_fields.items()]
        return document.at(
            place, str(UnknownName(f"field of {owner}", str(first_error["loc"][-1]), names))
        )
    said = {
        "missing": "it is missing.",
        "too_short": "it is empty.",
        "string_too_short": "it is empty.",
        "value_error": first_error["msg"].removeprefix("Value error, "),
        "string_type": VALUE if "set" in place else "write a text.",
    }
    return document.at(
        place,
        said.get(first_error["type"]) or SAID.get(first_error["type"]) or f"{first_error['msg']}.",
    )
