"""Measures what SPECIFICATION.md promises of the Python package, beside a baseline in the same run.

Part of `make bench`. Needs the package installed, and the program `smolvm-bench`. Prints medians
with their quartiles, and fails when a promise is broken. Figures of a host without KVM are those of
software emulation.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

import browsers
import calls
import sandboxes
import startup
import transfers
from figures import Report
from smolvm import SmolVM


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("smolvm_bench", type=Path, help="the program smolvm-bench")
    parser.add_argument("--rounds", type=int, default=20, help="of figures that take milliseconds")
    parser.add_argument("--long-rounds", type=int, default=3, help="of figures that take seconds")
    parser.add_argument("--sandboxes", type=int, default=8, help="at a time")
    parser.add_argument("--mib", type=int, default=256, help="of uploads and downloads")
    options = parser.parse_args()
    report = Report()
    with tempfile.TemporaryDirectory() as data_dir:
        os.environ["SMOLVM_DATA_DIR"] = data_dir
        startup.importing(report, options.rounds)
        calls.overhead(report, options.smolvm_bench, options.rounds)
        with SmolVM() as vm:
            calls.in_a_guest(report, vm, options.rounds)
            transfers.outputs(report, vm, options.long_rounds)
            transfers.files(report, vm, options.mib, options.long_rounds)
        sandboxes.at_once(report, options.sandboxes, options.long_rounds)
        browsers.sessions(report, options.long_rounds)
    return 1 if report.has_broken_promise else 0


if __name__ == "__main__":
    sys.exit(main())
