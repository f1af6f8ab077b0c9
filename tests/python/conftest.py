"""What the tests share: a data directory of their own, and one running sandbox."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from smolvm import SmolVM


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Announces skipped tests as all tests of this project do, so that they are counted."""
    for report in terminalreporter.stats.get("skipped", []):
        reason = str(report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr)
        terminalreporter.write_line(f"SKIPPED {report.nodeid}: {reason.splitlines()[0]}")


@pytest.fixture(scope="session", autouse=True)
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A data directory for all tests; the prepared images stay where they are."""
    # Not below the deep directory of pytest: a socket's path has at most 107 bytes (unix(7)).
    directory = tmp_path_factory.mktemp("data")
    os.environ["SMOLVM_DATA_DIR"] = str(directory)
    yield directory
    for info in SmolVM.list():
        SmolVM.from_id(info.vm_id).delete()


@pytest.fixture(scope="session")
def vm() -> Iterator[SmolVM]:
    """A running sandbox that tests share; none of them may end it."""
    with SmolVM() as sandbox:
        yield sandbox


@pytest.fixture
def python(data_dir: Path) -> Callable[[str], subprocess.CompletedProcess[str]]:
    """Runs a script by another interpreter."""

    def run(script: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", script]
        return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)

    return run
