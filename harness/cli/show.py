"""`bench show`: everything about one method, task or run."""

from __future__ import annotations

import inspect
import re
import time
from collections.abc import Iterator
from pathlib import Path
from textwrap import indent
from typing import TYPE_CHECKING, Any

import click

from harness.base.errors import UnknownName, UsageError
from harness.base.text import duration, number
from harness.base.workspace import Workspace
from harness.cli._options import json_option, open_store
from harness.cli._output import print_json, say
from harness.cli._render import console

if TYPE_CHECKING:
    from rich.console import Console

    from harness.plan.registry import Kind, NamedPlugin
    from harness.store import ResultStore, RunRow

KEY = re.compile(r"[0-9a-f]{4,16}")
BARS = "▁▂▃▄▅▆▇█"


@click.command()
@click.argument("name", metavar="NAME-or-KEY")
@click.option(
    "--pictures",
    "folder",
    metavar="DIR",
    type=click.Path(path_type=Path, file_okay=False),
    help="Copy a run's pictures there.",
)
@json_option
def show(name: str, folder: Path | None, as_json: bool) -> None:
    """Show a method, a task or a stored run.

    A run is named by its key or the first digits of it. Its pictures are PNG files: its learning
    curves, and where the task is one of images, samples, reconstructions, the way of the latents
    and what lies between two of them.

    \b
    Examples:
      bench show hvae
      bench show 3f9c2a --pictures pictures-of-3f9c2a
    """
    if KEY.fullmatch(name) and _show_run(name, folder, as_json):
        return
    if folder is not None:
        raise UnknownName("run", name, [], "bench list runs")
    from harness.base.spec import plain

    kind, found = _plugin(name)
    described = plain(_described(kind, found), fallback=str)
    print_json([described]) if as_json else _print_plugin(described)


def _plugin(name: str) -> tuple[Kind, NamedPlugin]:
    from harness.plan import registry

    try:
        return "method", registry.find("method", name)
    except UnknownName:
        pass
    try:
        return "task", registry.find("task", name)
    except UnknownName:
        known = [*registry.listings("method"), *registry.listings("task")]
        raise UnknownName("method, task or run", name, known, "bench list runs") from None


def _described(kind: Kind, found: NamedPlugin) -> dict[str, Any]:
    cls = found.cls
    shown: dict[str, Any] = {
        "kind": kind,
        "name": found.name,
        "source": cls.source,
        "version": cls.version,
        "about": inspect.cleandoc(cls.__doc__ or ""),
        "fields": [_field(name, field) for name, field in cls.model_fields.items()],
    }
    if kind == "method":
        return shown | {
            "variants": {f"{found.name}-{name}": fields for name, fields in cls.variants.items()}
        }
    return shown | {
        "protocols": cls.protocols,
        "default_protocol": cls.default_protocol,
        "recommended": cls.recommended,
    }


def _field(name: str, field: Any) -> dict[str, Any]:
    extra = field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
    annotation = field.annotation
    return {
        "name": name,
        "type": annotation.__name__
        if isinstance(annotation, type)
        else str(annotation).replace("typing.", ""),
        "default": None if field.is_required() else field.get_default(call_default_factory=True),
        "tunable": extra.get("tunable"),
        "about": field.description or "",
    }


def _print_plugin(shown: dict[str, Any]) -> None:
    from rich import box
    from rich.table import Table

    out = console()
    out.print(
        f"{shown['name']} ({shown['kind']}, version {shown['version']}; {shown['source']})\n",
        style="bold",
    )
    out.print(shown["about"], markup=False)
    table = Table(
        "field", "type", "default", "tuned in", "about", box=box.SIMPLE_HEAD, pad_edge=False
    )
    for field in shown["fields"]:
        tuned = field["tunable"]
        span = (
            f"{tuned['low']:g} to {tuned['high']:g}{' (log)' if tuned['log'] else ''}"
            if tuned
            else ""
        )
        table.add_row(
            *(
                str(cell)
                for cell in (field["name"], field["type"], field["default"], span, field["about"])
            )
        )
    if shown["fields"]:
        out.print(table)
    for variant, fields in shown.get("variants", {}).items():
        out.print(
            f"{variant}: {', '.join(f'{name}={value}' for name, value in fields.items())}",
            markup=False,
        )
    for protocol, fields in shown.get("protocols", {}).items():
        default = " (default)" if protocol == shown["default_protocol"] else ""
        out.print(
            f"--protocol {protocol}{default}: {', '.join(f'{name}={value}' for name, value in fields.items())}",
            markup=False,
        )


def _show_run(prefix: str, folder: Path | None, as_json: bool) -> bool:
    """Print the run of that key, or copy its pictures; False where no key begins so."""
    workspace = Workspace.current()
    store = open_store(workspace)
    if store is None:
        return False
    with store:
        found = store.find(prefix)
        if not found:
            return False
        if len(found) > 1:
            raise UnknownName("run of that key alone", prefix, [row.key for row in found])
        row = found[0]
        if folder is not None:
            _copy_pictures(workspace, store, row, folder)
            return True
        described = _run(workspace, store, row)
    print_json([described]) if as_json else _print_run(described, row)
    return True


def _copy_pictures(workspace: Workspace, store: ResultStore, row: RunRow, folder: Path) -> None:
    """Put a run's pictures into a folder, whole; files of the same name with other content are left
    alone and refused.
    """
    from harness.base.files import write_atomically

    pictures = dict(_pictures(workspace, store, row))
    if not pictures:
        raise UsageError(
            f"Run {row.key} has no pictures: it is {row.status.value} at step {row.step:,}."
        )
    try:
        for name, content in pictures.items():
            if (folder / name).exists() and (folder / name).read_bytes() != content:
                raise UsageError(
                    f"{folder / name} exists already and is another picture. Choose another folder."
                )
        for name, content in pictures.items():
            write_atomically(folder / name, content)
            say(str(folder / name))
    except OSError as err:
        raise UsageError(f"Cannot write to {folder}: {err.strerror or err}.") from err


def _pictures(workspace: Workspace, store: ResultStore, row: RunRow) -> Iterator[tuple[str, bytes]]:
    """A run's pictures by name; one that is missing or damaged is named on stderr."""
    from harness.store import run_files as files
    from harness.tracking.runs import title
    from harness.training.figures import learning_curves

    curves = store.curves(row.key)
    if any(curves.values()):
        yield "curves.png", learning_curves(curves, title(row))
    for file in store.artifacts(row.key):
        content = files.read_verified(workspace, file)
        if content is not None:
            yield file.name, content
        else:
            say(
                f"{files.shown_path(workspace, file)} is {files.fault(workspace, file)}; bench run --rerun makes it again.",
                err=True,
            )


def _run(workspace: Workspace, store: ResultStore, row: RunRow) -> dict[str, Any]:
    from harness.base.spec import plain_number
    from harness.cli._summary import run_as_dict
    from harness.store.run_files import file_facts

    plan = store.plan(row.key)
    return run_as_dict(row, store.metrics([row.key]).get(row.key, {})) | {
        "spec": row.spec,
        "protocol": row.protocol,
        "source_hash": row.source_hash,
        "history": [
            {"at": line.at, "status": line.status.value, "reason": line.reason, "step": line.step}
            for line in store.history(row.key)
        ],
        "checkpoints": [file_facts(workspace, file) for file in store.checkpoints(row.key)],
        "pictures": [file_facts(workspace, file) for file in store.artifacts(row.key)],
        "curves": {
            name: [[step, plain_number(value)] for step, value in curve]
            for name, curve in store.curves(row.key).items()
        },
        "plan": plan.model_dump(mode="json") if plan else None,
        "environment": store.environment(row.key),
        "errata": [mark._asdict() for mark in store.retractions.of(row.key)],
        "earlier_result": store.earlier.of(row.key),
    }


def _print_run(run: dict[str, Any], row: RunRow) -> None:
    from rich import box
    from rich.table import Table

    from harness.base.spec import settings_text

    out = console()
    out.print(
        f"{row.method_label} on {row.task_label}, seed {row.seed} · {run['status']} at step {row.step:,} of {row.steps:,}",
        markup=False,
        style="bold",
    )
    facts = {
        "key": f"{row.key} (cell {row.cell})",
        "settings": settings_text(row.settings) or "the defaults",
        "reason": row.reason,
        "withdrawn": "; ".join(
            mark["reason"]
            for mark in run["errata"]
            if not (mark["lifted_at"] or mark["replaced_at"])
        ),
        "earlier": _earlier(run["earlier_result"]),
        "protocol": row.protocol,
        "time": duration(row.wall_s),
        "stack": f"{len(run['plan']['members'])} replicates, {run['plan']['threads']} thread"
        if run["plan"]
        else None,
        "bound": _sparkline([value for _, value in run["curves"].get("bound", [])]),
        "checkpoint": ", ".join(
            f"{file['path']} ({file['size']:,} bytes)" for file in run["checkpoints"][:1]
        ),
        "pictures": ", ".join(file["path"] for file in run["pictures"]),
        "MLflow run": row.mlflow_run_id,
        "code": ", ".join(
            f"{name} {source[:8]}"
            for name, source in ((row.method, row.method_source), (row.task, row.task_source))
            if source
        ),
        "commit": run["environment"].get("git_commit"),
    }
    for name, value in facts.items():
        if value:
            out.print(f"  {name:<11} {value}", markup=False)
    if row.traceback:
        out.print(indent(row.traceback, "  "), markup=False, soft_wrap=True)
    table = Table("metric", "value", box=box.SIMPLE_HEAD, pad_edge=False)
    for name, value in run["metrics"].items():
        error = run["standard_errors"].get(name)
        table.add_row(name, number(float(value), None if error is None else float(error)))
    if run["metrics"]:
        out.print(table)
    _print_history(out, run)


def _print_history(out: Console, run: dict[str, Any]) -> None:
    for line in run["history"]:
        said = f": {line['reason']}" if line["reason"] else ""
        out.print(
            f"  {_when(line['at'])}  {line['status']} at step {line['step']:,}{said}", markup=False
        )
    for mark in run["errata"]:
        after = [
            f", {said} {_when(mark[at])}"
            for at, said in (("lifted_at", "lifted"), ("replaced_at", "made anew"))
            if mark[at]
        ]
        out.print(
            f"  {_when(mark['at'])}  withdrawn{''.join(after)}: {mark['reason']}", markup=False
        )


def _earlier(result: dict[str, Any] | None) -> str | None:
    return (
        f"{result['status']} at step {result['step']:,}; that result is kept until the new one is stored"
        if result
        else None
    )


def _when(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(at))


def _sparkline(values: list[Any]) -> str:
    """The last four fifths of a curve in one line, where its shape can be seen."""
    numbers = [float(value) for value in values[len(values) // 5 :]]
    finite = [value for value in numbers if abs(value) < float("inf")]
    if len(finite) < 2:
        return ""
    low, high = min(finite), max(finite)
    picked = finite[:: max(1, len(finite) // 48)]
    bars = "".join(
        BARS[int((value - low) / ((high - low) or 1) * (len(BARS) - 1))] for value in picked
    )
    return f"{bars}  {number(finite[0])} to {number(finite[-1])} nats"
