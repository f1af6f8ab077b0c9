"""What one run() takes, beside the library's call and beside the command line."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from figures import Report, Samples, clock
from programs import command_line, library_calls
from smolvm import AsyncSmolVM, SmolVM

#: Most microseconds that run() may take on top of the library's call.
MOST_ADDED_US = 200

#: Calls in a row before it is the other's turn.
TURN = 100

MICROSECONDS = 1e6


def overhead(report: Report, smolvm_bench: Path, rounds: int) -> None:
    """What Python adds to the library's call, on the engine whose guest is a script.

    A real guest takes tens of milliseconds under software emulation, and what Python adds would be
    lost in how they vary.
    """
    library, called, awaited = Samples(), Samples(), Samples()
    added, added_awaited, processor = Samples(), Samples(), Samples()
    with SmolVM(backend="fake") as vm:
        vm.run(["true"])
        for _ in range(rounds):
            beside = library_calls(smolvm_bench, vm, TURN)
            used = time.thread_time()
            turn = Samples(clock(lambda: vm.run(["true"])) * MICROSECONDS for _ in range(TURN))
            processor.append((time.thread_time() - used) / TURN * MICROSECONDS)
            awaited_turn = asyncio.run(_awaited_calls(vm.vm_id))
            added.append(turn.median - beside.median)
            added_awaited.append(awaited_turn.median - beside.median)
            library += beside
            called += turn
            awaited += awaited_turn
    report.row("run(['true']), guest that costs nothing", called, "us")
    report.row("  processor time of the calling thread", processor, "us")
    report.row("await run(['true']), guest that costs nothing", awaited, "us")
    report.row("  beside: the library's call", library, "us")
    report.row("what await run() adds to the library's call", added_awaited, "us")
    report.row("what run() adds to the library's call", added, "us")
    report.promise("run() on top of the library's call, in us", added.median, MOST_ADDED_US)


async def _awaited_calls(vm_id: str) -> Samples:
    vm = AsyncSmolVM.from_id(vm_id)
    await vm.run(["true"])
    turn = Samples()
    for _ in range(TURN):
        begun = time.perf_counter()
        await vm.run(["true"])
        turn.append((time.perf_counter() - begun) * MICROSECONDS)
    return turn


def in_a_guest(report: Report, vm: SmolVM, rounds: int) -> None:
    """run() in a real guest, beside the command that does the same."""
    called, command = Samples(), Samples()
    vm.run(["true"])
    for _ in range(rounds):
        called.append(clock(lambda: vm.run(["true"])) * 1e3)
        command.append(clock(lambda: command_line("exec", vm.vm_id, "--", "true")) * 1e3)
    report.beside("run(['true']) in a guest", called, "smolvm exec", command, "ms")
