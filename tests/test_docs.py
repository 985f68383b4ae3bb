"""The documentation site: it is built without a warning, and asks no other host for anything."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import comparisons
import filled_store
import pytest

from harness.analysis.selection import RunFilter, select_runs
from harness.plan.studies import load
from harness.store import ResultStore

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The site, built with warnings as errors and where no other host can be asked."""
    folder = tmp_path_factory.mktemp("site")
    nowhere = dict.fromkeys(("http_proxy", "https_proxy", "all_proxy"), "http://127.0.0.1:9")
    built = subprocess.run(
        [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "docs", str(folder)],
        cwd=ROOT,
        env={**os.environ, **nowhere},
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stderr
    return folder


def test_every_page_is_built_and_asks_nobody(site):
    pages = {path.relative_to(site).with_suffix("").as_posix() for path in site.rglob("*.html")}
    for path in (ROOT / "docs").rglob("*.md"):
        if "_build" not in path.parts:
            assert path.relative_to(ROOT / "docs").with_suffix("").as_posix() in pages
    for page in site.rglob("*.html"):
        text = page.read_text()
        asked = re.findall(r'<(?:script|img|link)[^>]*(?:src|href)="(https?://[^"]+)"', text)
        assert [url for url in asked if "canonical" not in url] == [], page


def test_the_first_page_is_the_readme_and_leads_to_all(site):
    text = (site / "index.html").read_text()
    assert (ROOT / "README.md").read_text().splitlines()[0].removeprefix("# ") in text
    for name in ("python", "studies", "checkpoints", "add-a-method", "reference"):
        assert f'href="{name}.html' in text


def test_the_reference_has_formulas_and_signatures(site):
    text = (site / "reference.html").read_text()
    assert "<math" in text
    for name in ("harness.fit", "harness.run", "harness.api.LogDensity", "harness.api.Method"):
        assert f'id="{name}"' in text
    assert "$" not in re.sub(r"<script.*?</script>", "", text, flags=re.DOTALL)


def test_the_first_page_is_short_and_its_method_works(bench, workspace, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "docs")
    import make_readme

    monkeypatch.setattr(make_readme, "COMMAND", make_readme.COMMAND.replace("3000", "30"))
    page = (ROOT / "README.md").read_text()
    assert len(page.splitlines()) <= 120
    (mine,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    (workspace / "mine.py").write_text(mine)
    checked = bench("check", "./mine.py")
    assert checked.exit_code == 0, checked.output
    (printed,) = re.findall(r"<!-- output -->\n(.*?)<!-- end -->", page, re.DOTALL)
    printed = printed.replace("3000", "30")
    tables = [text.partition("\nelbo_gap:")[0] for text in (printed, make_readme.output())]
    first_words = [re.findall(r"^[ $]*([\w-]+)", table, re.MULTILINE) for table in tables]
    assert first_words[0] == first_words[1]


@pytest.mark.usefixtures("no_mirror")
def test_the_table_of_the_first_page_is_made_of_stored_runs(workspace, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "docs")
    import make_readme
    import marked

    home = filled_store.workspace_in(workspace)
    comparisons.store_runs(home, load(make_readme.STUDY).runs())
    with ResultStore.open(home.database_url) as store:
        text = make_readme.table(select_runs(store, RunFilter()))
    page = (ROOT / "README.md").read_text()
    (stored,) = re.findall(r"<!-- table -->\n(.*?)<!-- end -->", page, re.DOTALL)
    rows = [
        [line.split("|")[1] for line in table.splitlines() if "|" in line]
        for table in (text, stored)
    ]
    limits = [" best mean field ", " best volume-preserving map "]  # which these runs do not have
    assert [*rows[0], *limits] == rows[1]
    for caption in (stored.splitlines()[-1], text.splitlines()[-1]):
        assert caption.startswith("elbo\\_gap (nats), protocol standard. ")
        assert "Means over seeds ± standard error; n = 7. Lower is better." in caption
    assert marked.replaced("a<!-- table -->\nx\n<!-- end -->b", "table", r"\1 y") == (
        "a<!-- table -->\n\\1 y\n<!-- end -->b"
    )
