"""Every example of docs/python.md runs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

_PAGE = Path(__file__).parents[2] / "docs" / "python.md"
_BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def examples() -> list[object]:
    """The examples, each named by the line it begins at."""
    text = _PAGE.read_text()
    return [
        pytest.param(block[1], id=f"line{text.count(chr(10), 0, block.start()) + 2}")
        for block in _BLOCK.finditer(text)
    ]


@pytest.mark.parametrize("example", examples())
def test_example_runs(example: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    exec(compile(example, str(_PAGE), "exec"), {"__name__": "example"})
