"""Building images, under the name that older clients use."""

from __future__ import annotations

from smolvm.images.builder import OPENCLAW_BOOT_ARGS, SSH_BOOT_ARGS, ImageBuilder

__all__ = [
    "FIRECRACKER_KERNEL_URLS",
    "OPENCLAW_BOOT_ARGS",
    "QEMU_KERNEL_URLS",
    "SSH_BOOT_ARGS",
    "ImageBuilder",
]

#: What older clients give as ``kernel_url``. Kernels are not downloaded: ``None`` is the one that
#: every image gets.
FIRECRACKER_KERNEL_URLS: dict[str, str | None] = {"amd64": None, "x86_64": None}
QEMU_KERNEL_URLS: dict[str, str | None] = {"amd64": None, "x86_64": None}
