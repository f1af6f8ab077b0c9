"""Bytes into and out of a guest: files and outputs, beside the command line."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from figures import Report, Samples, clock
from programs import command_line
from smolvm import SmolVM

MIB = 1 << 20

#: Bytes of the outputs, which must arrive whole.
OUTPUT_BYTES = 10_000_000


def files(report: Report, vm: SmolVM, mib: int, rounds: int) -> None:
    """Upload and download, beside ``cat`` through ``smolvm exec``."""
    up, up_cat, down, down_cat = Samples(), Samples(), Samples(), Samples()
    into_guest = ("exec", "-i", vm.vm_id, "--", "sh", "-c", "cat > /root/cat")
    out_of_guest = ("exec", vm.vm_id, "--", "cat", "/root/file")
    with tempfile.TemporaryDirectory() as directory:
        local, back = Path(directory) / "file", Path(directory) / "back"
        local.write_bytes(os.urandom(MIB) * mib)
        for _ in range(rounds):
            up.append(mib / clock(lambda: vm.upload_file(local, "/root/file")))
            up_cat.append(mib / clock(lambda: command_line(*into_guest, stdin=local)))
            down.append(mib / clock(lambda: vm.download_file("/root/file", back)))
            down_cat.append(mib / clock(lambda: command_line(*out_of_guest)))
        assert back.stat().st_size == mib * MIB
    report.beside(f"upload of {mib} MiB", up, "cat through smolvm exec", up_cat, "MiB/s")
    report.beside(f"download of {mib} MiB", down, "cat through smolvm exec", down_cat, "MiB/s")


def outputs(report: Report, vm: SmolVM, rounds: int) -> None:
    """An output of 10 MB, whole."""
    script = f"head -c {OUTPUT_BYTES} /dev/zero"
    for name, line in (("stdout", script), ("stderr", f"{script} >&2")):
        words = ["sh", "-c", line]
        whole, command = Samples(), Samples()
        for _ in range(rounds):
            command.append(clock(lambda: command_line("exec", vm.vm_id, "--", *words)))
            whole.append(clock(lambda: _run_whole(vm, words, name)))
        report.beside(f"10 MB of {name}", whole, "smolvm exec", command, "s")


def _run_whole(vm: SmolVM, words: list[str], name: str) -> None:
    result = vm.run(words, timeout=120)
    arrived = len(getattr(result, name))
    assert arrived == OUTPUT_BYTES, f"{arrived} bytes of {name}"
