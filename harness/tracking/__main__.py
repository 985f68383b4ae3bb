"""The mirror's process; see `harness.tracking.process`."""

from __future__ import annotations

from harness.tracking.process import main

main()
