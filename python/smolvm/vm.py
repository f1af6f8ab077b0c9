"""Sandboxes: :class:`SmolVM`, and :class:`AsyncSmolVM` for event loops.

Both make the same operations of the extension module; one waits for them, the other awaits them.
"""

from __future__ import annotations

import builtins
import os as _os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, overload

from smolvm import _native
from smolvm.exceptions import OperationTimeoutError, SmolVMError
from smolvm.files import AsyncFiles, Files, PathLike
from smolvm.process import AsyncProcess, Command, Process, arguments
from smolvm.types import CommandResult, NetworkConfig, VMConfig, VMInfo, VMState

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from smolvm.process import ExecOptions, RunOptions

__all__ = ["AsyncSmolVM", "SmolVM"]

#: Where the programs are that travel with this package.
BUNDLED = _os.path.join(_os.path.dirname(_os.path.abspath(__file__)), "_bundled")


class _Handle:
    """What both kinds of handle share: everything that does not wait."""

    _native: _native.Sandbox
    _is_creator: bool

    def __init__(
        self,
        config: VMConfig | None = None,
        *,
        vm_id: str | None = None,
        data_dir: PathLike | None = None,
        socket_dir: PathLike | None = None,
        backend: str | None = None,
        os: str | None = None,
        mem_size_mib: int | None = None,
        memory: int | None = None,
        disk_size_mib: int | None = None,
        disk_size: int | None = None,
        vcpu_count: int | None = None,
        env_vars: Mapping[str, str] | None = None,
        labels: Mapping[str, str] | None = None,
        idle_timeout: float | None = None,
        max_lifetime: float | None = None,
        max_processes: int | None = None,
        ssh_user: str = "root",
        ssh_key_path: PathLike | None = None,
    ) -> None:
        chosen: dict[str, Any] = {
            "os": None if os is None else str(os),
            "mem_size_mib": _one_of("mem_size_mib", mem_size_mib, "memory", memory),
            "disk_size_mib": _one_of("disk_size_mib", disk_size_mib, "disk_size", disk_size),
            "vcpu_count": vcpu_count,
            "env_vars": env_vars,
            "labels": labels,
            "idle_timeout": idle_timeout,
            "max_lifetime": max_lifetime,
            "max_processes": max_processes,
        }
        chosen = {name: value for name, value in chosen.items() if value is not None}
        if config is not None and vm_id is not None:
            raise ValueError("give either config or vm_id, not both")
        if chosen and (config is not None or vm_id is not None):
            names = ", ".join(chosen)
            raise ValueError(f"{names}: only for a new sandbox without config and vm_id")
        if vm_id is not None:
            self._native = _native.open(vm_id, data_dir, BUNDLED)
            self._is_creator = False
            return
        if config is None:
            config = VMConfig(**{"vcpu_count": 1, **chosen})
        spec = _spec(config, backend)
        self._native = _native.create(spec, data_dir, BUNDLED).wait()
        self._is_creator = True

    @property
    def vm_id(self) -> str:
        """The sandbox's name."""
        return self._native.vm_id

    @property
    def data_dir(self) -> Path:
        """The directory that holds the sandbox."""
        return Path(self._native.data_dir)

    @property
    def info(self) -> VMInfo:
        """What is known of the sandbox now."""
        return vm_info(self._native.info())

    @property
    def status(self) -> VMState:
        """Where the sandbox is in its life."""
        return VMState(self._native.info()["status"])

    @property
    def labels(self) -> dict[str, str]:
        """What its owner has written on it."""
        return self.info.labels

    def get_ip(self) -> str:
        """Guests are reached through their agent and have no address of their own."""
        raise SmolVMError(f"VM '{self.vm_id}' has no IP address; use expose_local")

    def can_run_commands(self) -> bool:
        """Whether the sandbox takes commands: every image does, through the agent."""
        return True

    def __repr__(self) -> str:
        try:
            status = str(self.status)
        except SmolVMError:
            status = "deleted"
        return f"{type(self).__name__}(vm_id={self.vm_id!r}, status={status!r})"


class SmolVM(_Handle):
    """A computer of its own for a program: a microVM with a disk of its own.

    Constructing creates the sandbox and does not start it; :meth:`run` does when needed. One
    without a name of its own goes when this process ends, unless :meth:`close` let go of it while
    it was running. Any thread may use any handle.
    """

    @property
    def files(self) -> Files:
        """The guest's files."""
        return Files(self._native)

    @classmethod
    def from_id(
        cls,
        vm_id: str,
        *,
        data_dir: PathLike | None = None,
        socket_dir: PathLike | None = None,
        backend: str | None = None,
        ssh_user: str = "root",
        ssh_key_path: PathLike | None = None,
    ) -> SmolVM:
        """Returns a handle on an existing sandbox, of this process or of another."""
        return cls(vm_id=vm_id, data_dir=data_dir)

    @staticmethod
    def list(*, data_dir: PathLike | None = None) -> list[VMInfo]:
        """Returns all sandboxes, by name."""
        return [vm_info(known) for known in _native.list(data_dir, BUNDLED)]

    def start(self, boot_timeout: float = 30.0) -> SmolVM:
        """Starts the sandbox and waits until it takes commands; nothing when it runs."""
        self._native.start().wait()
        return self

    def stop(self, timeout: float = 3.0) -> SmolVM:
        """Shuts the guest down; after ``timeout`` seconds it is killed. The disk is kept."""
        self._native.stop(timeout).wait()
        return self

    def pause(self) -> SmolVM:
        """Holds the sandbox still, with its memory; its forwards are closed."""
        self._native.pause().wait()
        return self

    def resume(self) -> SmolVM:
        """Lets a paused sandbox go on; :meth:`start` does, too."""
        self._native.resume().wait()
        return self

    def expose_local(self, guest_port: int, host_port: int | None = None) -> int:
        """Makes a port of the guest reachable on 127.0.0.1, until the sandbox stops or pauses.

        Returns the port on the host: another one than ``host_port`` when that is taken. The same
        pair again is the same port.
        """
        _check_ports(guest_port, host_port)
        return self._native.forward(guest_port, host_port).wait()

    def unexpose_local(self, host_port: int, guest_port: int) -> SmolVM:
        """Closes an exposed port and its connections."""
        _check_ports(guest_port, host_port)
        self._native.unforward(host_port, guest_port).wait()
        return self

    def delete(self) -> None:
        """Ends the sandbox, whatever it does, and removes its disk."""
        self._native.delete().wait()

    def close(self) -> None:
        """Lets go of the sandbox. One that runs goes on, also without this process."""
        self._native.close().wait()

    def refresh(self) -> SmolVM:
        """Checks that the sandbox exists; ``info`` and ``status`` are always current."""
        self._native.info()
        return self

    def run(
        self,
        command: Command,
        timeout: float = 30,
        shell: str = "login",
        **options: Unpack[RunOptions],
    ) -> CommandResult:
        """Runs a command and returns how it ended: a line for the guest's shell, or a program.

        A sandbox that is created or stopped is started first; ``timeout`` counts from when it
        runs. ``shell`` is ``login``, which reads the profile, or ``raw``, which does not. The
        options are ``cwd``, ``env``, ``user``, and limits of ``memory`` in MiB, ``cpus`` and
        ``max_processes``.

        Raises :class:`OperationTimeoutError` with the output so far when it takes longer.
        """
        return self._native.run(arguments(command, options, timeout, shell)).wait()

    @overload
    def exec(
        self, command: Command, *, text: Literal[True], **options: Unpack[ExecOptions]
    ) -> Process[str]: ...

    @overload
    def exec(
        self, command: Command, *, text: Literal[False] = False, **options: Unpack[ExecOptions]
    ) -> Process[bytes]: ...

    def exec(
        self, command: Command, *, text: bool = False, **options: Unpack[ExecOptions]
    ) -> Process[Any]:
        """Starts a command and returns while it runs: a line for the shell, or a program.

        With ``text`` its outputs are strings, of UTF-8 with what is not replaced. The options are
        those of :meth:`run`, ``timeout``, ``shell``, ``stdin`` and ``terminal``.
        """
        return Process(self._native.exec(arguments(command, options), text).wait())

    def set_env_vars(self, env_vars: Mapping[str, str], *, merge: bool = True) -> builtins.list[str]:
        """Sets variables for every login shell from now on. Returns all names present."""
        return self._native.set_env(dict(env_vars), merge).wait()

    def unset_env_vars(self, keys: Sequence[str]) -> dict[str, str]:
        """Removes variables. Returns those that were there, with their values."""
        return self._native.unset_env(list(keys)).wait()

    def list_env_vars(self) -> dict[str, str]:
        """Returns the variables that were set."""
        return self._native.list_env().wait()

    def upload_file(self, local_path: PathLike, remote_path: PathLike) -> None:
        """Copies a file of the host into the guest, in constant memory."""
        self._native.upload_file(local_path, remote_path, True).wait()

    def download_file(self, remote_path: PathLike, local_path: PathLike) -> Path:
        """Copies a file of the guest to the host, in constant memory."""
        self._native.download_file(remote_path, local_path).wait()
        return Path(local_path)

    def wait_for_ready(self, timeout: float = 60.0) -> SmolVM:
        """Waits until the sandbox takes commands, which is when :meth:`start` returns."""
        if not self.run("true", timeout, "raw").ok:
            raise OperationTimeoutError("wait_for_ready", timeout)
        return self

    def wait_for_ssh(self, timeout: float = 60.0) -> SmolVM:
        """The older name of :meth:`wait_for_ready`."""
        return self.wait_for_ready(timeout)

    def __enter__(self) -> SmolVM:
        if self._is_creator:
            self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # The creator's sandbox goes with its disk, so it needs no orderly end. Nothing here may
        # hide what the body raised.
        ending = (self.delete,) if self._is_creator else (self.stop, self.close)
        for step in ending:
            try:
                step()
            except SmolVMError as failure:
                _warn(self.vm_id, failure)


class AsyncSmolVM(_Handle):
    """A :class:`SmolVM` whose methods are awaited.

    Constructing waits the moment that making its files takes; :meth:`create` does not.
    """

    @property
    def files(self) -> AsyncFiles:
        """The guest's files."""
        return AsyncFiles(self._native)

    @classmethod
    async def create(
        cls,
        config: VMConfig | None = None,
        *,
        data_dir: PathLike | None = None,
        backend: str | None = None,
        **options: Any,
    ) -> AsyncSmolVM:
        """Creates a sandbox; the options are those of :class:`VMConfig`."""
        if config is None:
            config = VMConfig(**{"vcpu_count": 1, **options})
        elif options:
            raise ValueError(f"{', '.join(options)}: only without config")
        handle = cls.__new__(cls)
        handle._native = await _native.create(_spec(config, backend), data_dir, BUNDLED)
        handle._is_creator = True
        return handle

    @classmethod
    def from_id(cls, vm_id: str, *, data_dir: PathLike | None = None) -> AsyncSmolVM:
        """Returns a handle on an existing sandbox, of this process or of another."""
        return cls(vm_id=vm_id, data_dir=data_dir)

    async def start(self, boot_timeout: float = 30.0) -> AsyncSmolVM:
        """Starts the sandbox; see :meth:`SmolVM.start`."""
        await self._native.start()
        return self

    async def stop(self, timeout: float = 3.0) -> AsyncSmolVM:
        """Shuts the guest down; see :meth:`SmolVM.stop`."""
        await self._native.stop(timeout)
        return self

    async def pause(self) -> AsyncSmolVM:
        """Holds the sandbox still, with its memory; its forwards are closed."""
        await self._native.pause()
        return self

    async def resume(self) -> AsyncSmolVM:
        """Lets a paused sandbox go on; :meth:`start` does, too."""
        await self._native.resume()
        return self

    async def expose_local(self, guest_port: int, host_port: int | None = None) -> int:
        """Makes a port of the guest reachable on 127.0.0.1, until the sandbox stops or pauses.

        Returns the port on the host: another one than ``host_port`` when that is taken. The same
        pair again is the same port.
        """
        _check_ports(guest_port, host_port)
        return await self._native.forward(guest_port, host_port)

    async def unexpose_local(self, host_port: int, guest_port: int) -> AsyncSmolVM:
        """Closes an exposed port and its connections."""
        _check_ports(guest_port, host_port)
        await self._native.unforward(host_port, guest_port)
        return self

    async def delete(self) -> None:
        """Ends the sandbox and removes its disk."""
        await self._native.delete()

    async def close(self) -> None:
        """Lets go of the sandbox; see :meth:`SmolVM.close`."""
        await self._native.close()

    async def run(
        self,
        command: Command,
        timeout: float = 30,
        shell: str = "login",
        **options: Unpack[RunOptions],
    ) -> CommandResult:
        """Runs a command; see :meth:`SmolVM.run`. Cancelling kills it."""
        return await self._native.run(arguments(command, options, timeout, shell))

    @overload
    async def exec(
        self, command: Command, *, text: Literal[True], **options: Unpack[ExecOptions]
    ) -> AsyncProcess[str]: ...

    @overload
    async def exec(
        self, command: Command, *, text: Literal[False] = False, **options: Unpack[ExecOptions]
    ) -> AsyncProcess[bytes]: ...

    async def exec(
        self, command: Command, *, text: bool = False, **options: Unpack[ExecOptions]
    ) -> AsyncProcess[Any]:
        """Starts a command and returns while it runs; see :meth:`SmolVM.exec`."""
        return AsyncProcess(await self._native.exec(arguments(command, options), text))

    async def set_env_vars(self, env_vars: Mapping[str, str], *, merge: bool = True) -> builtins.list[str]:
        """Sets variables for every login shell from now on. Returns all names present."""
        return await self._native.set_env(dict(env_vars), merge)

    async def unset_env_vars(self, keys: Sequence[str]) -> dict[str, str]:
        """Removes variables. Returns those that were there, with their values."""
        return await self._native.unset_env(list(keys))

    async def list_env_vars(self) -> dict[str, str]:
        """Returns the variables that were set."""
        return await self._native.list_env()

    async def upload_file(self, local_path: PathLike, remote_path: PathLike) -> None:
        """Copies a file of the host into the guest, in constant memory."""
        await self._native.upload_file(local_path, remote_path, True)

    async def download_file(self, remote_path: PathLike, local_path: PathLike) -> Path:
        """Copies a file of the guest to the host, in constant memory."""
        await self._native.download_file(remote_path, local_path)
        return Path(local_path)

    async def __aenter__(self) -> AsyncSmolVM:
        if self._is_creator:
            await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        ending = (self.delete,) if self._is_creator else (self.stop, self.close)
        for step in ending:
            try:
                await step()
            except SmolVMError as failure:
                _warn(self.vm_id, failure)


def _warn(vm_id: str, failure: SmolVMError) -> None:
    import logging

    logging.getLogger("smolvm").warning("VM '%s' not cleaned up: %s", vm_id, failure)


def _check_ports(guest_port: int, host_port: int | None) -> None:
    for name, port in (("guest_port", guest_port), ("host_port", host_port)):
        if port is not None and not 1 <= port <= 65535:
            raise ValueError(f"{name} is {port}; it must be 1 to 65535")


def _one_of(name: str, value: int | None, alias: str, other: int | None) -> int | None:
    if value is not None and other is not None and value != other:
        raise ValueError(f"{name} and {alias} are the same setting; give one of them")
    return other if value is None else value


def _spec(config: VMConfig, backend: str | None) -> _native.Spec:
    is_custom = config.kernel_path is not None or config.rootfs_path is not None
    return {
        "vm_id": config.vm_id,
        "image": config.os,
        "backend": backend or config.backend,
        "vcpus": config.vcpu_count,
        "memory": config.mem_size_mib,
        "disk": config.disk_size_mib,
        "labels": config.labels,
        "idle_timeout": config.idle_timeout,
        "max_lifetime": config.max_lifetime,
        "max_processes": config.max_processes,
        "kernel_path": config.kernel_path,
        "rootfs_path": config.rootfs_path,
        "initrd_path": config.initrd_path,
        "extra_drives": list(config.extra_drives),
        "boot_args": config.boot_args if is_custom else None,
        "is_shared": config.disk_mode == "shared",
        "keeps_disk": config.retain_disk_on_delete,
        "env_vars": config.env_vars,
    }


def vm_info(known: _native.Info) -> VMInfo:
    """Makes a :class:`VMInfo` of what the extension module knows."""
    config = VMConfig(
        vm_id=known["vm_id"],
        vcpu_count=known["vcpus"],
        mem_size_mib=known["memory"],
        disk_size_mib=known["disk"],
        os=known["image"],
        labels=known["labels"],
    )
    return VMInfo(
        vm_id=known["vm_id"],
        status=VMState(known["status"]),
        config=config,
        network=NetworkConfig(),
        reason=known["reason"],
        engine=known["engine"],
        disk_used_bytes=known["disk_used_bytes"],
        created_unix_ms=known["created_unix_ms"],
    )
