"""Every Python block of docs/agents.md runs as a program of its own, in order; what a `text` block after it says is printed."""

from __future__ import annotations

import doctest
import os
import re
from pathlib import Path

import pytest
from alpine_mirror import AlpineMirror
from conftest import Run

PAGE = Path(__file__).parents[2] / "docs/agents.md"
BLOCK = re.compile(r"^```python\n(.*?)^```\n(?:\n```text\n(.*?)^```\n)?", re.MULTILINE | re.DOTALL)


def blocks(section: str) -> list[tuple[int, str, str | None]]:
    """Returns line, program and expected output of each block of a section; of all others for an empty name."""
    text = PAGE.read_text()
    found = []
    for block in BLOCK.finditer(text):
        before = text[: block.start()]
        heading = re.findall(r"^## (.*)$", before, re.MULTILINE)[-1]
        if (heading == LASTING) == (section == LASTING):
            found.append((before.count("\n") + 2, block[1], block[2]))
    return found


LASTING = "A sandbox that lasts"

#: A browser's start and what it is asked to do, in an emulated guest on a busy host.
SECONDS = 360


def check(run: Run, directory: Path, program: str, expected: str | None) -> None:
    """Runs a block and compares what it prints."""
    path = directory / "block.py"
    # Nothing of the internet is needed.
    path.write_text(program.replace("https://example.com", "data:text/html,<h1>Example</h1>"))
    printed = run(path, seconds=SECONDS).stdout
    assert expected is None or doctest.OutputChecker().check_output(expected, printed, doctest.ELLIPSIS), printed


def test_page_has_blocks() -> None:
    assert len(blocks("")) >= 8
    assert len(blocks(LASTING)) == 3


@pytest.mark.parametrize(
    ("program", "expected"),
    [pytest.param(program, expected, id=f"line{line}") for line, program, expected in blocks("")],
)
def test_block_runs(program: str, expected: str | None, run: Run, tmp_path: Path) -> None:
    check(run, tmp_path, program, expected)


def test_sandbox_lasts_from_block_to_block(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mirror").mkdir()
    mirror = AlpineMirror(tmp_path / "mirror")
    monkeypatch.setenv("SMOLVM_ALPINE_MIRROR", str(mirror.path))
    monkeypatch.setenv("SMOLVM_ALPINE_MINIROOTFS_SHA256", mirror.minirootfs_sha256)
    # Keys and images are in the home directory; what has been prepared stays where it is.
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "smolvm"
    monkeypatch.setenv("SMOLVM_CACHE_DIR", os.environ.get("SMOLVM_CACHE_DIR", str(cache)))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for _, program, expected in blocks(LASTING):
        check(run, tmp_path, program, expected)
