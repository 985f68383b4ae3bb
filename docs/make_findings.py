"""Write the tables and pictures of docs/findings.md from a workspace that has the runs of `bench
study run report-mnist`.

    BENCH_HOME=... PYTHONPATH=. python docs/make_findings.py

What stands between `<!-- NAME -->` and `<!-- end -->` is replaced; pictures go to docs/findings/.
Runs that are not there are left out.
"""

from __future__ import annotations

import re
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot

from harness.base.spec import Status
from harness.base.workspace import Workspace
from harness.plan import studies
from harness.plan.registry import method_label
from harness.store import Metric, ResultStore

DOCS = Path(__file__).parent
PICTURES = ("samples", "reconstructions", "interpolation", "path")


def main() -> None:
    """Replace the tables, write the pictures."""
    workspace = Workspace.current()
    (DOCS / "findings").mkdir(exist_ok=True)
    with ResultStore.open(workspace.database_url) as store:
        runs = {run.spec.key: run for run in studies.load("report-mnist").runs()}
        rows = {
            key: row for key, row in store.rows(list(runs)).items() if row.status == Status.DONE
        }
        names = {
            key: method_label(run.spec.method, run.spec.method_fields) for key, run in runs.items()
        }
        metrics, curves = store.metrics(list(rows)), {key: store.curves(key) for key in rows}
        columns = [
            "method",
            "ELBO, test",
            "NLL, test",
            "ESS of 100",
            "Pareto k",
            "best validation bound",
            "last one",
            "training, end",
            "run",
        ]
        table = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
        for key, row in rows.items():
            m, looks, bound = metrics[key], curves[key]["validation_bound"], curves[key]["bound"]
            step, best = max(looks, key=lambda point: point[1])
            cells = [
                names[key] + settings(row.settings),
                with_error(m["elbo"]),
                with_error(m["nll"]),
                f"{m['ess'].value:.1f}",
            ]
            cells += [
                f"{m['pareto_k'].value:.1f}",
                f"{best:.2f} at step {step:,}",
                f"{looks[-1][1]:.2f}",
                f"{bound[-1][1]:.2f}",
                f"`{key}`",
            ]
            table.append(f"| {' | '.join(cells)} |")
            for picture in store.artifacts(key):
                if Path(picture.name).stem in PICTURES:
                    target = DOCS / "findings" / f"mnist-{row.method}-{Path(picture.name).name}"
                    target.write_bytes(picture.path_in(workspace).read_bytes())
        draw({names[key]: curves[key] for key in rows})
    page = DOCS / "findings.md"
    replaced = re.sub(
        r"(<!-- mnist -->\n).*?(<!-- end -->)",
        lambda m: m[1] + "\n".join(table) + "\n" + m[2],
        page.read_text(),
        flags=re.DOTALL,
    )
    page.write_text(replaced)


def settings(values: dict[str, object]) -> str:
    """`, K = 15` and the like."""
    shown = {"method.n_leapfrog": "K", "particles": "k"}
    return "".join(f", {shown[name]} = {value}" for name, value in values.items() if name in shown)


def with_error(metric: Metric) -> str:
    """A metric with the standard error of its estimate."""
    return f"{metric.value:.2f} ± {metric.se:.2f}"


def draw(curves: dict[str, dict[str, list[tuple[int, float]]]]) -> None:
    """Every method's bound in training and on the validation images."""
    figure, axes = pyplot.subplots(figsize=(7.5, 4), constrained_layout=True)
    for number, (name, curve) in enumerate(curves.items()):
        axes.plot(
            *zip(*curve["validation_bound"], strict=True),
            color=f"C{number}",
            label=f"{name}, validation",
        )
        axes.plot(
            *zip(*curve["bound"], strict=True),
            color=f"C{number}",
            linestyle=":",
            linewidth=1,
            label=f"{name}, training",
        )
    axes.set(xlabel="step", ylabel="bound, nats an image", ylim=(-160, None))
    axes.legend(ncols=2, fontsize=8)
    axes.grid(alpha=0.3)
    figure.savefig(DOCS / "findings" / "mnist-curves.png", dpi=110, metadata={"Software": None})


if __name__ == "__main__":
    main()
