"""The extension module; private to this package."""

import builtins
import os
from collections.abc import Generator
from pathlib import Path
from typing import Any, Generic, TypedDict, TypeVar, final, type_check_only

from smolvm.types import CommandResult

__all__ = [
    "Operation",
    "Sandbox",
    "__version__",
    "after_fork",
    "at_exit",
    "check_env_key",
    "check_vm_id",
    "check_vm_sizes",
    "create",
    "known_images",
    "list",
    "open",
    "reap",
]

_T = TypeVar("_T")
_Path = str | os.PathLike[str]

__version__: str

@type_check_only
class Spec(TypedDict):
    vm_id: str | None
    image: str | None
    backend: str | None
    vcpus: int | None
    memory: int | None
    disk: int | None
    labels: dict[str, str]
    idle_timeout: float | None
    max_lifetime: float | None
    max_processes: int | None
    kernel_path: Path | None
    rootfs_path: Path | None
    initrd_path: Path | None
    extra_drives: builtins.list[Path]
    boot_args: str | None
    is_shared: bool
    keeps_disk: bool
    env_vars: dict[str, str]

@type_check_only
class Info(TypedDict):
    vm_id: str
    status: str
    reason: str | None
    image: str
    engine: str | None
    backend: str
    vcpus: int
    memory: int
    disk: int
    is_named: bool
    labels: dict[str, str]
    disk_used_bytes: int
    created_unix_ms: int
    directory: str

@final
class Operation(Generic[_T]):
    """Something that takes time. Nothing happens until somebody waits for it, once."""
    def wait(self) -> _T:
        """Waits without the GIL. A signal whose handler raises ends the work."""
    def __await__(self) -> Generator[Any, None, _T]: ...

@final
class Sandbox:
    """What every Python handle on one sandbox shares."""
    @property
    def vm_id(self) -> str: ...
    @property
    def data_dir(self) -> Path: ...
    def info(self) -> Info: ...
    def pid(self) -> Operation[int | None]: ...
    def start(self) -> Operation[None]: ...
    def stop(self, timeout: float) -> Operation[None]: ...
    def close(self) -> Operation[None]: ...
    def delete(self) -> Operation[None]: ...
    def run(self, command: str, timeout: float, shell: str) -> Operation[CommandResult]: ...
    def set_env(
        self, variables: dict[str, str], merge: bool
    ) -> Operation[builtins.list[str]]: ...
    def unset_env(self, names: builtins.list[str]) -> Operation[dict[str, str]]: ...
    def list_env(self) -> Operation[dict[str, str]]: ...
    def read_file(self, path: _Path, max_bytes: int) -> Operation[bytes]: ...
    def write_file(
        self, path: _Path, content: bytes, mode: int, parents: bool
    ) -> Operation[None]: ...
    def upload_file(self, local: _Path, remote: _Path, parents: bool) -> Operation[int]: ...
    def download_file(self, remote: _Path, local: _Path) -> Operation[int]: ...
    def copy_in(self, local: _Path, remote: _Path) -> Operation[int]: ...
    def copy_out(self, remote: _Path, local: _Path) -> Operation[int]: ...
    def stat(self, path: _Path, follow: bool) -> Operation[dict[str, Any]]: ...
    def list_directory(self, path: _Path) -> Operation[builtins.list[dict[str, Any]]]: ...
    def make_directory(self, path: _Path, mode: int, parents: bool) -> Operation[None]: ...
    def remove_file(self, path: _Path, recursive: bool) -> Operation[None]: ...

def create(spec: Spec, data_dir: _Path | None, bundled: _Path) -> Operation[Sandbox]: ...
def open(vm_id: str, data_dir: _Path | None, bundled: _Path) -> Sandbox: ...
def list(data_dir: _Path | None, bundled: _Path) -> builtins.list[Info]: ...
def reap(data_dir: _Path | None, bundled: _Path) -> builtins.list[str]: ...
def check_vm_id(vm_id: str) -> None: ...
def check_vm_sizes(vcpus: int | None, memory: int | None, disk: int | None) -> None: ...
def check_env_key(key: str) -> None: ...
def known_images() -> builtins.list[str]: ...
def after_fork() -> None: ...
def at_exit() -> None: ...
