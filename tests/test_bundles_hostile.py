"""Bundles that are none are refused in one line, and nothing is written."""

from __future__ import annotations

import contextlib
import hashlib
import json
import stat
import sys
import zipfile

import filled_store
import pytest
from bundles import bundle, cli, export, files, fill, here, source, tensors, there  # noqa: F401

import harness.execution.bundle
from harness.base.errors import UsageError
from harness.base.spec import canonical_json
from harness.execution.bundle.lines import decode_line, encode_line
from harness.execution.bundle.moving import _entry
from harness.store import Metric


def parts(path):
    """A bundle's entries, by name."""
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def pack(target, entries, **archive_options):
    """An archive of names, or entries, and their bytes."""
    with zipfile.ZipFile(target, "w", **archive_options) as archive:
        for name, value in entries:
            archive.writestr(
                _entry(name) if isinstance(name, str) and not archive_options else name, value
            )


def edited(path, **changes):
    """Change fields of the first run of a bundle, and write it as one writes bundles."""
    entries = parts(path)
    first, *others = entries["runs.jsonl"].splitlines()
    values = json.loads(first)
    for name, value in changes.items():
        values[name] = value(values[name]) if callable(value) else value
    lines = [canonical_json(values).encode(), *others]
    repack(path, {**entries, "runs.jsonl": b"".join(line + b"\n" for line in lines)})


def repack(path, entries):
    """Write these entries in place of a bundle."""
    pack(path, entries.items())


def raw(path, change):
    """Change the first line of the runs as bytes."""
    entries = parts(path)
    first, rest = entries["runs.jsonl"].split(b"\n", 1)
    repack(path, {**entries, "runs.jsonl": change(first) + b"\n" + rest})


def refused(workspace, path, says=""):
    """Make sure that a bundle is refused in one line and leaves nothing."""
    before = sorted(workspace.home.rglob("*"))
    result = cli(workspace, "import", path)
    assert (result.exit_code, result.stdout) == (2, ""), result.output
    assert len(result.stderr.splitlines()) == 1
    assert len(result.stderr) < 600
    assert says in result.stderr, result.stderr
    assert sorted(workspace.home.rglob("*")) == before
    return result.stderr


def linked(name):
    """An entry that is a symbolic link."""
    entry = _entry(name)
    entry.external_attr = (stat.S_IFLNK | 0o777) << 16
    return entry


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("../evil", "not the name of anything in a bundle"),
        ("/etc/passwd", "not the name of anything in a bundle"),
        ("files/../../evil", "not the name of anything in a bundle"),
        ("files/" + "A" * 64, "not the name of anything in a bundle"),
        ("files/" + "a" * 63, "not the name of anything in a bundle"),
        ("checkpoints/x", "not the name of anything in a bundle"),
        ("files/" + "f" * 64 + "/", "not the name of anything in a bundle"),
        (linked("files/" + "f" * 64), "is a link"),
        ("files/" + "f" * 64, "belong to none of its runs"),
    ],
)
def test_names_that_no_bundle_has_are_refused(name, says, there, bundle):
    pack(bundle, [*parts(bundle).items(), (name, b"evil")])
    refused(there, bundle, says)


def test_entries_twice_missing_or_in_another_order_are_refused(there, bundle):
    whole = parts(bundle)
    entries = list(whole.items())
    with pytest.warns(UserWarning, match="Duplicate"):
        pack(bundle, [*entries, entries[-1]])
    refused(there, bundle, "twice, or out of order")
    for wrong in (entries[1:], entries[::-1], [entries[1], entries[0], *entries[2:]], []):
        pack(bundle, wrong)
        refused(there, bundle, "does not begin with")
    pack(bundle, entries[:-1])
    refused(there, bundle, "is missing")
    pack(bundle, [*entries[:2], *entries[:1:-1]])
    refused(there, bundle, "out of order")


def test_compressed_entries_are_refused(there, bundle):
    entries = {**parts(bundle), "runs.jsonl": b"\0" * 10_000_000}
    pack(bundle, entries.items(), compression=zipfile.ZIP_DEFLATED)
    assert bundle.stat().st_size < 100_000
    refused(there, bundle, "is compressed")


def test_entries_that_say_they_are_longer_are_refused(there, bundle):
    whole = bundle.read_bytes()
    directory = whole.rindex(
        b"PK\x01\x02"
    )  # the last entry's: both sizes lie 20 bytes behind its start
    size = (2**31).to_bytes(4, "little")
    bundle.write_bytes(whole[: directory + 20] + size + size + whole[directory + 28 :])
    refused(there, bundle, "longer than the file")


def test_entries_that_lie_in_one_another_are_refused(there, bundle):
    whole = bytearray(bundle.read_bytes())
    starts = [place for place in range(len(whole)) if whole.startswith(b"PK\x01\x02", place)]
    whole[starts[-1] + 42 : starts[-1] + 46] = whole[
        starts[-2] + 42 : starts[-2] + 46
    ]  # where the entry begins
    bundle.write_bytes(whole)
    refused(there, bundle, "lie in one another")


def test_bytes_before_or_behind_the_archive_are_refused(there, bundle):
    whole = bundle.read_bytes()
    for other in (b"#!/bin/sh\n" + whole, whole + b"more"):
        bundle.write_bytes(other)
        refused(there, bundle)


def test_no_file_a_folder_and_no_archive_are_refused(there, bundle, tmp_path):
    refused(there, tmp_path / "nothing.bench", "Cannot read")
    refused(there, tmp_path, "Cannot read")
    for content in (b"", b"PK", b"\x1f\x8b" + bytes(100), bytes(1000)):
        bundle.write_bytes(content)
        refused(there, bundle, "not a zip file")


@pytest.mark.parametrize(
    ("head", "says"),
    [
        (
            b'{"bench":"9.0","count":3,"format":2}',
            "it has format 2, and this release reads 1; install",
        ),
        (b'{"bench":"9.0","count":2,"format":1}', "it has 3 runs and says 2"),
        (b'{"count":3}', ""),
        (b"[]", ""),
        (b"[" * 9000, ""),
        (b"\xff", ""),
        (b"[" * 20_000, "too long"),
        (b'{"format":1,"count":"x"}', ""),
        (b'{"format":1,"count":1e999}', ""),
    ],
)
def test_other_formats_are_refused(head, says, there, bundle):
    repack(bundle, {**parts(bundle), "bundle.json": head})
    refused(there, bundle, says)


def shifted(number):
    """A function that adds to the lr of a spec."""
    return lambda spec: {**spec, "lr": spec["lr"] + number}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"key": "0" * 16}, "its key is not the digest of its spec"),
        ({"key": "../../../../../evil"}, "a run does not validate: key"),
        ({"spec": shifted(1)}, "its key is not the digest of its spec"),
        ({"spec": shifted(-1)}, "a run does not validate: lr"),
        ({"spec": lambda spec: {**spec, "path": "../x"}}, "a run does not validate: path"),
        ({"spec": {}}, "a run does not validate"),
        ({"spec": None}, "a run does not validate: spec"),
        ({"status": "running"}, "not that of a finished run"),
        ({"status": "queued"}, "not that of a finished run"),
        ({"status": "won"}, "a run does not validate: status"),
        ({"step": 20_001}, "more steps than its spec"),
        ({"step": -1}, "a run does not validate: step"),
        ({"step": True}, "a run does not validate: step"),
        ({"step": 2**63}, "a run does not validate: step"),
        (
            {"step": 10**5000 if sys.get_int_max_str_digits() == 0 else 10**4000},
            "a run does not validate: step",
        ),
        ({"wall_s": "12"}, "a run does not validate: wall_s"),
        ({"wall_s": 12}, "not written as bench writes it"),
        ({"finished_at": 1e300}, "a run does not validate: finished_at"),
        ({"created_at": -1.0}, "a run does not validate: created_at"),
        ({"task_label": "a\nb"}, "a run does not validate: task_label"),
        ({"reason": "\0"}, "a run does not validate: reason"),
        (
            {"metrics": {"elbo": {"value": "Infinity", "se": None}}},
            "a run does not validate: metrics",
        ),
        ({"metrics": {"elbo": {"value": None, "se": None}}}, "a run does not validate: metrics"),
        ({"metrics": {"a\x1b[2J": {"value": 1.0, "se": None}}}, "a run does not validate: metrics"),
        ({"curves": {"bound": {"steps": [1, 2], "values": [1.0]}}}, "more steps than values"),
        (
            {"curves": {"bound": {"steps": [1.5], "values": [1.0]}}},
            "a run does not validate: curves",
        ),
        ({"plan": lambda plan: {**plan, "members": []}}, "its plan is another run's"),
        ({"plan": lambda plan: {**plan, "threads": 0}}, "a run does not validate: plan"),
        (
            {"history": lambda lines: [{**lines[0], "fence": 2**31}]},
            "a run does not validate: history",
        ),
        (
            {"checkpoint": lambda file: {**file, "path": "../../evil"}},
            "a run does not validate: checkpoint",
        ),
        ({"checkpoint": lambda file: {**file, "step": 5}}, "of another step or spec"),
        ({"checkpoint": lambda file: {**file, "step": 20_001}}, "more steps than its spec"),
        ({"checkpoint": lambda file: {**file, "size": 1}}, "another size"),
        ({"checkpoint": lambda file: {**file, "sha256": "f" * 64}}, "is missing"),
        (
            {"checkpoint": lambda file: {**file, "sha256": "../" + "f" * 61}},
            "a run does not validate: checkpoint",
        ),
        ({"checkpoint": None}, "belong to none of its runs"),
        (
            {"pictures": lambda files: [{**files[0], "name": "../evil.png"}]},
            "a run does not validate: pictures",
        ),
        (
            {"pictures": lambda files: [{**files[0], "name": ".."}]},
            "a run does not validate: pictures",
        ),
        ({"pictures": lambda files: files * 2}, "two pictures have one name"),
        (
            {"pictures": lambda files: [files[0], {**files[0], "name": files[0]["name"].upper()}]},
            "two pictures have one name",
        ),
        (
            {"checkpoint": lambda file: {**file, "role": "../../evil"}},
            "a run does not validate: checkpoint",
        ),
        ({"environment": []}, "a run does not validate: environment"),
        ({"more": 1}, "a run does not validate: more"),
    ],
)
def test_a_run_that_is_not_what_it_says_is_refused(changes, says, there, bundle):
    values = json.loads(parts(bundle)["runs.jsonl"].splitlines()[0])
    edited(
        bundle,
        **{
            name: change(values[name]) if callable(change) else change
            for name, change in changes.items()
            if name in values
        },
    )
    if "more" in changes:
        raw(bundle, lambda line: line[:-1] + b',"zzz":1}')
        says = "a run does not validate: zzz"
    refused(there, bundle, says)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda line: line + b" ", "not written as bench writes it"),
        (
            lambda line: line.replace(b'{"checkpoint"', b'{"key":"0","checkpoint"'),
            "not written as bench writes it",
        ),
        (lambda line: line.replace(b'"environment":{', b'"environment":{"a":1e999,'), ""),
        (lambda line: line.replace(b'"environment":{', b'"environment":{"a":NaN,'), ""),
        (lambda line: line.replace(b'"environment":{', b'"environment":{"a":"\\ud800",'), ""),
        (
            lambda line: line.replace(
                b'"environment":{', b'"environment":{"a":%s,' % (b"9" * 5000)
            ),
            "",
        ),
        (
            lambda line: line.replace(b'"environment":{', b'"environment":{"a":%d,' % 2**63),
            "a whole number is too large",
        ),
        (
            lambda line: line.replace(
                b'"environment":{', b'"environment":{"a":%s,' % (b"[" * 100_000 + b"]" * 100_000)
            ),
            "",
        ),
        (
            lambda line: line.replace(
                b'"environment":{', b'"environment":{"a":%s,' % (b'{"a":' * 250 + b"1" + b"}" * 250)
            ),
            "",
        ),
        (
            lambda line: line.replace(b'"step":20000', b'"step":2e4'),
            "a run does not validate: step",
        ),
        (lambda line: line.replace(b'"done"', b'"\xff"'), "a run does not validate"),
        (lambda line: line[:-5], "a run does not validate"),
        (lambda line: b"", "a run does not validate"),
        (lambda line: b"null", "a run does not validate"),
        (lambda line: line + b"\n" + line, "twice, or out of order"),
    ],
)
def test_text_that_is_not_a_run_is_refused(change, says, there, bundle):
    raw(bundle, change)
    refused(there, bundle, says)


def test_a_line_that_is_too_long_is_refused_before_it_is_read(there, bundle, monkeypatch):
    monkeypatch.setattr("harness.execution.bundle.reading.LONGEST_LINE", 1000)
    monkeypatch.setattr("harness.execution.bundle.lines.LONGEST_LINE", 1000)
    refused(there, bundle, "a run takes more than")


def replaced(path, content):
    """Put other bytes in the place of the first run's checkpoint, with the sha256 and the size that
    belong to them.
    """
    saved = json.loads(parts(path)["runs.jsonl"].splitlines()[0])["checkpoint"]
    name = hashlib.sha256(content).hexdigest()
    edited(path, checkpoint={**saved, "sha256": name, "size": len(content)})
    entries = {
        entry: value for entry, value in parts(path).items() if entry != f"files/{saved['sha256']}"
    }
    entries[f"files/{name}"] = content
    repack(
        path,
        {
            entry: entries[entry]
            for entry in [
                "bundle.json",
                "runs.jsonl",
                *sorted(set(entries) - {"bundle.json", "runs.jsonl"}),
            ]
        },
    )


def header(text):
    """The bytes of a safetensors file with this header."""
    return len(text).to_bytes(8, "little") + text


def first_spec(path):
    """The spec of a bundle's first run."""
    return decode_line(parts(path)["runs.jsonl"].splitlines(keepends=True)[0]).run.spec


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"junk",
        bytes(1000),
        b"\xff" * 100,
        (2**63).to_bytes(8, "little") + b"{}",
        header(b"{}"),
        header(b"[" * 50_000),
        header(b'{"__metadata__":{"bench":"[]"}}'),
        header(b'{"__metadata__":{"bench":"{}"}}'),
        header(b'{"__metadata__":{"bench":"\\"text\\""}}'),
        header(b'{"__metadata__":{"bench":"' + b"[" * 50_000 + b'"}}'),
        header(b'{"__metadata__":[]}'),
        header(
            b'{"a":{"dtype":"F32","shape":[4611686018427387904,0],"data_offsets":[0,0]},"__metadata__":{"bench":"{}"}}'
        ),
        header(
            b'{"a":{"dtype":"Q9","shape":[0],"data_offsets":[0,0]},"__metadata__":{"bench":"{}"}}'
        ),
    ],
    ids=range(14),
)
def test_a_checkpoint_that_is_none_is_refused(content, there, bundle):
    replaced(bundle, content)
    refused(there, bundle, "checkpoint")


def test_a_checkpoint_of_another_run_is_refused(there, bundle):
    spec = first_spec(bundle)
    whole = bundle.read_bytes()
    for content, says in (
        (tensors(filled_store.spec(spec.seed + 100)), "belongs to run"),
        (tensors(spec, step=5), "of another step or spec"),
        (tensors(spec, spec=filled_store.spec(99).plain()), "of another step or spec"),
        (tensors(spec, step=None), "of another step or spec"),
    ):
        bundle.write_bytes(whole)
        replaced(bundle, content)
        refused(there, bundle, says)


def test_a_file_with_other_bytes_than_its_name_says_is_refused(there, bundle):
    entries = parts(bundle)
    last = list(entries)[-1]
    repack(bundle, {**entries, last: b"x" + entries[last][1:]})
    refused(there, bundle, f"the sha256 of {last} is not its name")


def test_a_name_cannot_write_to_the_terminal(there, bundle):
    pack(bundle, [*parts(bundle).items(), ("\x1b[2J\nbench: all is well", b"evil")])
    assert "\x1b" not in refused(there, bundle)


def test_truncated_anywhere_a_bundle_is_refused(bundle):
    whole = bundle.read_bytes()
    for length in [*range(0, len(whole), 499), *range(len(whole) - 60, len(whole))]:
        bundle.write_bytes(whole[:length])
        with pytest.raises(UsageError):
            checked(bundle)


def test_whatever_byte_is_damaged_the_runs_are_the_same_or_refused(bundle):
    whole = bundle.read_bytes()
    runs = checked(bundle)
    let_in = 0
    for place in [*range(0, len(whole), 211), *range(whole.index(b"PK\x01\x02"), len(whole), 3)]:
        damaged = bytearray(whole)
        damaged[place] ^= 0x55
        bundle.write_bytes(damaged)
        with contextlib.suppress(UsageError):
            assert checked(bundle) == runs
            let_in += 1
    assert let_in < 100  # dates and versions of entries mean nothing


def checked(path):
    """The runs of a bundle, as text, once all of it is checked."""
    with harness.execution.bundle.opened(path) as bundle:
        list(bundle.check())
        return [encode_line(result) for result in bundle.results()]


def test_a_run_that_a_bundle_cannot_hold_is_not_written(here, tmp_path):
    (key,) = fill(here, [0], reason="\0")
    result = cli(here, "export", "--bundle", tmp_path / "x.bench")
    assert (result.exit_code, result.stdout) == (2, "")
    assert f"Run {key} is left out: a run does not validate: reason" in result.stderr
    assert "There is no finished run to export: a run does not validate: reason" in result.stderr
    assert not (tmp_path / "x.bench").exists()


def test_a_run_that_a_bundle_cannot_hold_does_not_keep_the_others_back(here, tmp_path):
    (good,), (odd,) = fill(here, [0]), fill(here, [1], metrics={"x" * 251: Metric(1.0)})
    result = cli(here, "export", "--bundle", tmp_path / "x.bench", "--json")
    assert result.exit_code == 0
    assert {
        line["key"]: line["outcome"] for line in map(json.loads, result.stdout.splitlines())
    } == {good: "exported", odd: "left out"}
    assert f"Run {odd} is left out" in result.stderr
    assert len(checked(tmp_path / "x.bench")) == 1
