"""The report: one page that draws itself in a real browser, asks nobody for anything, and shows
names as names.
"""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
from pathlib import Path

import comparisons
import filled_store
import pytest
from click.testing import CliRunner
from test_browser import CHROMIUM, FLAGS

from harness.analysis.selection import RunFilter, select_runs
from harness.analysis.statistics import t_interval
from harness.cli import main
from harness.plan.grid import expand
from harness.report import charts, curves
from harness.report.comparisons import scores
from harness.report.view import View
from harness.store import ResultStore

SIZES = {"desktop": (1280, 900), "phone": (390, 844)}
needs_browser = pytest.mark.skipif(
    not Path(CHROMIUM).exists() and "CI" not in os.environ, reason=f"{CHROMIUM} is not installed"
)


def write_report(workspace, name="report.html", *options):
    """The page as `bench report` writes it."""
    output = workspace.home / name
    done = CliRunner().invoke(
        main, ["report", "-o", str(output), *options], env={"BENCH_HOME": str(workspace.home)}
    )
    assert done.exit_code == 0, done.output
    return output


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    """Finished runs of four methods on three tasks; one of each hostile name, half of which
    diverged for a hostile reason.
    """
    workspace = filled_store.workspace_in(tmp_path_factory.mktemp("report"))
    runs = comparisons.gaussian_runs()
    comparisons.store_runs(workspace, runs)
    strange = [comparisons.renamed(runs[0], name) for name in comparisons.HOSTILE]
    comparisons.store_runs(workspace, strange[::2])
    comparisons.store_runs(workspace, strange[1::2], lambda run: f"not finite in {run.spec.method}")
    return workspace


@pytest.fixture(scope="module")
def page(workspace):
    """The page's file."""
    return write_report(workspace)


@pytest.fixture(scope="module")
def browser():
    """A browser without a window."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        running = playwright.chromium.launch(
            executable_path=CHROMIUM, args=[f"--{flag}" for flag in FLAGS]
        )
        yield running
        running.close()


def opened(browser, page, size="desktop", **context):
    """The page, drawn to the end; with the requests it made and the complaints of the console."""
    width, height = SIZES[size]
    tab = browser.new_context(viewport={"width": width, "height": height}, **context).new_page()
    asked, complaints = [], []
    tab.on("request", lambda request: asked.append(request.url))
    tab.on(
        "console",
        lambda message: (
            complaints.append(message.text) if message.type in ("error", "warning") else None
        ),
    )
    tab.on("pageerror", lambda error: complaints.append(str(error)))
    tab.on(
        "dialog", lambda dialog: (complaints.append(f"dialog: {dialog.message}"), dialog.dismiss())
    )
    tab.goto(page.as_uri())
    tab.wait_for_selector("html[data-drawn]", state="attached", timeout=120_000)
    return tab, asked, complaints


@needs_browser
@pytest.mark.parametrize("size", SIZES)
def test_every_figure_is_drawn_and_nothing_leaves_the_page(browser, page, size, tmp_path):
    tab, asked, complaints = opened(browser, page, size)
    charts = tab.locator(".plot").count()
    assert charts > 10
    assert tab.locator(".plot svg.main-svg").count() >= charts
    empty = tab.evaluate(
        "[...document.querySelectorAll('.plot')].filter(p => !p.querySelector('.trace, .point, "
        ".bars')).map(p => p.id)"
    )
    assert empty == []
    assert [url for url in asked if not url.startswith(("file:", "data:", "blob:"))] == []
    assert complaints == []
    assert tab.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    tab.screenshot(
        path=str(Path(os.environ.get("BENCH_SCREENSHOTS", tmp_path)) / f"report-{size}.png"),
        full_page=True,
    )
    tab.context.close()


@needs_browser
def test_hovering_names_a_point_and_a_key_hides_its_lines(browser, page):
    tab, _, complaints = opened(browser, page)
    article = tab.locator("#sizes article.figure").first
    article.scroll_into_view_if_needed()
    point = article.locator(".plot .scatterlayer .point").first
    box = point.bounding_box()
    tab.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    tab.wait_for_selector("#sizes .hoverlayer .hovertext", timeout=10_000)
    visible = "p => p.data.filter(t => t.visible !== 'legendonly').length"
    plot = article.locator(".plot").first
    before = plot.evaluate(visible)
    key = article.locator(f"button.key[data-key='{plot.evaluate('p => p.data[0].legendgroup')}']")
    key.click()
    tab.wait_for_timeout(500)
    assert plot.evaluate(visible) < before
    key.click()
    tab.wait_for_timeout(500)
    assert plot.evaluate(visible) == before
    assert complaints == []
    tab.context.close()


@needs_browser
def test_the_horizontal_axis_of_learning_curves_can_be_chosen(browser, page):
    tab, _, complaints = opened(browser, page)
    article = tab.locator("#curves article.figure").first
    plot, furthest = article.locator(".plot").first, "p => Math.max(...p.data.flatMap(t => t.x))"
    steps = plot.evaluate(furthest)
    article.locator("[data-choice='1']").click()
    tab.wait_for_timeout(500)
    assert (
        plot.evaluate(furthest) == steps * 10 * 23
    )  # ten particles; ten leapfrog steps ask for eleven scores, and there is the way back
    assert complaints == []
    tab.context.close()


def test_curves_are_gaps_where_the_truth_is_known():
    line = [(10, 5000.0), (20, 900.0), (30, -1e-3), (40, 2.0), (50, 1.5), (60, 1e-9)]
    low, high = curves.gap_range([line, [(10, 7000.0), (20, 3.0)]])
    assert (10**low, 10**high) == (pytest.approx(0.5e-9), pytest.approx(14_000))
    assert curves.gap_range([[(1, -1.0)]]) is None


def test_what_all_rows_have_alike_is_said_and_not_drawn(tmp_path):
    workspace = filled_store.workspace_in(tmp_path)
    runs = expand(["vb", "iaf"], ["norms-2"], range(3), "smoke")
    comparisons.store_runs(
        workspace, runs, lambda run: {"elbo_gap": 1.0, "theta_sq_error": float(run.spec.seed)}
    )
    with ResultStore.open(workspace.database_url) as store:
        (figure,) = scores(View(select_runs(store, RunFilter()))).figures
    assert [plot.title.partition(":")[0] for plot in figure.plots] == ["theta_sq_error"]
    assert figure.notes == ["elbo_gap is 1 in every row."]


def test_an_axis_ends_where_a_few_means_would_squeeze_all_others():
    def of(*means):
        return [t_interval([mean - 0.1, mean + 0.1]) for mean in means]

    scale = charts.fitting(of(-16.0, -15.0, -15.5, -14.0, -1e6))
    assert scale.edge is None
    assert -20 < scale.bottom < -16.0 < -14.0 < scale.top < -10
    marks = [charts.Mark(0, interval, (f"{interval.mean:g}",)) for interval in of(-16.0, -1e6)]
    (note,) = charts.notes(marks, scale, "elbo")
    assert "elbo is beyond the axis" in note
    assert "-1e+06" in note
    assert charts.fitting(of(-16.0, -15.0, -1e6)) == charts.LINEAR  # of three, two are no majority
    assert charts.fitting(of(1.0, 2.0, 3.0, 4.0, 5.0, 60.0)) == charts.LINEAR
    assert charts.fitting(of(0.01, 0.2, 3.0, 4.0)).edge is not None


@needs_browser
def test_bars_join_methods_that_are_not_told_apart(browser, page):
    tab, _, complaints = opened(browser, page)
    joined = tab.locator("#ranks .plot").evaluate(
        "p => p.data.filter(t => t.mode === 'lines').map(t => t.hovertext)"
    )
    ranks = tab.locator("#ranks .plot").evaluate("p => p.data.at(-1).x")
    assert joined
    assert all(text.startswith("not told apart") for text in joined)
    assert ranks == sorted(ranks)
    assert complaints == []
    tab.context.close()


@needs_browser
def test_dark_and_light_have_colours_of_their_own(browser, page):
    light, *_ = opened(browser, page, color_scheme="light")
    paper = "getComputedStyle(document.body).backgroundColor"
    ink = "document.querySelector('.plot .xtick text').style.fill"
    before = light.evaluate(paper), light.evaluate(ink)
    light.emulate_media(color_scheme="dark")
    light.wait_for_timeout(2000)
    assert light.evaluate(paper) != before[0]
    assert light.evaluate(ink) != before[1]
    light.context.close()


@needs_browser
def test_hostile_names_and_reasons_are_shown_as_text(browser, page):
    tab, _, complaints = opened(browser, page)
    text = tab.locator("body").inner_text()
    for name in comparisons.HOSTILE:
        assert name in text
    assert "not finite in 50%" in text
    assert complaints == []
    tab.context.close()


def test_the_policy_lets_only_the_pages_own_scripts_run(page):
    text = page.read_text()
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', text)[1]
    scripts = re.findall(r"<script>(.*?)</script>", text, re.S)
    assert "default-src 'none'" in policy
    assert "unsafe-eval" not in policy
    assert "'unsafe-inline'" not in policy.partition("script-src")[2].partition(";")[0]
    import base64

    allowed = re.findall(r"'sha256-([^']+)'", policy)
    assert allowed == [
        base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts
    ]


def test_the_same_results_give_the_same_bytes_in_another_process(workspace, page):
    again = workspace.home / "again.html"
    environment = {**os.environ, "BENCH_HOME": str(workspace.home), "PYTHONHASHSEED": "7"}
    command = [sys.executable, "-m", "harness.cli", "report", "-o", str(again)]
    subprocess.run(command, env=environment, check=True, capture_output=True)
    assert again.read_bytes() == page.read_bytes()


def test_a_value_that_is_not_finite_or_below_zero_breaks_no_logarithmic_axis(tmp_path):
    workspace = filled_store.workspace_in(tmp_path)
    values = iter([float("nan"), float("inf"), -1.0, 0.0] * 100)

    def wild(run):
        return comparisons.scores(run) | {"sigma_sq_error": next(values), "elbo_gap": next(values)}

    comparisons.store_runs(workspace, comparisons.gaussian_runs(range(2)), wild)
    text = write_report(workspace).read_text()
    assert "NaN" not in "".join(
        re.findall(r'<script type="application/json">(.*?)</script>', text, re.S)
    )


def test_where_nothing_has_finished_one_line_says_so(tmp_path):
    workspace = filled_store.workspace_in(tmp_path)
    environment = {"BENCH_HOME": str(workspace.home)}
    done = CliRunner().invoke(main, ["report"], env=environment)
    assert (done.exit_code, done.output.count("\n")) == (2, 1)
    comparisons.store_runs(workspace, comparisons.gaussian_runs([0], ["gaussian-2"]))
    done = CliRunner().invoke(main, ["report", "-t", "mnist"], env=environment)
    assert (done.exit_code, done.output.count("\n")) == (2, 1)
    assert not list(workspace.home.glob("*.html"))
