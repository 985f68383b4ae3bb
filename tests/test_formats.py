"""Every format of `bench compare`, with names and reasons that are code to whoever reads it
carelessly: read back, they are text.
"""

from __future__ import annotations

import csv
import io
import itertools
import json
import os
import re
import resource
import shutil
import subprocess
import threading
from contextlib import contextmanager, redirect_stdout, suppress
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import comparisons
import filled_store
import pandas as pd
import pytest
from click.testing import CliRunner
from hostile import is_harmless
from markdown_it import MarkdownIt
from pyarrow import parquet
from test_browser import CHROMIUM, FLAGS

from harness.analysis.files import FORMULA, SCHEMA_VERSION
from harness.analysis.formats import html, latex, markdown
from harness.analysis.grids import Grid, Word
from harness.analysis.records import csv_text, parquet_bytes
from harness.base.errors import UsageError
from harness.cli import main
from harness.cli._output import write_out
from harness.store import ResultStore

NAMES = (*comparisons.HOSTILE, "+a", "-b", "@c", "[bold]d[/bold]", "e--f ffi **g**", "\\input{j}")
PLAIN = ("vb", "iaf", "hvae", "hvae-untempered")
TASK = "50%_<b>|=k"
needs_browser = pytest.mark.skipif(
    not Path(CHROMIUM).exists() and "CI" not in os.environ, reason=f"{CHROMIUM} is not installed"
)
needs_latex = pytest.mark.skipif(
    not shutil.which("pdflatex") and "CI" not in os.environ, reason="pdflatex is not installed"
)


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    """Methods of such names on two tasks, one of them of such a name, and large and small numbers;
    a third run of each is withdrawn.
    """
    workspace = filled_store.workspace_in(tmp_path_factory.mktemp("formats"))
    runs = comparisons.gaussian_runs(range(8), ["gaussian-2", "gaussian-25"])
    renamed = [
        replace(run, task_label=TASK) if run.task_label == "gaussian-25" else run for run in runs
    ]
    comparisons.store_runs(workspace, renamed)
    first = [run for run in renamed if run.spec.method == "vb"]
    large = [comparisons.renamed(run, name) for name in NAMES for run in first[:3]]
    comparisons.store_runs(
        workspace,
        large,
        lambda run: {
            name: -value * 10.0 ** (3 * len(run.spec.method) - 20)
            for name, value in comparisons.scores(run).items()
        },
    )
    with ResultStore.open(workspace.database_url) as store:
        for run in large[2::3]:
            store.retractions.add([run.spec.key], f"reason {run.spec.method}")
    return workspace


@pytest.fixture(scope="module")
def compare(workspace):
    """`bench compare` over these runs: what it printed, or the file that it wrote."""

    def call(*arguments, to=None, **environment):
        output = ["-o", str(workspace.home / to)] if to else []
        done = CliRunner().invoke(
            main,
            ["compare", *arguments, *output],
            env={"BENCH_HOME": str(workspace.home), **environment},
        )
        assert done.exit_code == 0, done.output
        return workspace.home / to if to else done.stdout

    return call


@pytest.fixture(scope="module")
def records(compare):
    """What is in the tables, as data."""
    return [json.loads(line) for line in compare("--json").splitlines()]


def means(records):
    """By method and settings, then task, the mean."""
    found = {}
    for record in records:
        found.setdefault(f"{record['method']} {record['settings']}".strip(), {})[record["task"]] = (
            record
        )
    return found


def is_shown(text, record):
    """Whether a printed number is the record's mean, to the digits that are printed."""
    digits = text.replace(",", "").lstrip("*")
    scaled = re.match(r"\((-?[\d.]+) ± ([\d.]+)\)e(-?\d+)", digits)
    mean, se, power = (
        scaled.groups() if scaled else (*re.match(r"(-?[\d.]+) ± ([\d.e-]+)", digits).groups(), "0")
    )
    unit = 10.0 ** int(power)
    return float(mean) * unit == pytest.approx(record["mean"], abs=0.06 * record["se"]) and float(
        se
    ) * unit == pytest.approx(record["se"], rel=0.06)


def agree(rows, records):
    """Rows of words, the first of them a name: all names are there, and every number is the
    record's.
    """
    expected = means(records)
    assert {name for name, *_ in rows} == set(expected)
    for name, *words in rows:
        for task, word in zip((TASK, "gaussian-2"), words, strict=True):
            assert (
                word == "-" if task not in expected[name] else is_shown(word, expected[name][task])
            ), (name, word)


# The terminal


def test_plain_text_has_every_name_and_the_numbers_of_the_records(compare, records):
    lines = compare("--no-costs").splitlines()
    body = lines[
        next(number for number, line in enumerate(lines) if set(line.strip()) == {"─"}) + 1 :
    ]
    rows = [re.split(r" {2,}", line.strip()) for line in body[: body.index("")]]
    agree(rows, records)


def on_a_terminal(workspace, width):
    """What `bench compare` writes to a terminal of that width."""
    master, slave = os.openpty()
    written = []

    def read():
        with suppress(OSError):  # the other end is closed
            while part := os.read(master, 4096):
                written.append(part)

    reader = threading.Thread(target=read)
    reader.start()
    with (
        pytest.MonkeyPatch.context() as patch,
        os.fdopen(slave, "w") as terminal,
        redirect_stdout(terminal),
    ):
        patch.setenv("BENCH_HOME", str(workspace.home))
        patch.setenv("COLUMNS", str(width))
        patch.setenv("TERM", "xterm")
        patch.delenv("NO_COLOR", raising=False)
        main(["compare"], standalone_mode=False)
    reader.join()
    os.close(master)
    return b"".join(written).decode().replace("\r\n", "\n")


def test_a_wide_terminal_shows_a_table_with_bold_and_a_narrow_one_blocks(workspace):
    wide, narrow = on_a_terminal(workspace, 200), on_a_terminal(workspace, 60)
    assert re.search(r"\x1b\[1m[^\x1b]* ± ", wide)
    assert "*: bold" not in wide
    words = [re.sub(r"\x1b\[[0-9;]*m", "", text) for text in (wide, narrow)]
    assert ["─" in text for text in words] == [True, False]
    assert re.search(r"^  gaussian-2 +-?[(\d].* ± ", words[1], re.M)
    assert max(map(len, words[1].splitlines())) <= 60
    assert all(name in text for name in NAMES for text in words)


# Markdown


def test_markdown_renders_to_tables_of_the_same_cells(compare, records):
    rendered = MarkdownIt("commonmark").enable(["table", "strikethrough"])
    text = compare("--format", "markdown", "--no-costs")
    tokens = rendered.parse(text)
    rows, here = [], []
    for before, token in itertools.pairwise(tokens):
        if token.type == "tr_close":
            rows.append(here)
            here = []
        elif token.type == "inline" and before.type in ("td_open", "th_open"):
            assert {child.type for child in token.children} <= {
                "text",
                "text_special",
                "strong_open",
                "strong_close",
            }
            here.append("".join(child.content for child in token.children))
    heading, *body = rows
    assert heading == ["method", TASK, "gaussian-2"]
    assert {len(row) for row in body} == {3}
    agree(body, records)

    page = rendered.render(text)
    assert "<script" not in page
    notes = re.findall(r"<li>(.*?)</li>", page)
    said = {Text.of(note).partition("] ")[2] for note in notes if "withdrawn" in note}
    assert said == {f"1 withdrawn, and in no mean: reason {name}" for name in NAMES}


# HTML


class Text(HTMLParser):
    """The words of a page, by cell, and the elements that it has."""

    def __init__(self):
        super().__init__()
        self.rows, self.elements, self.words = [], set(), []

    def handle_starttag(self, tag, attributes):
        self.elements.add(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_data(self, data):
        self.words.append(data)
        if self.rows and self.rows[-1] and self.lasttag in ("td", "th", "strong"):
            self.rows[-1][-1] += data.strip()

    @classmethod
    def of(cls, page):
        reader = cls()
        reader.feed(page)
        return "".join(reader.words)


def test_html_has_a_cell_for_every_word_and_no_element_of_a_name(compare, records):
    reader = Text()
    reader.feed(compare("--format", "html", "--no-costs"))
    agree(reader.rows[1:], records)
    assert reader.elements <= {
        "html",
        "head",
        "meta",
        "title",
        "style",
        "body",
        "figure",
        "figcaption",
        "div",
        "table",
        "thead",
        "tbody",
        "tr",
        "th",
        "td",
        "strong",
        "sup",
        "ul",
        "li",
    }


@needs_browser
def test_a_browser_shows_the_page_runs_nothing_and_asks_nobody(compare):
    from playwright.sync_api import sync_playwright

    page = compare("--differences", to="table.html")
    complaints = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=[f"--{flag}" for flag in FLAGS]
        )
        tab = browser.new_page(viewport={"width": 390, "height": 844})
        tab.on(
            "request",
            lambda request: (
                complaints.append(request.url) if request.url != page.as_uri() else None
            ),
        )
        tab.on("console", lambda message: complaints.append(message.text))
        tab.on("dialog", lambda dialog: (complaints.append(dialog.message), dialog.dismiss()))
        tab.goto(page.as_uri())
        text = tab.locator("body").inner_text()
        scripts = tab.evaluate("document.scripts.length")
        fits = tab.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
        browser.close()
    assert all(name in text and f"reason {name}" in text for name in NAMES)
    assert (complaints, scripts, fits) == ([], 0, True)


# LaTeX

PREAMBLE = r"""\documentclass{article}
\usepackage[T1]{fontenc}
\usepackage{booktabs,graphicx}
\showboxdepth=1000 \showboxbreadth=100000 \tracingoutput=1 \hyphenpenalty=10000
\begin{document}
\input{table.tex}
\end{document}
"""
GLYPHS = {"OMS ^^@": "-", "OMS ^^F": "±", "OMS ^^B": "×", "T1 ^^@": "`"}


def typeset(folder, text):
    """The log of LaTeX, and the letters that it put on paper, without spaces."""
    (folder / "table.tex").write_text(text)
    (folder / "page.tex").write_text(PREAMBLE)
    done = subprocess.run(
        [
            "pdflatex",
            "-draftmode",
            "-no-shell-escape",
            "-interaction=nonstopmode",
            "-halt-on-error",
            "page.tex",
        ],
        cwd=folder,
        env={**os.environ, "max_print_line": "10000"},
        capture_output=True,
        timeout=60,
        check=False,
    )
    log = (folder / "page.log").read_text(errors="replace")
    assert done.returncode == 0, log[-3000:]
    letters = []
    for font, glyph, ligature in re.findall(
        r"^\.+\\(T1|OMS|OT1|OML)/\S+ (\S+)(?: \(ligature (.+)\))?$", log, re.M
    ):
        letters.append(ligature or GLYPHS.get(f"{font} {glyph}", glyph))
    return log, "".join(letters)


@needs_latex
def test_latex_compiles_and_prints_every_name_and_number(compare, records, tmp_path):
    log, printed = typeset(tmp_path, compare("--format", "latex", "--differences"))
    assert "LaTeX Error" not in log
    assert (
        max(
            [float(width) for width in re.findall(r"Overfull \\hbox \(([\d.]+)pt", log)],
            default=0.0,
        )
        < 1
    )
    for name in NAMES:
        assert name.replace(" ", "") in printed
        assert f"innomean:reason{name}".replace(" ", "") in printed
    for record in records:
        if record["task"] == TASK or record["method"] in NAMES:
            suffix = "" if record["task"] == TASK else "--"
            name = f"{record['method']}{record['settings']}{suffix}".replace(" ", "")
            shown = re.search(re.escape(name) + r"\(?(-?[\d.,]+)±[\d.,]+(\)×10(-?\d+))?", printed)
            value = float(shown[1].replace(",", "")) * 10.0 ** int(shown[3] or 0)
            assert value == pytest.approx(record["mean"], abs=0.06 * record["se"])


@needs_latex
def test_latex_compiles_with_the_fonts_that_it_has_without_being_asked(compare, tmp_path):
    (tmp_path / "table.tex").write_text(compare("--format", "latex", "--ranks"))
    plain = PREAMBLE.replace("\\usepackage[T1]{fontenc}\n", "").replace("\\tracingoutput=1", "")
    (tmp_path / "page.tex").write_text(plain)
    done = subprocess.run(
        ["pdflatex", "-no-shell-escape", "-interaction=nonstopmode", "-halt-on-error", "page.tex"],
        cwd=tmp_path,
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:]
    assert (tmp_path / "page.pdf").read_bytes().startswith(b"%PDF")


# Data


def test_csv_has_no_formula_and_the_numbers_of_the_records(compare, records):
    path = compare(to="table.csv")
    with path.open(newline="") as file:
        heading, *lines = list(csv.reader(file))
    assert {len(line) for line in lines} == {len(heading)}
    for cell in (cell for line in lines for cell in line if cell.startswith(FORMULA)):
        float(cell)  # a number may begin with a sign
    frame = pd.read_csv(path, keep_default_na=False, na_values=[""], dtype={"seeds": str})
    assert list(frame.columns) == list(records[0])
    for name in ("mean", "se", "low", "high", "difference_mean", "p_holm", "seconds", "n"):
        assert frame[name].to_numpy() == pytest.approx(
            [float("nan") if r[name] is None else r[name] for r in records], nan_ok=True, rel=1e-15
        )
    assert [str(name).removeprefix("'") for name in frame["method"]] == [
        record["method"] for record in records
    ]
    assert {name for name in frame["method"] if name.startswith("'")} == {
        f"'{name}" for name in NAMES if name.startswith(FORMULA)
    }


@pytest.mark.parametrize(
    "text",
    [
        "=1+1",
        "+1",
        "-1",
        "@x",
        "\t=1",
        "\r=1",
        "\n=1",
        '=cmd|" /C calc"!A0',
        'a"b',
        "a,b",
        "a\nb",
        "",
    ],
)
def test_a_text_in_csv_is_read_back_and_is_no_formula(text):
    (_, (cell, number)) = list(
        csv.reader(io.StringIO(csv_text([{"name": text, "number": -1.5}]), newline=""))
    )
    assert cell in (text, f"'{text}")
    assert not cell.startswith(FORMULA)
    assert number == "-1.5"


def test_json_and_parquet_are_the_same_records(compare, records):
    document = json.loads(compare(to="table.json").read_text())
    assert document == {"schema_version": SCHEMA_VERSION, "records": records}
    stored = parquet.read_table(compare(to="table.parquet"))
    assert stored.to_pylist() == records
    assert stored.schema.metadata[b"bench_schema_version"] == str(SCHEMA_VERSION).encode()


def test_parquet_types_do_not_depend_on_what_a_column_holds(records):
    empty = [dict.fromkeys(row) for row in records]
    full, bare = (parquet.read_schema(io.BytesIO(parquet_bytes(rows))) for rows in (records, empty))
    assert full.equals(bare)


# Files


@contextmanager
def files_of_at_most(size):
    """Writing more than that many bytes to a file fails, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_write_that_fails_leaves_the_old_file(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("old")
    with (
        files_of_at_most(1000),
        pytest.raises(UsageError, match=r"^Cannot write .*table.csv: File too large.$"),
    ):
        write_out(b"x" * 2000, path)
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("table.csv", "old")]


def test_a_table_that_cannot_be_made_leaves_the_old_file(workspace, tmp_path):
    path = tmp_path / "table.md"
    path.write_text("old")
    done = CliRunner().invoke(
        main,
        ["compare", "--metric", "nonsense", "-o", str(path)],
        env={"BENCH_HOME": str(workspace.home)},
    )
    assert (done.exit_code, done.output.count("\n"), path.read_text()) == (2, 1, "old")


@pytest.mark.parametrize(
    ("name", "begins"),
    [
        ("t.md", b"### "),
        ("t.tex", b"% Needs"),
        ("t.htm", b"<!doctype"),
        ("t.csv", b"schema_version,"),
        ("t.json", b"{"),
        ("t.PARQUET", b"PAR1"),
    ],
)
def test_the_ending_of_a_file_says_its_format(compare, name, begins):
    assert compare(to=name).read_bytes().startswith(begins)


def test_no_format_hands_a_terminal_what_it_would_obey():
    """Each is printed where no file is named. CSV is data, and has names as they are."""
    name = "e\x1b[2Jb\u202eabc\u200b"
    grid = Grid(name, ("method", name), ((Word(name), Word(name, marks=("a",))),), (name,))
    for text in (markdown([grid]), html([grid]), latex([grid])):
        assert "abc" in text
        assert is_harmless(text)
