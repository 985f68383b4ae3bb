"""Published values, kept as YAML beside the studies, one file a source: what was printed, and which
of our runs it is.

::

    title: A paper.
    authors: Who wrote it
    experiments:
      - name: gaussian
        about: One line.
        protocol: [how it was run, in sentences]
        study: report-gaussian          # the shipped study with our runs of it
        n_datasets: 3                   # how many data sets a value is the mean of
        tasks: [gaussian-25, gaussian-50]
        rows:                           # `method` and `task` pick the runs of a row, read as the
            command line reads a selector
          iaf-K1: {method: "iaf[n_layers=1]", task: {objective: released-flow}, corrected_by:
          {objective: exact}}
        tables:
          - metric: sigma_sq_error      # as our runs call it
            about: One line.
            values: {iaf-K1: [1.1415, null]}             # one a task; null where none was published
            explained_by: {iaf-K1: missing-half}         # a name of
                `harness.analysis.closed_forms.FORMS`
            remarks: {iaf-K1: {gaussian-25: {because: why this one cannot be compared}}}

A reason (`because`) of an experiment or a value says why it cannot be compared. `not_expected` says
why a value may fail to be reproduced.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, ValidationError, model_validator

from harness.analysis.closed_forms import FORMS
from harness.base import yaml_source as plainyaml
from harness.base.errors import UnknownName, UsageError
from harness.base.yaml_source import Document, Place

Text = Annotated[str, Field(min_length=1)]
Number = Annotated[float, Field(allow_inf_nan=False)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Remark(_Part):
    """What is to be said of one value: why it is not comparable, or why it may fail to be
    reproduced.
    """

    because: Text | None = None
    not_expected: Text | None = None


class Row(_Part):
    """Whose values they are: the runs of ours with this method and these task fields, or, without
    them, a setting in words.

    `corrected_by` are the task fields of the runs that do the same without what was wrong.
    """

    method: Text | None = None
    task: dict[str, Text] = {}
    corrected_by: dict[str, Text] = {}
    setting: Text | None = None
    source: Text | None = None


class Table(_Part):
    """One metric: values by row, one a task. `data_dependent` names the closed form that says how
    values vary with the data set.
    """

    metric: Text
    about: Text
    values: dict[str, list[Number | None]] = Field(min_length=1)
    data_dependent: Text | None = None
    explained_by: dict[str, Text] = {}
    corrected_explained_by: dict[str, Text] = {}
    remarks: dict[str, dict[str, Remark]] = {}

    @model_validator(mode="after")
    def _known(self) -> Table:
        for part in (self.explained_by, self.corrected_explained_by, self.remarks):
            _all_among("row with values", part, self.values)
        forms = {form: f for form, f in FORMS.items() if f.deviation is not None}
        _all_among(
            "closed form",
            [*self.explained_by.values(), *self.corrected_explained_by.values()],
            FORMS,
        )
        _all_among(
            "closed form with a deviation",
            [self.data_dependent] if self.data_dependent else [],
            forms,
        )
        return self


class Experiment(_Part):
    """What was run under one protocol: tables of the same rows and tasks."""

    name: Text
    about: Text
    protocol: list[Text] = []
    study: Text | None = None
    n_datasets: int | None = Field(default=None, ge=1)
    because: Text | None = None
    tasks: list[Text] = []
    rows: dict[str, Row] = {}
    tables: list[Table] = []
    claims: list[Text] = []

    @model_validator(mode="after")
    def _whole(self) -> Experiment:
        for table in self.tables:
            _all_among("row", table.values, self.rows)
            for row, values in table.values.items():
                if len(values) != len(self.tasks):
                    raise ValueError(
                        f"{table.metric} of {row} has {len(values)} values for {len(self.tasks)} tasks. Write null where none is known."
                    )
            for remarks in table.remarks.values():
                _all_among("task", remarks, self.tasks)
        if self.because is None and (
            self.study is None or self.n_datasets is None or not self.tables
        ):
            raise ValueError(
                "what can be compared has study, n_datasets and tables; what cannot has because."
            )
        if self.because is None and (
            bare := [name for name, row in self.rows.items() if row.method is None]
        ):
            raise ValueError(f"row {bare[0]} has no method.")
        return self


class Publication(_Part):
    """A file of published values."""

    title: Text
    authors: Text
    code: Text | None = None
    arxiv: Text | None = None
    experiments: list[Experiment] = Field(min_length=1)
    _path: Path = PrivateAttr()

    @property
    def name(self) -> str:
        """The file's name without its ending."""
        return self._path.stem


PARTS: dict[str, tuple[str, type[BaseModel]]] = {
    "experiments": ("an experiment", Experiment),
    "tables": ("a table", Table),
    "rows": ("a row", Row),
    "remarks": ("a remark", Remark),
}


def _all_among(kind: str, names: Any, known: Any) -> None:
    for name in names:
        if name not in known:
            raise ValueError(str(UnknownName(kind, name, known)))


def publications() -> dict[str, Path]:
    """The file of every source that comes along, by name."""
    return {path.stem: path for path in sorted(_files())}


def _files() -> Iterator[Path]:
    package = importlib.util.find_spec("studies")
    for folder in (package.submodule_search_locations if package else None) or []:
        yield from (Path(folder) / "published").glob("*.yaml")


def load(name: str) -> Publication:
    """A source by its name.

    Raises:
        UsageError: there is none, or its file is wrong; with file, line and field.
    """
    known = publications()
    if name not in known:
        raise UnknownName("source of published values", name, known, "bench verify")
    return read(known[name])


def read(path: Path) -> Publication:
    """The source of a file.

    Raises:
        UsageError: the file is wrong; with file, line and field.
    """
    shown = str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)
    document = plainyaml.read(path, shown)
    if not isinstance(document.values, dict):
        raise UsageError(
            document.at((), "published values are a mapping with title, authors and experiments.")
        )
    try:
        source = Publication.model_validate(document.values)
    except ValidationError as err:
        raise UsageError(_first_line(document, err)) from err
    source._path = path
    return source


def _first_line(document: Document, err: ValidationError) -> str:
    """What pydantic found first, with its place."""
    # a field that is missing may be the one that is misspelt below
    first = min(
        err.errors(),
        key=lambda error: (error["type"] == "missing", document.lines.get(error["loc"], 0)),
    )
    place: Place = first["loc"]
    if first["type"] == "extra_forbidden":
        around = [step for step in place[:-1] if step in PARTS]
        owner, model = PARTS[str(around[-1])] if around else ("a source", Publication)
        return document.at(
            place, str(UnknownName(f"field of {owner}", str(place[-1]), model.model_fields))
        )
    said = {
        "missing": "it is missing.",
        "too_short": "it is empty.",
        "string_too_short": "it is empty.",
    }
    usual = first["msg"].removeprefix("Value error, ").rstrip(".") + "."
    return document.at(place, said.get(first["type"], usual))
