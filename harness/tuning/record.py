"""What is stored of a search for those who only read: its names, its seeds, and the specs of its
runs. No plugin is needed for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from harness.base.errors import UsageError
from harness.base.spec import digest
from harness.tuning.space import Dimension

Spec = dict[str, Any]
"""A run's spec without its seed: what a setting is."""


class Plugin(BaseModel):
    """A method or a task as a selector names it: its name, its variant's fields, and the other
    values that were given.
    """

    model_config = ConfigDict(frozen=True)

    name: str
    fields: dict[str, Any]
    values: dict[str, Any]


class Record(BaseModel):
    """One method on one task, as it was last asked for.

    `settings` are what all trials share beyond the protocol, `default` the values of the tuned
    fields where nothing is tuned, with their `default_spec`. `together`: the replicates of a trial
    train as one program.
    """

    model_config = ConfigDict(frozen=True)

    study: str
    name: str
    method: str
    task: str
    plugins: tuple[Plugin, Plugin]
    protocol: str
    settings: dict[str, Any]
    space: tuple[Dimension, ...]
    seeds: list[int]
    report_seeds: list[int]
    metric: str
    direction: str
    total: int
    together: bool
    default: dict[str, Any]
    default_spec: Spec

    @classmethod
    def parsed(cls, values: Any, name: str) -> Record:
        """The record that a study of Optuna's has.

        Raises:
            UsageError: bench cannot have written it.
        """
        try:
            return cls.model_validate(values)
        except ValidationError as err:
            raise UsageError(
                f"What is stored of the search '{name}' is not as bench writes it. It is left alone."
            ) from err


def keys(spec: Spec, seeds: Sequence[int]) -> list[str]:
    """The keys of a setting's runs, one for each seed."""
    return [digest(spec | {"seed": seed}) for seed in seeds]


def cell(spec: Spec) -> str:
    """What the replicates of a setting have in common."""
    return digest(spec)
