"""Many sandboxes at a time, from threads and from an event loop, beside as many in sequence."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from figures import Report, Samples
from smolvm import AsyncSmolVM, SmolVM

#: Seconds that a command may take while all sandboxes boot.
PATIENCE = 120


def at_once(report: Report, count: int, rounds: int) -> None:
    """Creates, uses and deletes ``count`` sandboxes in each way."""
    ways: dict[str, Callable[[int], list[float]]] = {
        "in sequence": _in_sequence,
        "from threads": _from_threads,
        "from asyncio": lambda count: asyncio.run(_from_asyncio(count)),
    }
    totals = {way: Samples() for way in ways}
    singles = {way: Samples() for way in ways}
    for _ in range(rounds):
        for way, use in ways.items():
            begun = time.perf_counter()
            singles[way] += use(count)
            totals[way].append(time.perf_counter() - begun)
    for way in ways:
        report.row(f"{count} sandboxes created, used and deleted {way}: all", totals[way], "s")
        report.row("  one of them", singles[way], "s")
        report.value("  one of them, 95th percentile", singles[way].percentile_95, "s")
        if way != "in sequence":
            slowed = totals[way].median / totals["in sequence"].median
            report.ratio(f"all {way} / in sequence", slowed)


def _use() -> float:
    """Returns the seconds from creating a sandbox until it is deleted."""
    begun = time.perf_counter()
    with SmolVM() as vm:
        assert vm.run("true", timeout=PATIENCE).ok
    return time.perf_counter() - begun


async def _use_awaited() -> float:
    begun = time.perf_counter()
    async with await AsyncSmolVM.create() as vm:
        assert (await vm.run("true", timeout=PATIENCE)).ok
    return time.perf_counter() - begun


def _in_sequence(count: int) -> list[float]:
    return [_use() for _ in range(count)]


def _from_threads(count: int) -> list[float]:
    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(lambda _: _use(), range(count)))


async def _from_asyncio(count: int) -> list[float]:
    return await asyncio.gather(*(_use_awaited() for _ in range(count)))
