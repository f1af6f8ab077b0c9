"""All sandboxes of a data directory."""

from __future__ import annotations

from smolvm import _native
from smolvm.files import PathLike
from smolvm.handle import BUNDLED
from smolvm.types import VMConfig, VMInfo, VMState
from smolvm.vm import SmolVM

__all__ = ["SmolVMManager"]


class SmolVMManager:
    """Lists, finds and removes sandboxes, also those of other processes."""

    def __init__(
        self, data_dir: PathLike | None = None, socket_dir: PathLike | None = None
    ) -> None:
        self._data_dir = data_dir

    def list_vms(self, status: VMState | str | None = None) -> list[VMInfo]:
        """Returns all sandboxes, or those in one state."""
        sandboxes = SmolVM.list(data_dir=self._data_dir)
        if status is None:
            return sandboxes
        return [info for info in sandboxes if info.status == VMState(status)]

    def create(self, config: VMConfig) -> VMInfo:
        """Creates a sandbox."""
        return SmolVM(config, data_dir=self._data_dir).info

    def get(self, vm_id: str) -> VMInfo:
        """Returns what is known of a sandbox."""
        return SmolVM.from_id(vm_id, data_dir=self._data_dir).info

    def delete(self, vm_id: str) -> None:
        """Ends a sandbox and removes its disk."""
        SmolVM.from_id(vm_id, data_dir=self._data_dir).delete()

    def reconcile(self) -> list[str]:
        """Removes what dead processes have left. Returns the names it touched."""
        return _native.reap(self._data_dir, BUNDLED)
