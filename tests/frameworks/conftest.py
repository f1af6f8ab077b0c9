"""What the tests share: a data directory each, a scripted model, and a way to run programs that reach nothing else."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from model import Model

from smolvm import SmolVM

HERE = Path(__file__).parent
EXAMPLES = HERE.parent.parent / "examples/agent_tools"

Run = Callable[..., "subprocess.CompletedProcess[str]"]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Announces skipped tests as all tests of this project do, so that they are counted."""
    for report in terminalreporter.stats.get("skipped", []):
        reason = str(report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr)
        terminalreporter.write_line(f"SKIPPED {report.nodeid}: {reason.splitlines()[0]}")


def processes_of(directory: Path) -> list[str]:
    """Returns the command lines that name a directory."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except (FileNotFoundError, ProcessLookupError):
            continue
        if str(directory) in command:
            found.append(command)
    return found


def assert_nothing_left(directory: Path) -> None:
    """Asserts that no sandbox is listed, no directory of one exists and no process knows the data directory."""
    assert SmolVM.list(data_dir=directory) == []
    sandboxes = directory / "sandboxes"
    left = [path.name for path in sandboxes.iterdir() if path.is_dir()] if sandboxes.exists() else []
    assert left == [], f"directories of sandboxes: {left}"
    # A supervisor ends a moment after its sandbox is gone.
    deadline = time.monotonic() + 10
    while (processes := processes_of(directory)) and time.monotonic() < deadline:
        pass
    assert processes == []


@pytest.fixture
def data_dir(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A data directory of the test's own, in which nothing may be left."""
    # Not below the deep directory of pytest: a socket's path has at most 107 bytes (unix(7)).
    directory = Path(tempfile.mkdtemp(prefix="smolvm-frameworks-"))
    monkeypatch.setenv("SMOLVM_DATA_DIR", str(directory))
    try:
        yield directory
        assert_nothing_left(directory)
    finally:
        for info in SmolVM.list(data_dir=directory):
            SmolVM.from_id(info.vm_id, data_dir=directory).delete()
        shutil.rmtree(directory)


@pytest.fixture
def model() -> Iterator[Model]:
    """A scripted model that must have understood all it was asked."""
    with Model() as server:
        yield server
    assert server.failures == []


@pytest.fixture
def run(data_dir: Path, model: Model, tmp_path: Path) -> Run:
    """Runs a Python program as a user would, with the scripted model in place of a provider."""
    def program(path: Path, *arguments: str, seconds: float = 120) -> subprocess.CompletedProcess[str]:
        # Taken now: a test may have changed it.
        environment = {
            **{name: value for name, value in os.environ.items() if "proxy" not in name.lower()},
            "SMOLVM_DATA_DIR": str(data_dir),
            "OPENAI_API_KEY": "none",
            "OPENAI_BASE_URL": model.url,
            "PYDANTIC_AI_MODEL": "openai:scripted",
            # What the frameworks would send or fetch apart from asking the model.
            "OPENAI_AGENTS_DISABLE_TRACING": "1",
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        }
        command = [sys.executable, str(HERE / "loopback_only.py"), str(path), *arguments]
        done = subprocess.run(
            command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=seconds, check=False
        )
        assert done.returncode == 0, f"{done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    return program


@pytest.fixture(scope="session")
def guest_kernel(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The release of the guest's kernel, which is not this host's."""
    with tempfile.TemporaryDirectory(prefix="smolvm-frameworks-") as directory:
        with SmolVM(data_dir=directory) as vm:
            release = vm.run("uname -v").output
    assert release and release not in os.uname().version
    return release
