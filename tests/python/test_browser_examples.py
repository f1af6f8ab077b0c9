"""Every example of docs/browser.md runs, and examples/browser_session.py does; all on a page of their own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
from pathlib import Path

import png
import pytest

_ROOT = Path(__file__).parents[2]
_PAGE = _ROOT / "docs" / "browser.md"
_BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)

#: What stands in for a page of the internet.
LOCAL_PAGE = "data:text/html,<title>Local</title><body style='margin:0;background:lime'>hello"

#: A browser's start and what it is asked to do, in an emulated guest on a busy host.
SECONDS = 400


def run(program: str, directory: Path, *arguments: str) -> str:
    """Runs a program as a user does; returns what it prints."""
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        cwd=directory,
        env=os.environ,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


def examples() -> list[object]:
    """The examples, each named by the line it begins at."""
    text = _PAGE.read_text()
    return [
        pytest.param(block[1], id=f"line{text.count(chr(10), 0, block.start()) + 2}")
        for block in _BLOCK.finditer(text)
    ]


def test_page_has_examples() -> None:
    assert len(examples()) == 2


@pytest.mark.parametrize("example", examples())
def test_example_runs(example: str, tmp_path: Path) -> None:
    assert "https://example.com" in example
    run(example.replace("https://example.com", LOCAL_PAGE), tmp_path)


def test_program_leaves_a_picture_and_a_video(tmp_path: Path) -> None:
    program = (_ROOT / "examples" / "browser_session.py").read_text()
    printed = run(program, tmp_path, LOCAL_PAGE).splitlines()
    said = dict(line.split(": ", 1) for line in printed)
    assert said["Title"] == "Local"
    assert said["CDP URL"].startswith("http://127.0.0.1:")
    assert "vnc.html" in said["Live URL"]
    picture = png.decode((tmp_path / said["Screenshot"]).read_bytes())
    assert (picture.width, picture.height) == (1440, 900)
    assert picture.pixel(1000, 500) == (0, 255, 0)
    with tarfile.open(said["Artifacts"]) as archive:
        video = archive.extractfile(
            f"opt/smolvm-browser/artifacts/{said['Session']}/session.mp4"
        )
        assert video is not None
        # ISO/IEC 14496-12 §8.2: a movie whose index was written, at its end or beginning.
        assert b"moov" in video.read()
