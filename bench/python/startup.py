"""What importing the package takes."""

from __future__ import annotations

import subprocess
import sys

from figures import Report, Samples, clock

#: Most milliseconds that importing the package may add to an interpreter's start.
MOST_ADDED_MS = 50


def importing(report: Report, rounds: int) -> None:
    """Starts interpreters that import the package, and others that do not."""
    importing, bare = Samples(), Samples()
    for _ in range(rounds):
        importing.append(_start("import smolvm"))
        bare.append(_start("pass"))
    report.beside("interpreter that imports smolvm", importing, "one that does not", bare, "ms")
    # The fastest of each: it is always the same work, and a busy host can only add to it.
    report.promise("importing smolvm, in ms", min(importing) - min(bare), MOST_ADDED_MS)


def _start(line: str) -> float:
    return clock(lambda: subprocess.run([sys.executable, "-c", line], check=True)) * 1e3
