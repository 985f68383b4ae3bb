"""Makes every figure anew, one benchmark after the other, and then the page that shows them.

    python benchmarks/all.py               everything: hours, most of them of workers and tracking
    python benchmarks/all.py gaussian      these alone, and the page

Pythae is an extra of one benchmark: pip install pythae==0.1.2
"""

from __future__ import annotations

import argparse
import subprocess
import sys

from page import BENCHMARKS, HERE

if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"any of {', '.join(BENCHMARKS)}; all without any"
    )
    names = parser.parse_args().names or list(BENCHMARKS)
    if unknown := set(names) - set(BENCHMARKS):
        parser.error(
            f"no benchmark is called {', '.join(sorted(unknown))}; there are "
            f"{', '.join(BENCHMARKS)}"
        )
    failed = []
    for name in names:
        print(f"== {name}", flush=True)
        if subprocess.run([sys.executable, str(HERE / f"{name}.py")], check=False).returncode:
            failed.append(name)
    subprocess.run([sys.executable, str(HERE / "page.py")], check=True)
    if failed:
        sys.exit(f"These ended with an error and keep their old figures: {', '.join(failed)}")
