"""The client of Firecracker's API, under the name that older clients use."""

from __future__ import annotations

from smolvm.unavailable import unavailable

__all__ = ["FirecrackerClient"]

FirecrackerClient = unavailable(
    "FirecrackerClient",
    "sandboxes do not run on Firecracker. What it was asked for, SmolVM.info and "
    "`smolvm info NAME` know; what the guest said, `smolvm logs NAME`",
)
