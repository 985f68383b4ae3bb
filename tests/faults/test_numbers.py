"""Numbers that no measurement gives, in weights, gradients, parameters and metrics; and steps that
do not end.
"""

from __future__ import annotations

import math
from pathlib import Path

import filled_store
import pytest
from conftest import json_lines
from hostile import FULL, parsed
from plugins import EXTREMES
from stores import url  # noqa: F401  fixture

from harness.base.spec import Status
from harness.base.workspace import Workspace
from harness.store import Estimate, ResultStore

pytestmark = pytest.mark.usefixtures("no_mirror")
PLUGINS = str(Path(__file__).parent.parent / "plugins.py")
SMOKE = ("-t", "gaussian-2", "--protocol", "smoke", "--json")
READING = (
    *(("list", "runs"), ("compare",), ("export", "--format", "parquet", "-o", "runs.parquet")),
    *(
        ("compare", "--format", "latex"),
        ("compare", "--format", "csv"),
        ("report", "-o", "report.html"),
    ),
)


def stored(workspace):
    """By method and seed, what the database has of each run: how it ended, its numbers, its curves,
    the step of its last checkpoint.

    On a slow machine there is one from the way, too.
    """
    with ResultStore.open(Workspace.current().database_url) as store:
        rows = store.recent(1000)
        metrics = store.metrics([row.key for row in rows])
        return {
            row.seed: (
                row.status,
                repr(metrics.get(row.key)),
                repr(store.curves(row.key)),
                [file.step for file in store.checkpoints(row.key)][:1],
            )
            for row in rows
        }


def reads(bench, workspace):
    """Every reading command does, and what calls itself JSON is."""
    for command in READING:
        assert bench(*command).exit_code == 0, command
    parsed(bench("list", "runs", "--json"))
    parsed(bench("compare", "--json"))
    (workspace / "runs.parquet").unlink()
    (workspace / "report.html").unlink()


@pytest.mark.parametrize("where", ["weights", "gradient"])
@pytest.mark.parametrize("dtype", ["float64", "float32"] if FULL else ["float64"])
def test_a_number_in_one_replicate_is_a_result_of_that_one_and_touches_no_other(
    where, dtype, bench, workspace, record_property
):
    """From step 50 on: what is not finite, or becomes so, has diverged; the least numbers change
    nothing.
    """
    seen = {}
    for number in EXTREMES:
        chosen = (f"dtype={dtype}", f"method.where={where}", f"method.number={number}")
        settings = [word for one in chosen for word in ("--set", one)]
        result = bench("run", "-m", f"{PLUGINS}:Poisoned", "--seeds", "0-1", *SMOKE, *settings)
        assert result.exit_code in (0, 3), result.output
        seen[number] = stored(workspace)
        reads(bench, workspace)
        assert bench("rm", "--yes", *(line["key"] for line in json_lines(result))).exit_code == 0
    healthy = seen["nothing"]
    assert healthy[0][0] == healthy[1][0] == Status.DONE
    for number, found in seen.items():
        assert found[0] == healthy[0], number
        grows = abs(EXTREMES[number]) > 1 or math.isnan(EXTREMES[number])
        assert found[1][0] == (Status.DIVERGED if grows else Status.DONE), number
        if grows:
            assert found[1][3] == [50], number
    assert seen["least"][1] == healthy[1]
    record_property("faults", len(seen))


@pytest.mark.parametrize(
    "setting",
    ["lr=1e308", "lr=5e-324", "clip_norm=1e-308", "clip_norm=1e308", "lr=1e308 dtype=float32"],
)
@pytest.mark.parametrize("optimiser", ["adam", "rmsprop"])
def test_settings_at_the_ends_of_the_floats_give_a_result(
    setting, optimiser, bench, workspace, record_property
):
    """Parameters that overflow have diverged; those that do not move are done."""
    chosen = [
        word for one in (*setting.split(), f"optimiser={optimiser}") for word in ("--set", one)
    ]
    result = bench("run", "-m", "vb", "-m", "hvae", *SMOKE, *chosen)
    assert result.exit_code in (0, 3), result.output
    statuses = {line["status"] for line in json_lines(result)}
    assert statuses == ({"diverged"} if setting.startswith("lr=1e308") else {"done"})
    reads(bench, workspace)
    record_property("faults", 1)


def test_every_number_that_a_float_can_be_is_stored_and_shown(
    url,  # noqa: F811
    tmp_path,
    bench,
    workspace,
    monkeypatch,
    record_property,
):
    """As a metric, and as a standard error: to the bit in either database, and no reading command
    stumbles.
    """
    monkeypatch.setenv("BENCH_DATABASE_URL", url)
    here, numbers = Workspace.current(), [*EXTREMES.values(), 1e-310, 2.2250738585072014e-308]
    with ResultStore.open(url) as store:
        claims = filled_store.start(store, range(len(numbers)))
        for claim, number in zip(claims, numbers, strict=True):
            filled_store.finish(
                here,
                store,
                claim,
                metrics={"elbo": Estimate(number, abs(number)), "elbo_gap": Estimate(number, None)},
            )
        kept = store.metrics([claim.key for claim in claims])
    for claim, number in zip(claims, numbers, strict=True):
        value, error = kept[claim.key]["elbo"].value, kept[claim.key]["elbo"].se
        assert (value.hex(), error.hex()) == (number.hex(), abs(number).hex())
        assert bench("show", claim.key).exit_code == 0
        parsed(bench("show", claim.key, "--json"))
    reads(bench, workspace)
    record_property("faults", len(numbers))


def test_a_worker_whose_step_does_not_end_is_ended_and_the_others_go_on(bench, monkeypatch):
    """Its run is tried again by another worker, and given up when it has ended the third one."""
    monkeypatch.setattr("harness.execution.workers.STUCK_S", 0.5)
    methods = ("-m", f"{PLUGINS}:Hangs", "-m", "vb")
    result = bench("run", *methods, *SMOKE, "--time-limit", "6s", "--workers", "1")
    runs = {line["method"].rpartition(":")[2]: line for line in json_lines(result)}
    assert runs["vb"]["status"] == "done"
    assert (runs["hangs"]["status"], runs["hangs"]["reason"]) == ("failed", "crashed")
    assert result.stderr.count("ended with status 1; another one takes its place") == 3
