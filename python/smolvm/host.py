"""What the host can do; ``smolvm doctor`` says it until this module does."""

from __future__ import annotations

from smolvm.unavailable import HostManager

__all__ = ["HostManager"]
