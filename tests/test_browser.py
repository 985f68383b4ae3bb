"""MLflow's pages over a mirrored workspace, in a real browser."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import time
import urllib.request
from pathlib import Path

import filled_store
import pytest

from harness.store import ResultStore
from harness.tracking import Mirror, start_page, ui_command

CHROMIUM = "/usr/bin/chromium"
FLAGS = [
    "no-sandbox",
    "disable-gpu",
    "disable-quic",
    "no-first-run",
    "disable-background-networking",
    "disable-component-update",
    "disable-sync",
]
PATIENCE_S = 120

pytestmark = pytest.mark.skipif(
    not Path(CHROMIUM).exists() and "CI" not in os.environ, reason=f"{CHROMIUM} is not installed"
)


@pytest.fixture(scope="module")
def mirrored(tmp_path_factory):
    """A workspace with three finished runs that MLflow shows, and their keys."""
    workspace = filled_store.workspace_in(tmp_path_factory.mktemp("pages"))
    keys = filled_store.fill(workspace, range(3))
    with Mirror.start(workspace, keys) as mirror:
        assert mirror.finish(PATIENCE_S) == []
    return workspace, keys


@pytest.fixture(scope="module")
def pages(mirrored):
    """The address of the pages."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    argv, environment = ui_command(mirrored[0], "127.0.0.1", port)
    log = mirrored[0].home / "ui.log"
    with log.open("w") as output:
        server = subprocess.Popen(argv, env=environment, stdout=output, stderr=subprocess.STDOUT)
    try:
        wait_for(f"http://127.0.0.1:{port}/health", server, log)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait()


def wait_for(address, server, log):
    """Poll until a server answers."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        assert server.poll() is None, log.read_text()
        try:
            with urllib.request.urlopen(address, timeout=5):
                return
        except OSError:
            time.sleep(0.2)
    raise AssertionError(log.read_text())


@pytest.fixture(scope="module")
def browser():
    """A browser without a window."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(
            executable_path=CHROMIUM, args=[f"--{flag}" for flag in FLAGS]
        )
        yield chromium
        chromium.close()


@pytest.fixture
def page(browser, request, tmp_path):
    """A tab, of which a picture is kept where BENCH_SCREENSHOTS says."""
    tab = browser.new_page(viewport={"width": 1400, "height": 1000})
    tab.set_default_timeout(1000 * PATIENCE_S)
    yield tab
    tab.screenshot(path=tmp_path / "page.png")
    if folder := os.environ.get("BENCH_SCREENSHOTS"):
        shutil.copyfile(tmp_path / "page.png", Path(folder) / f"{request.node.name}.png")
    tab.close()


@pytest.fixture
def run_address(mirrored, pages):
    """The page of the first run."""
    workspace, keys = mirrored
    with ResultStore.open(workspace.database_url) as store:
        run_id = store.rows(keys)[keys[0]].mlflow_run_id
    from mlflow import MlflowClient

    experiment = MlflowClient(pages).get_run(run_id).info.experiment_id
    return f"{pages}/#/experiments/{experiment}/runs/{run_id}"


def shows(page, text):
    """Wait until a page shows a text."""
    page.get_by_text(text).first.wait_for(state="visible")


def test_the_list_of_experiments_leads_to_the_runs_of_the_task(page, pages):
    page.goto(f"{pages}/#/experiments")
    shows(page, "gaussian-2")
    page.get_by_text(
        "Model training"
    ).first.click()  # MLflow remembers it; else it shows pages for language models
    page.get_by_text("gaussian-2").first.click()
    shows(page, re.compile(r"hvae\[.*\] seed 0"))


def test_the_start_page_shows_runs_and_charts_of_metrics_at_once(page, mirrored, pages):
    address = start_page(mirrored[0], port=int(pages.rpartition(":")[2]))
    assert address.startswith(f"{pages}/#/experiments/")
    page.goto(address)
    shows(page, re.compile(r"hvae\[.*\] seed 0"))
    page.locator(".js-plotly-plot").first.wait_for(state="visible")


def test_the_task_lists_its_runs(page, pages, run_address):
    page.goto(run_address.partition("/runs/")[0] + "/runs")
    for seed in range(3):
        shows(page, re.compile(rf"hvae\[.*\] seed {seed}"))


def test_the_page_of_a_run_shows_its_parameters_and_scores(page, run_address):
    page.goto(run_address)
    for text in ("method.n_leapfrog", "method.tempering", "lr", "elbo_gap"):
        shows(page, re.compile(f"^{re.escape(text)}$"))


def test_the_curves_of_a_run_are_drawn(page, run_address):
    page.goto(f"{run_address}/model-metrics")
    shows(page, re.compile("^bound$"))
    page.locator(".js-plotly-plot .scatterlayer path.js-line").first.wait_for(state="attached")


def test_the_files_of_a_run_hold_its_checkpoint_and_its_picture(page, mirrored, run_address):
    page.goto(f"{run_address}/artifacts")
    for name in ("checkpoint", "spec.json", "environment.json"):
        shows(page, re.compile(f"^{re.escape(name)}$"))
    page.get_by_text(re.compile("^checkpoint$")).first.click()
    shows(page, f"{mirrored[1][0]}.safetensors")
    page.get_by_text(re.compile("^curves.png$")).first.click()
    page.wait_for_function("[...document.images].some(image => image.naturalWidth > 700)")
