"""What a run's plugins say of it: taken down when the run is queued, so that whoever reads it later
needs no plugin.
"""

from __future__ import annotations

import json
from contextlib import suppress
from functools import cache
from typing import Any

import torch
from pydantic import ValidationError

from harness.api import DiagNormal, Method, Noise, Problem, Task
from harness.base.errors import BenchError
from harness.base.spec import Description, Protocol, RunSpec, canonical_json
from harness.plan import registry

LARGEST = 1024
"""Latent dimensions in which a draw is tried: an even number, for couplings."""


def describe(
    method: Method, task: Task, spec: RunSpec, settings: dict[str, Any], protocol: str
) -> Description:
    """The names under which tables show a run, what its scores depend on, and what its gradients
    cost.
    """
    label = registry.method_label(type(method), spec.method, spec.method_fields)
    variant = method.variants.get(label.removeprefix(f"{spec.method}-"), {})
    implied = _values_of_protocol(type(task), protocol)
    implied |= {f"method.{field}": value for field, value in variant.items()}
    return Description(
        method=label,
        settings={
            name: value
            for name, value in settings.items()
            if name not in implied or implied[name] != value
        },
        scored_by=task.scored_by,
        headline=task.headline,
        metric_info=task.metric_info,
        task_variant=task.variant,
        stacks=task.stacks,
        scores=_scores_per_draw(
            type(method),
            canonical_json(spec.method_fields),
            min(task.latent_dim, LARGEST),
            task.n_context,
        ),
    )


def describe_stored(
    method: str, values: dict[str, Any], settings: dict[str, Any], protocol: str
) -> Description:
    """The same of a run that an earlier release stored without it: from its plugins where they are
    installed, else its bare name.
    """
    with suppress(BenchError, ValidationError):
        spec = RunSpec.from_plain(values)
        return describe(*registry.load(spec, _no_text), spec, settings, protocol)
    return Description(method=method.rpartition("/")[2])


def _no_text(digest: str) -> Any:
    raise BenchError(f"No text of {digest} is at hand.")


def _values_of_protocol(task: type[Task], protocol: str) -> dict[str, Any]:
    """A protocol's own values, and the usual ones of fields that the default protocol sets
    instead.
    """
    if protocol not in task.protocols:
        return {}
    fields = Protocol.model_fields
    default = task.protocols[task.default_protocol]
    field_defaults = {
        name: fields[name].default
        for name in default
        if name in fields and not fields[name].is_required()
    }
    return field_defaults | task.protocols[protocol]


@cache
def _scores_per_draw(method: type[Method], fields: str, dim: int, n_context: int) -> int | None:
    """How often one draw asks for the score, counted by drawing; None where the method does not
    draw here.
    """
    calls = 0

    def score(z: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += 1
        return -z

    noise = Noise(["cost"])
    try:
        zeros = torch.zeros(1, dim, dtype=torch.float64)
        context = torch.zeros(1, n_context, dtype=torch.float64) if n_context else None
        problem = Problem(
            lambda z: -0.5 * z.square().sum(-1), score, DiagNormal(zeros, zeros), context
        )
        built = method(**json.loads(fields))
        params = {
            name: leaf.double()[None] for name, leaf in built.init(dim, noise, n_context).items()
        }
        with torch.no_grad():
            built.particles(params, problem, noise, 2)
    except (Exception, SystemExit):  # noqa: BLE001 - a plugin may raise anything; its runs will say it
        return None
    return calls
