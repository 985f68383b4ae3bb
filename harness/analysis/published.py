"""Published values, kept as YAML beside the studies, one file a source: what was printed, and which
of our runs it is.

::

    title: A paper.
    authors: Who wrote it
    experiments:
      - name: gaussian
        about: One line.
        protocol: [how it was run, in sentences]
        study: my-study          # the shipped study with our runs of it
        n_datasets: 3            # how many data sets a value is the mean of
        tasks: [gaussian-25, gaussian-50]
        rows:                    # `method` and `task` pick the runs of a row, as a selector does
          iaf-K1:
            method: "iaf[n_layers=1]"
            task: {objective: released-flow}
            corrected_by: {objective: exact}
        tables:
          - metric: sq_error     # as our runs call it
            about: One line.
            values: {iaf-K1: [1.1415, null]}        # one a task; null where none was published
            explained_by: {iaf-K1: missing-half}    # a closed form of the tasks
            remarks: {iaf-K1: {gaussian-25: {because: why this one cannot be compared}}}

A reason (`because`) of an experiment or a value says why it cannot be compared. `not_expected` says
why a value may fail to be reproduced.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, ValidationError, model_validator

from harness.base import yaml_source
from harness.base.errors import UnknownName, UsageError

MESSAGES = {
    "extra_forbidden": "there is no such field.",
    "missing": "it is missing.",
    "too_short": "it is empty.",
    "string_too_short": "it is empty.",
}
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
    def _names_known_rows(self) -> Table:
        for names in (self.explained_by, self.corrected_explained_by, self.remarks):
            _require_known("row with values", names, self.values)
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
            _require_known("row", table.values, self.rows)
            for row, values in table.values.items():
                if len(values) != len(self.tasks):
                    raise ValueError(
                        f"{table.metric} of {row} has {len(values)} values for {len(self.tasks)} "
                        "tasks. Write null where none is known."
                    )
            for remarks in table.remarks.values():
                _require_known("task", remarks, self.tasks)
        if self.because is not None:
            return self
        if self.study is None or self.n_datasets is None or not self.tables:
            raise ValueError(
                "what can be compared has study, n_datasets and tables; what cannot has because."
            )
        for name, row in self.rows.items():
            if row.method is None:
                raise ValueError(f"row {name} has no method.")
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


def _require_known(kind: str, names: Any, known: Any) -> None:
    for name in names:
        if name not in known:
            raise ValueError(str(UnknownName(kind, name, known)))


def publications() -> dict[str, Path]:
    """Return the file of every source that comes along, by name."""
    package = importlib.util.find_spec("harness.studies")
    folders = (package.submodule_search_locations if package else None) or []
    files = (path for folder in folders for path in (Path(folder) / "published").glob("*.yaml"))
    return {path.stem: path for path in sorted(files)}


def load(name: str) -> Publication:
    """Read a source by its name.

    Raises:
        UsageError: there is none, or its file is wrong; with file, line and field.
    """
    files = publications()
    if name not in files:
        raise UnknownName("source of published values", name, files, "bench verify")
    return read(files[name])


def read(path: Path) -> Publication:
    """Read the source in a file.

    Raises:
        UsageError: the file is wrong; with file, line and field.
    """
    shown = str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)
    document = yaml_source.read(path, shown)
    try:
        publication = Publication.model_validate(document.values)
    except ValidationError as err:
        # a field that is missing may be the one that is misspelt below
        error = min(
            err.errors(),
            key=lambda error: (error["type"] == "missing", document.lines.get(error["loc"], 0)),
        )
        usual = error["msg"].removeprefix("Value error, ").rstrip(".") + "."
        raise UsageError(document.at(error["loc"], MESSAGES.get(error["type"], usual))) from err
    publication._path = path
    return publication
