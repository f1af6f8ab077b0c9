"""Measures the Python package beside a baseline in the same run.

    target/python/test/bin/python bench/python/measure.py [--rounds N] [--json FILE]

Needs the package installed. Prints the median and the spread (first to third quartile) of each
figure and of its baseline, and their ratio. Figures of a host without KVM are those of emulation.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import smolvm
from smolvm import AsyncSmolVM, SmolVM

MIB = 1 << 20


def clock(work: Callable[[], object]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def report(name: str, unit: str, subject: list[float], baseline: list[float]) -> dict[str, object]:
    """Prints and returns one figure beside its baseline."""

    def described(values: list[float]) -> dict[str, float]:
        low, middle, high = (
            statistics.quantiles(values, n=4) if len(values) > 1 else values * 3
        )
        return {"median": middle, "q1": low, "q3": high}

    one, other = described(subject), described(baseline)
    ratio = one["median"] / other["median"]

    def shown(values: dict[str, float]) -> str:
        return "{median:.3f} ({q1:.3f} to {q3:.3f})".format(**values)

    print(f"{name}: {shown(one)} {unit}; baseline {shown(other)} {unit}; ratio {ratio:.2f}")
    return {"name": name, "unit": unit, "subject": one, "baseline": other, "ratio": ratio}


def cli(*arguments: str, stdin: Path | None = None) -> None:
    """Runs the program that travels with the package."""
    program = Path(smolvm.__file__).parent / "_bundled" / "smolvm"
    source = stdin.open("rb") if stdin else subprocess.DEVNULL
    subprocess.run([program, *arguments], stdin=source, stdout=subprocess.DEVNULL, check=True)


def run_calls(vm: SmolVM, rounds: int) -> list[dict[str, object]]:
    """run() from Python, against the CLI, and against what the extension itself takes."""
    subject, command_line, inside = [], [], []
    for _ in range(rounds):
        inside.append(float(vm.exec(["true"]).wait().duration_ms))
        subject.append(clock(lambda: vm.run(["true"])) * 1000)
        command_line.append(clock(lambda: cli("exec", vm.vm_id, "--", "true")) * 1000)
    return [
        report("run(['true']) against the command line", "ms", subject, command_line),
        report("run(['true']) against what Rust measures of exec()", "ms", subject, inside),
    ]


def overhead(vm: SmolVM, rounds: int) -> dict[str, object]:
    """What Python adds: processor time of the calling thread, in one call."""
    calls = 50
    added = []
    for _ in range(max(3, rounds // 5)):
        begun = time.thread_time()
        for _ in range(calls):
            vm.run(["true"])
        added.append((time.thread_time() - begun) / calls * 1e6)
    limit = [200.0] * len(added)
    return report("processor time of run() in its thread, against the promise", "us", added, limit)


def many(rounds: int, count: int) -> list[dict[str, object]]:
    """Sandboxes created, used and deleted: from threads and from asyncio, against in sequence."""

    def one(_: int) -> None:
        with SmolVM() as vm:
            assert vm.run("true", timeout=120).ok

    async def awaited() -> None:
        async def one() -> None:
            async with await AsyncSmolVM.create() as vm:
                assert (await vm.run("true", timeout=120)).ok

        await asyncio.gather(*(one() for _ in range(count)))

    sequence, threads, loop = [], [], []
    for _ in range(rounds):
        sequence.append(clock(lambda: [one(index) for index in range(count)]))
        with ThreadPoolExecutor(count) as pool:
            threads.append(clock(lambda: list(pool.map(one, range(count)))))
        loop.append(clock(lambda: asyncio.run(awaited())))
    return [
        report(f"{count} sandboxes from threads, against in sequence", "s", threads, sequence),
        report(f"{count} sandboxes from asyncio, against in sequence", "s", loop, sequence),
    ]


def files(vm: SmolVM, rounds: int, mib: int) -> list[dict[str, object]]:
    """Upload and download, against cat through the command line."""
    up, up_cat, down, down_cat = [], [], [], []
    with tempfile.TemporaryDirectory() as directory:
        local = Path(directory) / "file"
        local.write_bytes(os.urandom(MIB) * mib)
        for _ in range(rounds):
            up.append(mib / clock(lambda: vm.upload_file(local, "/root/file")))
            cat = ("exec", vm.vm_id, "--", "sh", "-c", "cat > /root/cat")
            flags = ("exec", "-i", *cat[1:])
            up_cat.append(mib / clock(lambda: cli(*flags, stdin=local)))
            down.append(mib / clock(lambda: vm.download_file("/root/file", f"{local}.back")))
            down_cat.append(mib / clock(lambda: cli("exec", vm.vm_id, "--", "cat", "/root/file")))
    return [
        report(f"upload of {mib} MiB, against cat", "MiB/s", up, up_cat),
        report(f"download of {mib} MiB, against cat", "MiB/s", down, down_cat),
    ]


def outputs(vm: SmolVM, rounds: int) -> list[dict[str, object]]:
    """10 MB of each output, whole, against the command line."""
    line = "head -c 10000000 /dev/zero"
    figures = []
    for name, redirected in (("stdout", line), ("stderr", f"{line} >&2")):
        subject, baseline = [], []
        for _ in range(rounds):
            begun = time.perf_counter()
            result = vm.run(redirected, timeout=120)
            subject.append(time.perf_counter() - begun)
            assert len(getattr(result, name)) == 10_000_000
            baseline.append(clock(lambda: cli("exec", vm.vm_id, "--", "sh", "-c", line)))
        title = f"10 MB of {name}, against the command line's stdout"
        figures.append(report(title, "s", subject, baseline))
    return figures


def import_time(rounds: int) -> dict[str, object]:
    """Starting an interpreter that imports the package, against one that does not."""
    subject, baseline = [], []
    for _ in range(rounds):
        for values, line in ((subject, "import smolvm"), (baseline, "pass")):
            command = [sys.executable, "-c", line]
            values.append(clock(lambda: subprocess.run(command, check=True)) * 1000)
    figure = report("an interpreter that imports smolvm, against one that does not", "ms", subject, baseline)
    added = statistics.median(subject) - statistics.median(baseline)
    print(f"  importing adds {added:.1f} ms")
    return {**figure, "added_ms": added}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=20, help="of the quick figures")
    parser.add_argument("--sandboxes", type=int, default=8, help="at a time")
    parser.add_argument("--mib", type=int, default=256, help="of uploads and downloads")
    parser.add_argument("--json", type=Path, help="where to write the figures")
    options = parser.parse_args()
    slow = max(1, options.rounds // 7)
    figures = [import_time(options.rounds)]
    with SmolVM() as vm:
        figures += run_calls(vm, options.rounds)
        figures.append(overhead(vm, options.rounds))
        figures += outputs(vm, slow)
        figures += files(vm, slow, options.mib)
    figures += many(slow, options.sandboxes)
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
