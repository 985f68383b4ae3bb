"""Python processes that help this one, end with it, and speak with it in lines of JSON."""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import harness

PR_SET_PDEATHSIG = 1  # linux/prctl.h

Message = dict[str, Any]


class Subprocess:
    """A module's `main(parent)` in a process of its own, which ends when this process does;
    `environment` are variables beside, or in place of, those of this one.

    Raises:
        OSError: the system cannot start it.
    """

    def __init__(self, module: str, **environment: str) -> None:
        paths = [str(Path(harness.__file__).parents[1]), os.environ.get("PYTHONPATH")]
        search_path = os.pathsep.join(filter(None, paths))
        self._process = subprocess.Popen(
            # -P: a file in the current folder is not taken for a package
            [sys.executable, "-P", "-m", __name__, module, str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, **environment, "PYTHONPATH": search_path},
            start_new_session=True,  # Ctrl-C is for the command, which then tells its helpers
        )
        self._messages: queue.SimpleQueue[Message] = queue.SimpleQueue()
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def _listen(self) -> None:
        for line in self._process.stdout or ():
            self._messages.put(json.loads(line))

    @property
    def pid(self) -> int:
        """Return the number of the process."""
        return self._process.pid

    def poll(self) -> int | None:
        """Return the exit status; None while it runs."""
        return self._process.poll()

    def wait(self, timeout_s: float | None = None) -> int | None:
        """Wait for its end, at most `timeout_s` seconds; return the exit status, or None."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout_s)
        return self._process.returncode

    def send(self, **message: Any) -> None:
        """Send a message; one that has ended does not hear it, which `poll` tells."""
        if self._process.stdin is not None:
            with suppress(OSError, ValueError):
                self._process.stdin.write(json.dumps(message) + "\n")
                self._process.stdin.flush()

    def received(self) -> Iterator[Message]:
        """Yield what it has sent since the last call; once it has ended, everything."""
        if self.poll() is not None:
            self._listener.join()
        while not self._messages.empty():
            yield self._messages.get()

    def terminate(self) -> None:
        """Send SIGTERM."""
        self._process.terminate()

    def close(self) -> None:
        """Kill it, whatever it is doing, and leave nothing of it open."""
        self._process.kill()
        self._process.wait()
        self._listener.join()
        for pipe in (self._process.stdin, self._process.stdout):
            with suppress(OSError):
                if pipe is not None:
                    pipe.close()


# In the process


class Parent:
    """The process that started this one; when no more `messages` can come, this one ends."""

    def __init__(self) -> None:
        self.messages: queue.SimpleQueue[Message] = queue.SimpleQueue()
        self._output = os.fdopen(os.dup(1), "w", buffering=1)
        self._lock = threading.Lock()
        os.dup2(2, 1)  # what plugins and libraries print is no message
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        for line in sys.stdin:
            self.messages.put(json.loads(line))
        os._exit(0)

    def send(self, **message: Any) -> None:
        """Send a message."""
        with self._lock:
            self._output.write(json.dumps(message) + "\n")


def main() -> None:
    """Run the `main` of the module that the command line names."""
    module, parent_pid = sys.argv[1:]
    if sys.platform == "linux":  # elsewhere the end of standard input tells
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != int(parent_pid):
            sys.exit(0)
    importlib.import_module(module).main(Parent())
    os._exit(0)  # the thread that reads standard input would hold up an ordinary exit


if __name__ == "__main__":
    main()
