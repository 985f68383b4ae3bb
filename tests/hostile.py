"""What bad input must come to: a documented exit status, harmless lines of bounded length, and
nothing written that was not asked for.
"""

from __future__ import annotations

import hashlib
import json
import os
import unicodedata
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from click.testing import CliRunner, Result
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from harness.cli import main

FULL = os.environ.get("BENCH_TESTS") == "full"
STATUSES = (0, 1, 2, 3)
LONGEST = 2000
"""Characters of a message."""

ESCAPES = ("\x1b[2J", "\x1b]0;title\x07", "\x9b31m", "\r\x08", "‮", "\x00", "\ud800", "​", "\u2028")
MARKUP = (
    "[bold]",
    "[/]",
    "[link=file:///etc/passwd]",
    "<script>alert(1)</script>",
    "{{7*7}}",
    "${x}",
    "%s%n",
    "';DROP TABLE runs;--",
    "../" * 9,
)
LARGE = (
    "9" * 5000,
    "1e999",
    "-1e999",
    "nan",
    "-0",
    "1" + "0" * 400,
    "0x10",
    "[" * 3000,
    '{"a":' * 2000,
    "x" * 20_000,
)
WORDS = (
    "vb",
    "hvae",
    "gaussian-2",
    "smoke",
    "0-1",
    "lr",
    "steps",
    "method.n_leapfrog",
    "task.dim",
    "none",
    "true",
    "=",
    "[",
    "]",
    ",",
    "-",
    ":",
    "~",
)

TEXTS = st.one_of(
    st.sampled_from((*ESCAPES, *MARKUP, *LARGE)),
    st.lists(st.sampled_from((*WORDS, *ESCAPES, *MARKUP)), max_size=6).map("".join),
    st.text(st.characters(codec=None), max_size=40),
)
"""What nobody means to type."""


def attack(examples: int, full: int) -> settings:
    """So many examples; many more with BENCH_TESTS=full."""
    return settings(
        max_examples=full if FULL else examples,
        deadline=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )


def is_harmless(text: str) -> bool:
    """Whether a text steers no terminal: no control, no direction, no half character."""
    return not any(
        unicodedata.category(letter) in ("Cc", "Cf", "Cs", "Zl", "Zp") and letter not in "\n\t"
        for letter in text
    )


def snapshot(folder: Path) -> dict[str, str]:
    """The sha256 of each file below a folder, and which folders there are."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        if path.is_file()
        else ""
        for path in folder.rglob("*")
        if not path.name.endswith(
            ("-shm", "-wal")
        )  # SQLite's own, which come and go with a connection
    }


def called(arguments: Sequence[str], home: Path, *, strict: bool = True) -> Result:
    """`bench` with these arguments over the workspace `home`: whatever they are, no traceback, and
    nothing that steers a terminal.

    With `strict` it must have been refused, in few lines of bounded length, or have done what was
    asked.
    """
    result = CliRunner().invoke(main, list(arguments), env={"BENCH_HOME": str(home)})
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code in STATUSES, (arguments, result.output)
    assert is_harmless(result.stderr), (arguments, result.stderr)
    assert is_harmless(result.stdout), (arguments, result.stdout)
    assert "Traceback" not in result.output, (arguments, result.output)
    if strict and result.exit_code in (1, 2):
        said = [
            line for line in result.stderr.splitlines() if not line.startswith(("Usage:", "Try "))
        ]
        assert len([line for line in said if line]) == 1, (arguments, result.stderr)
        assert max(map(len, said)) <= LONGEST + len("Error: "), (arguments, len(result.stderr))
        assert result.stdout == "", (arguments, result.stdout)
    return result


def parsed(result: Result) -> list[Any]:
    """The lines of `--json`, as JSON without NaN."""
    return [json.loads(line, parse_constant=refused) for line in result.stdout.splitlines()]


def refused(name: str) -> Any:
    """What is no JSON."""
    raise AssertionError(f"{name} is not JSON")


def tried(test: Callable[..., None], strategies: dict[str, Any], examples: int, full: int) -> int:
    """Try a test on many inputs; returns how many."""
    from hypothesis import given

    count = [0]

    def counted(**values: Any) -> None:
        count[0] += 1
        test(**values)

    attack(examples, full)(given(**strategies)(counted))()
    return count[0]
