"""The traceback of a run that failed, as it is stored, and the line of the plugin's code in it."""

from __future__ import annotations

import re
from pathlib import Path
from traceback import TracebackException

from harness.base.errors import harmless
from harness.base.workspace import redact

OURS = str(Path(__file__).parents[1])
FIRST, LAST = 8, 22  # lines that are kept of a longer one
LONGEST_LINE = 500
FRAME = re.compile(r'^ *File "(.+)", line (\d+)(?:, in (.+))?$', re.MULTILINE)


def traceback_of(error: BaseException) -> str:
    """The traceback of an exception from the first line outside the harness on, without passwords
    and what steers a terminal.
    """
    where = error.__traceback__
    while (
        where is not None
        and where.tb_next is not None
        and where.tb_frame.f_code.co_filename.startswith(OURS)
    ):
        where = where.tb_next
    lines = "".join(TracebackException(type(error), error, where).format()).splitlines()
    if len(lines) > FIRST + LAST:
        lines = [*lines[:FIRST], "  ...", *lines[-LAST:]]
    # Only a line with an address can hold one's password; in others "@" is a product of matrices.
    return harmless(
        "\n".join((redact(line) if "://" in line else line)[:LONGEST_LINE] for line in lines)
    )


def place_in(traceback: str | None) -> str | None:
    """The last line of a stored traceback that lies in the plugin's folder: `mine.py:12 in
    particles`.

    >>> place_in('Traceback:\\n  File "/home/ada/mine.py", line 12, in particles\\nValueError: no')
    'mine.py:12 in particles'
    """
    frames = FRAME.findall(traceback or "")
    if not frames:
        return None
    folder = Path(frames[0][0]).parent
    path, line, function = [frame for frame in frames if Path(frame[0]).parent == folder][-1]
    return f"{Path(path).name}:{line}" + (f" in {function}" if function else "")


def reason_and_place(reason: str | None, traceback: str | None) -> str:
    """Why a run ended as it did, with the line of code where its traceback names one."""
    place = place_in(traceback)
    return (reason or "no reason on record") + (f" ({place})" if place else "")
