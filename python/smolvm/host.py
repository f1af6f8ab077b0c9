"""What the host has of what sandboxes need; ``smolvm doctor`` says more."""

from __future__ import annotations

from pathlib import Path

from smolvm import _native
from smolvm.exceptions import HostError
from smolvm.handle import BUNDLED

__all__ = ["HostManager"]


class HostManager:
    """Looks at the host. It changes nothing: there is nothing to set up."""

    def check_kvm(self) -> bool:
        """Whether sandboxes run on the processor itself, through KVM."""
        return _native.host_report(BUNDLED).wait()["has_kvm"]

    def check_dependencies(self) -> list[str]:
        """Returns the programs that are missing."""
        report = _native.host_report(BUNDLED).wait()
        missing = [name for name, _ in report["missing"]]
        return missing if report["has_qemu"] else ["qemu-system-x86_64", *missing]

    def find_firecracker(self) -> Path | None:
        """For older clients: Firecracker is not used."""
        return None

    def validate(self) -> None:
        """Raises :class:`HostError` when sandboxes cannot be made here."""
        report = _native.host_report(BUNDLED).wait()
        packages = {package for _, package in report["missing"]}
        if not report["has_qemu"]:
            packages.add("qemu-system-x86")
        if packages:
            command = f"sudo apt-get install {' '.join(sorted(packages))}"
            raise HostError(
                f"programs are missing: {', '.join(self.check_dependencies())}; run: {command}",
                {"missing": self.check_dependencies(), "install": command},
            )
