"""Study files: what they mean, and how they refuse."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import filled_store
import pytest
import yaml
from conftest import json_lines
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_cli import loaded_by

from harness.base import yaml_source
from harness.base.errors import BenchError, UsageError
from harness.base.workspace import Workspace
from harness.plan import registry, studies

GOOD = """summary: A study.
grids:
  - methods: [vb]
    tasks: [gaussian-2]
    seeds: 0-1
    protocol: smoke
"""
pytestmark = pytest.mark.usefixtures("no_mirror")

DIMS = [25, 50, 100, 200, 300, 400]


# The shipped studies


@cache
def cells(name):
    """The runs of a study by method, settings of the method, and task: seeds and the spec of the
    first.
    """
    found = {}
    for run in studies.load(name).runs():
        found.setdefault(run.spec.cell, []).append(run)
    return [
        (runs[0].description.method, runs[0], [run.spec.seed for run in runs])
        for runs in found.values()
    ]


@pytest.mark.parametrize(
    ("name", "n_cells", "n_seeds"),
    [
        # hvae K = 1, 10; untempered K = 1, 10; iaf under two objectives; pnf K = 1, 30 under two
        # objectives; vb
        ("report-gaussian", len(DIMS) * (2 + 2 + 2 + 2 * 2 + 1), 3),
        ("paper-gaussian", 10 * (2 + 2 + 2 + 1), 10),
        ("corrected-gaussian", len(DIMS) * (2 + 2 + 1 + 2 + 1), 10),
        ("smoke", 4 * 7 + 2 * 9, 3),
    ],
)
def test_a_shipped_study_has_the_runs_that_its_grids_promise(name, n_cells, n_seeds):
    found = cells(name)
    assert len(found) == n_cells
    assert {tuple(seeds) for _, _, seeds in found} == {tuple(range(n_seeds))}
    assert studies.listings()[name] == studies.load(name).summary


def test_every_shipped_study_is_listed():
    assert sorted(studies.listings()) == sorted(
        path.stem for path in Path(studies.__file__).parents[2].glob("studies/*.yaml")
    )


def test_the_report_clips_and_runs_as_long_as_the_report_did():
    found = cells("report-gaussian")
    clipped = {(label, run.task_label) for label, run, _ in found if run.spec.clip_norm == 1e-4}
    assert {run.spec.clip_norm for _, run, _ in found} == {1e-4, None}
    short = {(label, f"gaussian-{d}") for label in ("hvae", "pnf") for d in DIMS[:-1]}
    assert clipped == short | {("vb", "gaussian-25"), ("vb", "gaussian-50")}
    epochs = {(label, run.task_label): run.spec.steps / 40 for label, run, _ in found}
    assert [epochs["vb", f"gaussian-{d}"] for d in DIMS] == [2000, 2000, 4000, 4000, 4000, 5000]
    assert {n for (label, _), n in epochs.items() if label != "vb"} == {2000}
    flows = [(label, run.spec) for label, run, _ in found if label in ("iaf", "pnf")]
    assert {(label, spec.task_fields["objective"]) for label, spec in flows} == {
        (f, o) for f in ("iaf", "pnf") for o in ("exact", "released-flow")
    }
    assert {spec.method_fields.get("tied", True) for _, spec in flows} == {True}
    assert {(run.spec.batch_size, run.spec.dtype, run.spec.optimiser) for _, run, _ in found} == {
        (256, "float32", "rmsprop")
    }


def test_the_other_gaussian_studies_differ_where_they_say_so():
    for label, run, _ in cells("paper-gaussian"):
        assert run.spec.task_fields["objective"] == ("released-flow" if label == "pnf" else "exact")
        assert (run.protocol, run.spec.method_fields.get("tied", True), run.spec.batch_size) == (
            "paper",
            True,
            None,
        )
    for _, run, _ in cells("corrected-gaussian"):
        assert (run.protocol, run.spec.task_fields["objective"]) == ("standard", "exact")
        assert run.spec.method_fields.get("tied", False) is False


def test_smoke_has_every_method():
    labels = {label for label, _, _ in cells("smoke")}
    assert labels == {*registry.listings("method"), "hvae-untempered"}


# What a file means


def test_later_settings_win(bench, study):
    name = study(
        """summary: Precedence.
grids:
  - methods: ["hvae[n_leapfrog=2]"]
    tasks: [gaussian-2]
    seeds: 0
    protocol: smoke
    set: {lr: 0.01, method.n_leapfrog: 3, method.max_step: 0.4, task.dim: 3, particles: 5}
"""
    )
    (run,) = studies.load(name).runs({"particles": "7"})
    assert run.spec.steps == 200  # the protocol over the class
    assert run.spec.lr == 0.01  # the study over the protocol
    assert run.spec.method_fields["max_step"] == 0.4  # the study over the class
    assert run.spec.method_fields["n_leapfrog"] == 2  # a selector over the study
    assert run.spec.task_fields["dim"] == 2  # a variant is a selector
    assert run.spec.particles == 7  # the command line over everything
    (again,) = studies.load(name).runs({"method.n_leapfrog": "9"})
    assert again.spec.method_fields["n_leapfrog"] == 9


def test_a_study_wins_over_what_a_task_recommends(monkeypatch, workspace, study):
    task = registry.find("task", "gaussian").cls
    monkeypatch.setattr(task, "recommended", {"vb": {"particles": 3, "clip_norm": 2.0}})
    (run,) = studies.load(study(GOOD.replace("0-1", "0") + "    set: {clip_norm: 1.0}\n")).runs()
    assert (run.spec.particles, run.spec.clip_norm) == (3, 1.0)


@pytest.mark.parametrize(
    ("setting", "field", "value"),
    [
        ("clip_norm: 1e-4", "clip_norm", 1e-4),  # a text in YAML 1.1
        ("clip_norm: 1.0e-4", "clip_norm", 1e-4),
        ("clip_norm: none", "clip_norm", None),
        ("clip_norm: null", "clip_norm", None),
        ("clip_norm: ~", "clip_norm", None),
        ("shuffle: yes", "shuffle", True),
        ("shuffle: False", "shuffle", False),
        ("particles: 010", "particles", 10),  # 8 in YAML 1.1
        ("particles: '12'", "particles", 12),
        ("steps: 1_000", "steps", 1000),
    ],
)
def test_values_are_read_as_the_command_line_reads_them(workspace, study, setting, field, value):
    first, _ = studies.load(study(f"{GOOD}    set: {{{setting}}}\n")).runs()
    assert getattr(first.spec, field) == value


@pytest.mark.parametrize(
    ("written", "seeds"),
    [
        ("3", [3]),
        ("0-2,7", [0, 1, 2, 7]),
        ("[4, 0-1, '9']", [4, 0, 1, 9]),
        ("\n      - 1\n      - 2", [1, 2]),
    ],
)
def test_seeds_are_text_a_number_or_a_list(workspace, study, written, seeds):
    assert [
        run.spec.seed for run in studies.load(study(GOOD.replace("0-1", written))).runs()
    ] == seeds


def test_what_two_grids_share_is_one_run(workspace, study):
    second = (
        GOOD.partition("grids:\n")[2]
        .replace("[vb]", '[hvae, vb, "hvae[n_leapfrog=10]"]')
        .replace("0-1", "1-2")
    )
    runs = studies.load(study(GOOD + second)).runs()
    assert sorted((run.spec.method, run.spec.seed) for run in runs) == [
        ("hvae", 1),
        ("hvae", 2),
        ("vb", 0),
        ("vb", 1),
        ("vb", 2),
    ]
    assert len({run.spec.key for run in runs}) == 5


# How a file is refused

CASES = {
    "an unfinished list": (GOOD.replace("[vb]", "[vb"), 4, "", "this is not YAML: expected ',' or ']'"),
    "brackets without quotes": (GOOD.replace("[vb]", "[hvae[n_leapfrog=1,10]]"), 3, "", 'needs quotes: "hvae[n_leapfrog=1,10]"'),
    "a tab": (GOOD.replace("    tasks", "\ttasks"), 4, "", "this is not YAML"),
    "two documents": (f"{GOOD}---\n{GOOD}", 7, "", "another document"),
    "a number beyond Unicode": (GOOD.replace("A study.", r'"\Uffffffff"'), 1, "", "this is not YAML"),
    "a list": ("- a\n", 1, "", "a study is a mapping with summary, and grids or tune"),
    "an unknown field of a grid": (GOOD.replace("protocol", "protocl"), 6, "grids[0].protocl", "Did you mean 'protocol'?"),
    "an unknown field of a study": (f"{GOOD}sumary: x\n", 7, "sumary", "Did you mean 'summary'?"),
    "a merge": (f"{GOOD}    <<: {{lr: 1}}\n", 7, "grids[0].<<", "No field of a grid named '<<'"),
    "text for a list": (GOOD.replace("[vb]", "vb"), 3, "grids[0].methods", "write a list: [a, b]"),
    "text for a grid": ("summary: x\ngrids: [vb]\n", 2, "grids[0]", "write fields with values"),
    "a list for text": (GOOD.replace("smoke", "[smoke]"), 6, "grids[0].protocol", "write a text"),
    "a mapping of seeds": (GOOD.replace("0-1", "{a: 1}"), 5, "grids[0].seeds", "write seeds as 0-9,12"),
    "several values of a setting": (f"{GOOD}    set: {{lr: [1, 2]}}\n", 7, "grids[0].set.lr", "To cross several write a selector"),
    "no grids": ("summary: x\ngrids: []\n", 2, "grids", "it is empty"),
    "grids without a value": ("summary: x\ngrids:\n", 2, "grids", "it has no value"),
    "no methods": (GOOD.replace("[vb]", "[]"), 3, "grids[0].methods", "it is empty"),
    "no tasks": (GOOD.replace("[gaussian-2]", "[]"), 4, "grids[0].tasks", "it is empty"),
    "no seeds": (GOOD.replace("0-1", "[]"), 5, "grids[0].seeds", "write seeds as 0-9,12"),
    "seeds left out": (GOOD.replace("    seeds: 0-1\n", ""), 3, "grids[0].seeds", "it is missing"),
    "no summary": (GOOD.replace("summary: A study.", "# nothing"), 2, "summary", "it is missing"),
    "an unknown method": (GOOD.replace("[vb]", "[vb, hvea]"), 3, "grids[0].methods", "No method named 'hvea'. Did you mean 'hvae'?"),
    "an unknown method in a column": (GOOD.replace("[vb]", "\n      - vb\n      - hvea"), 5, "grids[0].methods", "No method named 'hvea'"),
    "an unknown task": (GOOD.replace("gaussian-2", "gausian-2"), 4, "grids[0].tasks", "Did you mean 'gaussian'?"),
    "a bad variant": (GOOD.replace("gaussian-2", "gaussian-0"), 4, "grids[0].tasks", "task.dim=0 is not allowed"),
    "an unknown protocol": (GOOD.replace("smoke", "smok"), 6, "grids[0].protocol", "Did you mean 'smoke'?"),
    "an unknown setting": (f"{GOOD}    set:\n      lr: 1\n      lrr: 1\n", 9, "grids[0].set.lrr", "No field of vb on gaussian named 'lrr'"),
    "a bad setting": (f"{GOOD}    set:\n      lr: -1\n", 8, "grids[0].set.lr", "lr=-1 is not allowed"),
    "a bad value in a selector": (GOOD.replace("[vb]", '["hvae[n_leapfrog=0]"]'), 3, "grids[0].methods", "n_leapfrog=0 is not allowed"),
    "an unfinished selector": (GOOD.replace("[vb]", '["hvae[n_leapfrog"]'), 3, "grids[0].methods", "Cannot read 'hvae[n_leapfrog'"),
    "settings that do not go together": (
        GOOD.replace("[vb]", '["hvae[init_step=0.4]"]') + "    set: {method.max_step: 0.3}\n", 3, "grids[0]", "must be below max_step",
    ),
    "seeds that run backwards": (GOOD.replace("0-1", "3-1"), 5, "grids[0].seeds", "run backwards"),
    "too many runs": (GOOD.replace("0-1", "0-99999").replace("[vb]", f"[{', '.join(['vb'] * 11)}]"), 3, "grids[0]", "1,100,000 runs"),
    "a file name that no file can have": (GOOD.replace("vb", f"{'x' * 400}.py"), 3, "grids[0].methods", "File name too long"),
    "a key that stands twice": (f"{GOOD}    seeds: 3\n", 7, "grids[0].seeds", "it stands there already, in line 5"),
    "an alias": ("summary: &a x\ngrids: *a\n", 1, "", "aliases are not supported"),
    "a bomb": ("a: &a [x, x]\nb: &b [*a, *a]\nc: &c [*b, *b]\n", 1, "", "aliases are not supported"),
    "deep nesting": (f"summary: x\ngrids: {'[' * 10_000}", 2, "", "nested more than 10 deep"),
    "a control character": (GOOD.replace("A study", "A \x07study"), 1, "", "the character U+0007 is not allowed"),
    "an escaped control character": (GOOD.replace("A study.", r'"A \e[31m study"'), 1, "summary", "the character U+001B is not allowed"),
    "half a character": (GOOD.replace("A study.", r'"A \ud800 study"'), 1, "summary", "the character U+D800 is not allowed"),
    "a tag": (GOOD.replace("vb", "!!python/object:os.system vb"), 3, "grids[0].methods[0]", "the tag !!python/object:os.system is not"),
    "a name that is a list": (f"{GOOD}    ? [a]\n    : b\n", 7, "grids[0]", "the name of a field must be a text"),
    "a text without end": (GOOD.replace("vb", "v" * 2000), 3, "grids[0].methods[0]", "2,000 characters is too long"),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_a_bad_file_is_one_line_with_file_line_and_field(bench, workspace, study, case):
    text, line, field, says = CASES[case]
    result = bench("study", "run", study(text))
    assert (result.exit_code, result.stdout) == (2, "")
    (said,) = result.stderr.splitlines()
    assert said.startswith(f"bench: mine.yaml, line {line}{f', {field}' if field else ''}: ")
    assert says in said
    assert [path.name for path in workspace.iterdir()] == ["mine.yaml"]


def test_files_that_cannot_be_read_are_one_line(bench, workspace, study):
    (workspace / "latin.yaml").write_bytes(
        b"# fine\n" + GOOD.encode().replace(b"A study", b"A st\xfcdy")
    )
    (workspace / "folder.yaml").mkdir()
    study(f"{GOOD}#{'x' * 1_000_000}\n", "large.yaml")
    study("# nothing\n", "empty.yaml")
    refused = {
        "latin.yaml": "latin.yaml, line 2: byte 0xfc is not UTF-8",
        "folder.yaml": "Cannot read folder.yaml: Is a directory.",
        "large.yaml": "large.yaml is larger than 1,000,000 bytes.",
        "empty.yaml": "empty.yaml: the file is empty.",
        "emty.yaml": "No study file named 'emty.yaml'. Did you mean 'empty.yaml'?",
        "nowhere/empty.yaml": "No study file named 'nowhere/empty.yaml'.",
        "smok": "No study named 'smok'. Did you mean 'smoke'? Available: annealing,",
        "empty": "For the file write its whole name: empty.yaml.",
    }
    for name, says in refused.items():
        result = bench("study", "show", name)
        assert (result.exit_code, result.stdout, len(result.stderr.splitlines())) == (2, "", 1)
        assert says in result.stderr


def test_an_error_of_the_command_line_is_not_blamed_on_the_file(bench, study):
    name = study(f"{GOOD}    set: {{lr: 0.1}}\n")
    result = bench("study", "run", name, "--set", "lrr=1")
    assert (
        result.exit_code,
        result.stderr.startswith("bench: No field of vb on gaussian named 'lrr'"),
    ) == (2, True)
    assert bench("study", "run", name, "--set", "lr").exit_code == 2


def test_a_plugin_that_cannot_be_loaded_is_named_with_its_place(bench, workspace, study):
    (workspace / "broken.py").write_text("import nothing_of_this_name\n")
    result = bench("study", "run", study(GOOD.replace("vb", "./broken.py:Mine")))
    assert result.exit_code == 1
    assert result.stderr.startswith("bench: mine.yaml, line 3, grids[0].methods: Cannot load")


def test_a_broken_study_does_not_hide_the_others(monkeypatch, workspace, study):
    study("grids: 3\n")
    monkeypatch.setattr(
        studies,
        "_shipped",
        lambda: {"mine": workspace / "mine.yaml", "good": Path(study(GOOD, "good.yaml"))},
    )
    assert studies.listings()["good"] == "A study."
    assert studies.listings()["mine"].startswith("cannot be used: ")


MARKS = st.text(alphabet="ab01:-[]{}&*!|>'\"#\n ,?%@\\\t~=<.x", max_size=60)
WORDS = (
    st.sampled_from(
        [
            "vb",
            "hvae[n_leapfrog=1,2]",
            "gaussian-2",
            "smoke",
            "0-1",
            "1e-3",
            "none",
            "summary",
            "lr",
            "method.tied",
        ]
    )
    | MARKS
)
FIELDS = (
    st.sampled_from(["summary", "grids", "methods", "tasks", "seeds", "protocol", "set", "tune"])
    | WORDS
)
PLAIN = st.none() | st.booleans() | st.integers() | st.floats() | WORDS | st.text(max_size=20)
VALUES = st.recursive(
    PLAIN,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(FIELDS, inner, max_size=5),
    max_leaves=12,
)
GRIDS = st.fixed_dictionaries(
    {"methods": VALUES, "tasks": VALUES, "seeds": VALUES},
    optional={"protocol": VALUES, "set": VALUES},
)
STUDIES = st.fixed_dictionaries({"summary": WORDS, "grids": st.lists(GRIDS | VALUES, max_size=2)})


def edited(place: int, length: int, new: str) -> str:
    """The good study with something else in its middle."""
    return GOOD[:place] + new + GOOD[place + length :]


EDITS = st.builds(edited, st.integers(0, len(GOOD)), st.integers(0, 12), WORDS)
DUMPED = (VALUES | STUDIES).map(lambda value: yaml.safe_dump(value, allow_unicode=True))
TEXTS = (st.text() | MARKS | EDITS | DUMPED).map(lambda text: text.encode("utf-8", "surrogatepass"))


@settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(content=TEXTS | st.binary())
def test_any_bytes_are_a_study_or_one_usage_error(tmp_path, content):
    path = tmp_path / "any.yaml"
    path.write_bytes(content)
    try:
        study = studies.load(str(path))
    except UsageError as err:
        assert len(str(err).splitlines()) == 1  # noqa: PT017  either is right
        return
    try:
        study.runs()
    except BenchError as err:
        assert str(err).startswith(f"{path}, line ")  # noqa: PT017
        assert len(str(err).splitlines()) == 1  # noqa: PT017


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    value=st.recursive(
        st.text("ab -:#'\"é", max_size=8),
        lambda v: (
            st.lists(v, max_size=3) | st.dictionaries(st.text("ab:", max_size=3), v, max_size=3)
        ),
    )
)
def test_texts_come_back_as_they_were_written(tmp_path, value):
    path = tmp_path / "any.yaml"
    path.write_text(json.dumps(value), encoding="utf-8")
    if isinstance(value, str | list | dict):
        assert yaml_source.read(path, "any").values == value


# Making a study


def test_a_study_is_made_and_then_there_are_hits(bench, study):
    name = study(GOOD)
    first = bench("study", "run", name, "--set", "steps=20", "--json")
    assert first.exit_code == 0
    assert [(run["status"], run["outcome"], run["step"]) for run in json_lines(first)] == [
        ("done", "ran", 20)
    ] * 2
    assert first.stderr.startswith("2 runs: 2 to run, time unknown until some have ended\n")
    again = bench("study", "run", name, "--set", "steps=20")
    assert again.stderr.startswith("2 runs: 2 done, nothing to run\n")
    assert "done (cached)" in again.stdout
    assert "0/2" in bench("study", "status", name).stdout
    longer = bench("study", "run", name, "--dry-run", "--workers", "2").stdout
    assert "2 runs: 2 to run, about" in longer
    assert "with 2 workers" in longer
    assert "of one worker's time" in bench("study", "run", name, "--queue", "--dry-run").stdout


def test_a_study_shows_its_grids_and_counts(bench, study):
    (shown,) = json_lines(bench("study", "show", study(GOOD + "    set: {lr: 1e-3}\n"), "--json"))
    assert (shown["name"], shown["runs"], shown["cells"], shown["protocols"]) == (
        "mine",
        2,
        1,
        ["smoke"],
    )
    assert shown["grids"] == [
        {
            "methods": ["vb"],
            "tasks": ["gaussian-2"],
            "seeds": "0-1",
            "protocol": "smoke",
            "set": {"lr": "1e-3"},
        }
    ]
    text = bench("study", "show", "mine.yaml").stdout
    assert all(
        part in text
        for part in (
            "mine: A study.",
            "vb\n   on gaussian-2\n   seeds=0-1 protocol=smoke lr=1e-3",
            "2 runs of 1 cell",
        )
    )
    assert "bench study run mine.yaml --dry-run" in text
    assert {line["name"] for line in json_lines(bench("list", "studies", "--json"))} == set(
        studies.listings()
    )


def test_a_list_of_studies_loads_nothing_heavy(tmp_path):
    assert not {"torch", "mlflow", "pandas", "sqlalchemy", "numpy", "scipy", "optuna"} & loaded_by(
        ["list", "studies"], tmp_path
    )


def test_a_filled_workspace_of_other_runs_tells_nothing_of_a_study(bench, workspace):
    filled_store.fill(Workspace.current(), range(3))
    (shown,) = json_lines(bench("study", "status", "smoke", "--json"))
    known = 2 * 4 * 3  # hvae and its variant on four tasks: the store has runs of the method
    assert (shown["counts"], shown["runs_without_estimate"]) == ({"missing": 138}, 138 - known)


def test_a_part_of_a_study_is_picked_by_method_and_task(bench):
    def picked(*options):
        parts = json_lines(bench("study", "status", "report-gaussian", "--json", *options))[0][
            "parts"
        ]
        return {
            (part["task"].partition("[")[0], part["method"], sum(part["counts"].values()))
            for part in parts
        }

    assert picked("-t", "gaussian-50", "-m", "vb") == {("gaussian-50", "vb", 3)}
    assert sum(total for *_, total in picked("-m", "pnf[n_layers=30]", "-t", "gaussian-400")) == 6
    assert {method for _, method, _ in picked("-m", "hvae*")} == {"hvae", "hvae-untempered"}
    dry = json_lines(
        bench("study", "run", "report-gaussian", "-t", "gaussian-25", "--dry-run", "--json")
    )[0]
    assert dry["runs"] == 33
    for options in (("-m", "nope"), ("-t", "gaussian-25", "-m", "hvae[n_leapfrog=7]")):
        refused = bench("study", "run", "report-gaussian", *options)
        assert (refused.exit_code, refused.stderr.count("\n")) == (2, 1)
        assert "bench study show report-gaussian" in refused.stderr
    assert "tuning study" in bench("study", "run", "tune-hvae-digits", "-m", "hvae").stderr
