"""Building images of one's own."""

from __future__ import annotations

from smolvm.unavailable import unavailable

__all__ = ["SSH_BOOT_ARGS", "ImageBuilder"]

#: The kernel's command line for images whose ``/init`` starts sshd.
SSH_BOOT_ARGS = "console=ttyS0 reboot=k panic=1 pci=off root=/dev/vda rw init=/init"

ImageBuilder = unavailable("ImageBuilder")
