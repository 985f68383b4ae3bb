"""Every exception that bench raises on purpose.

::

    BenchError                 the program cannot go on (exit status 1)
    ├── UsageError             what was asked for cannot be done as asked (exit status 2)
    │   ├── UnknownName        a method, task, protocol, field or run that does not exist
    │   ├── InvalidSetting     a field with a value that is not allowed
    │   └── InvalidSelector    text that does not parse: "hvae[", "3-1", "lr"
    ├── DataError              a data file that is missing, damaged or another one (exit status 2)
    ├── PluginError            a method or task that breaks its contract
    ├── WorkspaceError         a folder that cannot be read or written
    ├── StoreError             the result database cannot be used
    │   ├── SchemaMismatch     its schema is older (SchemaBehind) or newer than this program
    │   └── LeaseLost          another process has taken the run over; nothing more may be written
    └── CheckpointError        a checkpoint file that is missing, damaged or of another run

A message says what is wrong, what was got, what is allowed and what to do.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence


def harmless(text: str) -> str:
    """The text for a terminal: what would not be printed, but obeyed, stands there as its escape.

    >>> harmless("a\\x1b[31mb")
    'a\\\\x1b[31mb'
    """
    return "".join(
        sign if sign.isprintable() or sign == "\n" else sign.encode("unicode_escape").decode()
        for sign in text
    )


def one_line(text: str, longest: int = 2000) -> str:
    """A message on one harmless line of bounded length: of a longer one the middle goes.

    >>> one_line("a\\n  b"), one_line("x" * 30 + "y" * 30, 21)
    ('a b', 'xxxxxxxx ... yyyyyyyy')
    """
    line = harmless(" ".join(text.split()))
    half = (longest - 5) // 2
    return line if len(line) <= longest else f"{line[:half]} ... {line[-half:]}"


def listed(names: Sequence[str], most: int = 50) -> str:
    """Names in a row; of more than `most` the first ones, and how many are left out.

    >>> listed(["a", "b"]), listed(["a", "b", "c"], 2), listed([])
    ('a, b', 'a, b and 1 more', 'none')
    """
    left = len(names) - most
    return (", ".join(names[:most]) or "none") + (f" and {left:,} more" if left > 0 else "")


def shortened(text: str, longest: int) -> str:
    """The text, or as much of it as fits with the number of characters that are left out.

    >>> shortened("abc", 3), shortened("x" * 100, 30)
    ('abc', 'xxxxxxxxxx ... (90 more)')
    """
    if len(text) <= longest:
        return text
    shown = longest - 20
    return f"{text[:shown]} ... ({len(text) - shown:,} more)"


class BenchError(Exception):
    """The program cannot go on."""

    exit_status = 1


class UsageError(BenchError):
    """What was asked for cannot be done as asked."""

    exit_status = 2


class UnknownName(UsageError):
    """A name that does not exist, with the nearest one that does."""

    def __init__(self, kind: str, name: str, available: Iterable[str], see: str = "") -> None:
        names = sorted(available)
        near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
        suggestion = f" Did you mean '{near[0]}'?" if near else ""
        hint = f" See: {see}." if see else ""
        super().__init__(f"No {kind} named '{name}'.{suggestion} Available: {listed(names)}.{hint}")


class InvalidSetting(UsageError):
    """A field with a value that is not allowed."""


class InvalidSelector(UsageError):
    """Text on the command line that does not parse."""


class DataError(BenchError):
    """A data file that is missing, damaged or another one."""

    exit_status = 2


class PluginError(BenchError):
    """A method or task that breaks its contract."""


class WorkspaceError(BenchError):
    """A folder that cannot be read or written."""


class StoreError(BenchError):
    """The result database cannot be used."""


class SchemaMismatch(StoreError):
    """The database's schema is older or newer than this program."""


class SchemaBehind(SchemaMismatch):
    """It is older: `bench db upgrade` brings it up."""


class LeaseLost(StoreError):
    """Another process has taken the run over; nothing more may be written."""


class CheckpointError(BenchError):
    """A checkpoint file that is missing, damaged or of another run."""
