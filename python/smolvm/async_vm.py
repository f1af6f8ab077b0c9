"""Sandboxes for event loops: :class:`AsyncSmolVM`."""

from __future__ import annotations

import builtins
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, overload

from smolvm import _native
from smolvm.exceptions import OperationTimeoutError, SmolVMError, ValidationError
from smolvm.files import AsyncFiles, PathLike
from smolvm.handle import BUNDLED, Handle, check_ports, native_spec, vm_info, warn
from smolvm.jobs import AsyncJobs
from smolvm.network import AsyncNetwork
from smolvm.process import AsyncProcess, Command, arguments
from smolvm.types import CommandResult, VMConfig, VMInfo

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from smolvm.browser import AsyncBrowserSession
    from smolvm.process import ExecOptions, RunOptions

__all__ = ["AsyncSmolVM"]


class AsyncSmolVM(Handle):
    """A :class:`SmolVM` whose methods are awaited.

    Constructing waits the moment that making its files takes; :meth:`create` does not.
    """

    @property
    def files(self) -> AsyncFiles:
        """The guest's files."""
        return AsyncFiles(self._native)

    @property
    def jobs(self) -> AsyncJobs:
        """The guest's jobs: commands that outlive this process."""
        return AsyncJobs(self._native)

    @property
    def network(self) -> AsyncNetwork:
        """What it may reach and has reached."""
        return AsyncNetwork(self._native)

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
            raise ValidationError(f"{', '.join(options)}: only without config")
        handle = cls.__new__(cls)
        spec = native_spec(config, backend)
        handle._native = (await _native.create(spec, data_dir, BUNDLED)).take()
        handle._is_creator = True
        return handle

    @classmethod
    def from_id(cls, vm_id: str, *, data_dir: PathLike | None = None) -> AsyncSmolVM:
        """Returns a handle on an existing sandbox, of this process or of another."""
        # Not the constructor, for which no name means a new sandbox.
        handle = cls.__new__(cls)
        handle._open(vm_id, data_dir)
        return handle

    @staticmethod
    def list(
        *, labels: Mapping[str, str] | None = None, data_dir: PathLike | None = None
    ) -> list[VMInfo]:
        """Returns all sandboxes, by name; with ``labels`` those that have all of them."""
        known = _native.list(data_dir, BUNDLED, dict(labels or {}))
        return [vm_info(sandbox) for sandbox in known]

    @staticmethod
    def browser(
        *, headless: bool = True, data_dir: PathLike | None = None, **options: Any
    ) -> AsyncBrowserSession:
        """Returns a new session of Chromium in a sandbox of its own, which ``async with`` starts.

        The options are those of :class:`BrowserSessionConfig`; without ``headless`` people can
        watch.
        """
        from smolvm.browser import AsyncBrowserSession
        from smolvm.browser_config import BrowserSessionConfig

        config = BrowserSessionConfig(**{"mode": "headless" if headless else "live", **options})
        return AsyncBrowserSession(config, data_dir=data_dir)

    @property
    def info(self) -> VMInfo:
        """What is known of the sandbox now, without asking it: ``pid`` is absent."""
        return vm_info(self._native.info())

    async def full_info(self) -> VMInfo:
        """What is known of the sandbox now, with ``pid``."""
        return vm_info(await self._native.full_info())

    async def refresh(self) -> AsyncSmolVM:
        """Checks that the sandbox exists; ``info`` and ``status`` are always current."""
        self._native.info()
        return self

    async def wait_for_ready(self, timeout: float = 60.0) -> AsyncSmolVM:
        """Waits until the sandbox takes commands, which is when :meth:`start` returns."""
        if not (await self.run("true", timeout, "raw")).ok:
            raise OperationTimeoutError("wait_for_ready", timeout)
        return self

    async def wait_for_ssh(self, timeout: float = 60.0) -> AsyncSmolVM:
        """The older name of :meth:`wait_for_ready`."""
        return await self.wait_for_ready(timeout)

    async def start(self, boot_timeout: float | None = None) -> AsyncSmolVM:
        """Starts the sandbox; see :meth:`SmolVM.start`."""
        await self._native.start(boot_timeout)
        return self

    async def stop(self, timeout: float = 3.0) -> AsyncSmolVM:
        """Shuts the guest down; see :meth:`SmolVM.stop`."""
        await self._native.stop(timeout)
        return self

    async def pause(self) -> AsyncSmolVM:
        """Holds the sandbox still, with its memory; its ports are closed until it goes on."""
        await self._native.pause()
        return self

    async def resume(self) -> AsyncSmolVM:
        """Lets a paused sandbox go on; :meth:`start` does, too."""
        await self._native.resume()
        return self

    async def expose_local(self, guest_port: int, host_port: int | None = None) -> int:
        """Makes a port of the guest reachable on 127.0.0.1, until the sandbox stops.

        Returns the port on the host: another one than ``host_port`` when that is taken. The same
        pair again is the same port.
        """
        check_ports(guest_port, host_port)
        return await self._native.forward(guest_port, host_port)

    async def unexpose_local(self, host_port: int, guest_port: int) -> AsyncSmolVM:
        """Closes an exposed port and its connections."""
        check_ports(guest_port, host_port)
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
        return await self._native.set_env(env_vars, merge)

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
                warn(self.vm_id, failure)
