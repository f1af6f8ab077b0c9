"""What the measurements come to: medians with their spread, and the promises made of them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable


class Samples(list[float]):
    """Measurements of the same thing."""

    @property
    def median(self) -> float:
        return statistics.median(self)

    @property
    def quartiles(self) -> tuple[float, float]:
        """The first and the third."""
        if len(self) == 1:
            return self[0], self[0]
        low, _, high = statistics.quantiles(self, n=4, method="inclusive")
        return low, high

    @property
    def percentile_95(self) -> float:
        if len(self) == 1:
            return self[0]
        return statistics.quantiles(self, n=20, method="inclusive")[-1]


class Report:
    """Prints figures as they come, and remembers whether a promise was broken."""

    def __init__(self) -> None:
        self.has_broken_promise = False

    def row(self, name: str, samples: Samples, unit: str) -> None:
        """Prints measurements with their spread."""
        low, high = samples.quartiles
        spread = f"(quartiles {low:.2f} to {high:.2f}, n = {len(samples)})"
        print(f"{name:<68} {samples.median:>9.2f} {unit}   {spread}", flush=True)

    def value(self, name: str, value: float, unit: str) -> None:
        """Prints a single value."""
        print(f"{name:<68} {value:>9.2f} {unit}", flush=True)

    def ratio(self, name: str, ratio: float) -> None:
        """Prints a ratio that nothing is promised of."""
        print(f"  ratio: {name:<59} {ratio:>9.2f}", flush=True)

    def beside(
        self, name: str, samples: Samples, baseline_name: str, baseline: Samples, unit: str
    ) -> None:
        """Prints measurements, those of the baseline, and their ratio."""
        self.row(name, samples, unit)
        self.row(f"  beside: {baseline_name}", baseline, unit)
        self.ratio(name, samples.median / baseline.median)

    def promise(self, name: str, value: float, limit: float) -> None:
        """Prints a figure that SPECIFICATION.md promises to be at most ``limit``."""
        is_kept = value <= limit
        self.has_broken_promise |= not is_kept
        verdict = "kept" if is_kept else "BROKEN"
        line = f"  promise: {name:<57} {value:>9.2f}   at most {limit:g}: {verdict}"
        print(line, flush=True)


def clock(work: Callable[[], object]) -> float:
    """Returns the seconds that ``work`` takes."""
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun
