"""Building images, under the name that older clients use."""

from __future__ import annotations

from smolvm.images.builder import OPENCLAW_BOOT_ARGS, SSH_BOOT_ARGS, ImageBuilder

__all__ = ["OPENCLAW_BOOT_ARGS", "SSH_BOOT_ARGS", "ImageBuilder"]
