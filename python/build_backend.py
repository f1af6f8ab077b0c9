"""Builds the wheel: the programs that travel in it with cargo, then everything with maturin.

``SMOLVM_BUNDLE_FROM`` names a directory that holds the three programs already.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import maturin
from maturin import (
    get_requires_for_build_editable,
    get_requires_for_build_wheel,
    prepare_metadata_for_build_editable,
    prepare_metadata_for_build_wheel,
)

__all__ = [
    "build_editable",
    "build_wheel",
    "get_requires_for_build_editable",
    "get_requires_for_build_wheel",
    "prepare_metadata_for_build_editable",
    "prepare_metadata_for_build_wheel",
]

ROOT = Path(__file__).resolve().parent.parent
BUNDLE = ROOT / "python" / "smolvm" / "_bundled"
PROGRAMS = ("smolvm", "smolvm-vmm", "smolvm-agent")


def build_wheel(
    wheel_directory: str,
    config_settings: dict[str, Any] | None = None,
    metadata_directory: str | None = None,
) -> str:
    """Builds the wheel."""
    bundle()
    return maturin.build_wheel(wheel_directory, config_settings, metadata_directory)


def build_editable(
    wheel_directory: str,
    config_settings: dict[str, Any] | None = None,
    metadata_directory: str | None = None,
) -> str:
    """Builds a wheel that refers to this directory."""
    bundle()
    return maturin.build_editable(wheel_directory, config_settings, metadata_directory)


def bundle() -> None:
    """Puts the programs into the package."""
    programs = os.environ.get("SMOLVM_BUNDLE_FROM")
    source = Path(programs) if programs else build_programs()
    BUNDLE.mkdir(exist_ok=True)
    for name in PROGRAMS:
        # Renamed into place: the old one may be running.
        new = BUNDLE / f".{name}.new"
        shutil.copy2(source / name, new)
        new.chmod(0o755)
        new.rename(BUNDLE / name)


def build_programs() -> Path:
    """Builds the programs and returns the directory they are in."""
    subprocess.run(["cargo", "xtask", "build"], cwd=ROOT, check=True)
    return ROOT / os.environ.get("CARGO_TARGET_DIR", "target") / "release"
