"""From specs to ended runs: in this process, in worker processes of this machine, on a Dask cluster."""

from harness.executors.local import Event, SetAside, Waiting, execute, prepare

__all__ = ["Event", "SetAside", "Waiting", "execute", "prepare"]
