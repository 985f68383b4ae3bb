"""`bench show`: everything about one method, task or run."""

from __future__ import annotations

import inspect
import json
import re
import time
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from textwrap import indent
from typing import TYPE_CHECKING, Any

import click

from harness.base.errors import BenchError, UnknownName, UsageError
from harness.base.metrics import IMPORTANCE_ESTIMATES, why_one_sided
from harness.base.spec import plain, plain_number, settings_text
from harness.base.text import duration, number
from harness.base.workspace import Workspace
from harness.cli._options import json_option, open_store
from harness.cli._output import print_json, say
from harness.cli._render import console, print_table

if TYPE_CHECKING:
    from harness.plan.registry import Kind, NamedPlugin
    from harness.store import ResultStore, RunRow

KEY = re.compile(r"[0-9a-f]{4,16}")


@click.command()
@click.argument("name", metavar="NAME-or-KEY")
@click.option(
    "--pictures",
    "folder",
    metavar="DIR",
    type=click.Path(path_type=Path, file_okay=False),
    help="Copy a run's figures there.",
)
@json_option
def show(name: str, folder: Path | None, as_json: bool) -> None:
    """Show a method, a task or a stored run.

    A run is named by its key or the first digits of it. Its figures are PNG files: its learning
    curves and, of images, samples, reconstructions, trajectories of latents and interpolations.

    \b
    Examples:
      bench show hvae
      bench show 3f9c2a --pictures figures-of-3f9c2a
    """
    store = open_store(Workspace.current()) if KEY.fullmatch(name) else None
    if store is not None:
        with store:
            if store.find(name):
                row = store.find_one(name)
                if folder is not None:
                    _copy_figures(store, row, folder)
                elif as_json:
                    print_json([_run_record(store, row)])
                else:
                    _print_run(_run_record(store, row), row)
                return
    if folder is not None:
        raise UnknownName("run", name, [], "bench list runs")
    record = plain(_plugin_record(*find_plugin(name)), fallback=str)
    print_json([record]) if as_json else _print_plugin(record)


def find_plugin(name: str) -> tuple[Kind, NamedPlugin]:
    """Find a method or a task.

    Raises:
        UsageError: there is none, or its file cannot be loaded.
    """
    from harness.plan import registry

    try:
        return "method", registry.find("method", name)
    except UsageError as method_error:
        try:
            return "task", registry.find("task", name)
        except UsageError as err:
            if isinstance(err, UnknownName) and not isinstance(method_error, UnknownName):
                raise method_error from None  # it is a method, or meant to be one
            if ":" in name:
                raise
            known = [*registry.listings("method"), *registry.listings("task")]
            raise UnknownName("method or task", name, known, "bench list") from None


def _plugin_record(kind: Kind, plugin: NamedPlugin) -> dict[str, Any]:
    cls = plugin.cls
    fields = []
    for name, field in cls.model_fields.items():
        extra = field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
        type_ = field.annotation
        fields.append(
            {
                "name": name,
                "type": type_.__name__
                if isinstance(type_, type)
                else str(type_).replace("typing.", ""),
                "default": None
                if field.is_required()
                else field.get_default(call_default_factory=True),
                "tunable": extra.get("tunable"),
                "about": field.description or "",
            }
        )
    record = {
        "kind": kind,
        "name": plugin.name,
        "source": cls.source,
        "version": cls.version,
        "about": inspect.cleandoc(cls.__doc__ or ""),
        "fields": fields,
    }
    if kind == "method":
        variants = {f"{plugin.name}-{name}": fields for name, fields in cls.variants.items()}
        return record | {"variants": variants}
    return record | {
        "protocols": cls.protocols,
        "default_protocol": cls.default_protocol,
        "recommended": cls.recommended,
        "limits": {
            name: info.description for name, info in cls.metric_info.items() if info.limit_of
        },
        **_density(plugin),
    }


def _density(plugin: NamedPlugin) -> dict[str, Any]:
    """What tells one target from others of its name: log Z, and the log joint density at two
    points.
    """
    import torch

    from harness.api import Target
    from harness.conformance.certify import density_of
    from harness.plan.registry import build

    if not issubclass(plugin.cls, Target):
        return {}
    try:
        task = build(plugin.cls, f"task '{plugin.name}'", plugin.fields, "task.")
        log_joint = density_of(task)
    except BenchError:  # a required field has no value, or the task learns something
        return {}
    truth = task.truth()
    return {
        "log_z": truth and vars(truth),
        "has_exact_draws": type(task).draws is not Target.draws,
        "log_joint": {
            f"z = {value:g}": float(
                log_joint(torch.full((1, task.latent_dim), value, dtype=torch.float64))
            )
            for value in (0.0, 0.1)
        },
    }


def _print_plugin(record: dict[str, Any]) -> None:
    out = console()
    title = (
        f"{record['name']} ({record['kind']}, version {record['version']}; {record['source']})\n"
    )
    out.print(title, style="bold")
    out.print(record["about"])
    rows = []
    for field in record["fields"]:
        tuned, span = field["tunable"], ""
        if tuned:
            span = f"{tuned['low']:g} to {tuned['high']:g}{' (log)' if tuned['log'] else ''}"
        rows.append((field["name"], field["type"], str(field["default"]), span, field["about"]))
    print_table(("field", "type", "default", "tuned in", "about"), rows)
    presets = dict(record.get("variants", {}))
    for name, fields in record.get("protocols", {}).items():
        default = " (default)" if name == record["default_protocol"] else ""
        presets[f"--protocol {name}{default}"] = fields
    for name, fields in presets.items():
        out.print(f"{name}: {settings_text(fields)}")
    for name, description in record.get("limits", {}).items():
        out.print(f"limit {name}: {description}")
    if truth := record.get("log_z"):
        draws = "; exact draws" if record["has_exact_draws"] else ""
        out.print(f"log Z: {truth['value']:.6f} ± {truth['error']:.2g}, {truth['how']}{draws}")
    for point, value in record.get("log_joint", {}).items():
        out.print(f"log joint at {point} everywhere: {value:.6f}")


def _copy_figures(store: ResultStore, row: RunRow, folder: Path) -> None:
    """Copy a run's figures to a folder; none where a file of that name has other content.

    Raises:
        UsageError: there are no figures, there is such a file, or it cannot be written.
    """
    from harness.base.files import write_atomically

    figures = dict(_figures(store, row))
    if not figures:
        raise UsageError(
            f"Run {row.key} has no figures: it is {row.status.value} at step {row.step:,}."
        )
    try:
        for name, content in figures.items():
            if (folder / name).exists() and (folder / name).read_bytes() != content:
                raise UsageError(
                    f"{folder / name} already exists and is another figure. Choose another folder."
                )
        for name, content in figures.items():
            write_atomically(folder / name, content)
            say(folder / name)
    except OSError as err:
        raise UsageError(f"Cannot write to {folder}: {err.strerror or err}.") from err


def _figures(store: ResultStore, row: RunRow) -> Iterator[tuple[str, bytes]]:
    """Yield a run's figures by name; one that is missing or damaged is named on stderr."""
    from harness.store import run_files
    from harness.tracking.runs import title
    from harness.training.curve_figures import learning_curves

    workspace, curves = Workspace.current(), store.curves(row.key)
    if any(curves.values()):
        yield "curves.png", learning_curves(curves, title(row))
    for file in store.artifacts(row.key):
        content = run_files.read_verified(workspace, file)
        if content is not None:
            yield file.name, content
        else:
            name, fault = run_files.shown_path(workspace, file), run_files.fault(workspace, file)
            say(f"{name} is {fault}; bench run --rerun makes it again.", err=True)


def _run_record(store: ResultStore, row: RunRow) -> dict[str, Any]:
    from harness.cli._summary import run_as_dict
    from harness.store.run_files import file_facts

    workspace = Workspace.current()
    environment, plan = store.provenance([row.key])[row.key]
    return run_as_dict(row, store.metrics([row.key]).get(row.key, {})) | {
        "spec": row.spec,
        "protocol": row.protocol,
        "source_hash": row.source_hash,
        "history": [
            {name: getattr(event, name) for name in ("at", "status", "reason", "step")}
            for event in store.history(row.key)
        ],
        "checkpoints": [file_facts(workspace, file) for file in store.checkpoints(row.key)],
        "pictures": [file_facts(workspace, file) for file in store.artifacts(row.key)],
        "curves": {
            name: [[step, plain_number(value)] for step, value in curve]
            for name, curve in store.curves(row.key).items()
        },
        "plan": plan or None,
        "environment": environment,
        "scores": [
            {
                "metric": score.name,
                "value": plain_number(score.estimate.value),
                "se": None if score.estimate.se is None else plain_number(score.estimate.se),
                "evaluation": score.evaluation._asdict(),
                "scored_at": score.scored_at,
                "wall_s": round(score.wall_s, 3),
            }
            for score in store.evaluations.of([row.key])
        ],
        "errata": [retraction._asdict() for retraction in store.retractions.of(row.key)],
        "earlier_result": store.earlier.of(row.key),
    }


def _print_run(run: dict[str, Any], row: RunRow) -> None:
    from harness.store import Evaluation

    out = console()
    stands = all(mark["lifted_at"] or mark["replaced_at"] for mark in run["errata"])
    status = run["status"] if stands else f"{run['status']}, retracted"
    out.print(
        f"{row.method_label} on {row.task_label}, seed {row.seed} · {status} "
        f"at step {row.step:,} of {row.steps:,}",
        style="bold",
    )
    for name, value in _facts(run, row):
        if value:
            out.print(f"  {name:<11} {value}")
    if row.traceback:
        out.print(indent(row.traceback, "  "), soft_wrap=True)
    n_draws = run["spec"].get("eval_particles", 0)
    errors = {name: float(error) for name, error in run["standard_errors"].items()}
    values = {name: float(value) for name, value in run["metrics"].items()}
    if values:
        print_table(("metric", "value"), list(_metric_rows(values, errors, n_draws)))
    for evaluation, scores in groupby(run["scores"], lambda score: score["evaluation"]):
        members = list(scores)
        values = {score["metric"]: float(score["value"]) for score in members}
        errors = {score["metric"]: float(score["se"] or 0.0) for score in members}
        n_evaluated = json.loads(evaluation["settings"]).get("eval_particles", n_draws)
        rows = list(_metric_rows(values, errors, n_evaluated))
        print_table((f"by bench score: {Evaluation(**evaluation)}", "value"), rows)
    for event in run["history"]:
        reason = f": {event['reason']}" if event["reason"] else ""
        out.print(f"  {_date(event['at'])}  {event['status']} at step {event['step']:,}{reason}")
    for retraction in run["errata"]:
        endings = {"lifted": retraction["lifted_at"], "run again": retraction["replaced_at"]}
        ending = "".join(f", {verb} {_date(at)}" for verb, at in endings.items() if at)
        out.print(f"  {_date(retraction['at'])}  retracted{ending}: {retraction['reason']}")


def _metric_rows(
    values: dict[str, float], errors: dict[str, float], n_draws: int
) -> Iterator[tuple[str, str]]:
    """Yield metrics as text, those of importance sampling as bounds where they are no more."""
    for name, value in values.items():
        text = number(value, errors.get(name, 0.0))
        if reason := why_one_sided(name, values, n_draws):
            text = f"{IMPORTANCE_ESTIMATES[name]} {number(value)} ({reason})"
        yield name, text


def _facts(run: dict[str, Any], row: RunRow) -> Iterator[tuple[str, str | None]]:
    yield "key", f"{row.key} (cell {row.cell})"
    yield "settings", settings_text(row.settings) or "the defaults"
    yield "reason", row.reason
    if earlier := run["earlier_result"]:
        yield (
            "earlier",
            f"{earlier['status']} at step {earlier['step']:,}; "
            "that result is kept until the new one is stored",
        )
    yield "protocol", row.protocol
    yield "time", duration(row.wall_s)
    if plan := run["plan"]:
        yield "stack", f"{len(plan['members'])} replicates, {plan['threads']} thread"
    for file in run["checkpoints"][:1]:
        yield "checkpoint", f"{file['path']} ({file['size']:,} bytes)"
    yield "figures", ", ".join(file["path"] for file in run["pictures"])
    yield "MLflow run", row.mlflow_run_id
    yield "code", row.source_hash
    yield "commit", run["environment"].get("git_commit")


def _date(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(at))
