"""The programs that the package is measured beside."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import smolvm
from figures import Samples
from smolvm import SmolVM


def command_line(*arguments: str, stdin: Path | None = None) -> None:
    """Runs the ``smolvm`` command that travels with the package."""
    program = Path(smolvm.__file__).parent / "_bundled" / "smolvm"
    command = [str(program), *arguments]
    with open(stdin or os.devnull, "rb") as source:
        null = subprocess.DEVNULL
        subprocess.run(command, stdin=source, stdout=null, stderr=null, check=True)


def library_calls(smolvm_bench: Path, vm: SmolVM, count: int) -> Samples:
    """Returns the microseconds that the Rust library takes to run ``true``, ``count`` times."""
    command = [str(smolvm_bench), "calls", str(vm.data_dir), vm.vm_id, str(count)]
    printed = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True).stdout
    return Samples(float(line) for line in printed.split())
