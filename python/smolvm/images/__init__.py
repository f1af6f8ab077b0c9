"""Images of one's own."""

from __future__ import annotations

from smolvm.images.builder import SSH_BOOT_ARGS, ImageBuilder

__all__ = ["SSH_BOOT_ARGS", "ImageBuilder"]
