"""The names that newer clients await on a :class:`SmolVM` itself."""

from __future__ import annotations

import builtins
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, TypeVar

from smolvm import _native
from smolvm.exceptions import OperationTimeoutError, SmolVMError
from smolvm.files import PathLike
from smolvm.handle import BUNDLED, Handle, native_spec, warn
from smolvm.process import Command, arguments
from smolvm.types import CommandResult, VMConfig

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from smolvm.process import RunOptions

__all__ = ["AwaitedNames"]

_Self = TypeVar("_Self", bound="AwaitedNames")


class AwaitedNames(Handle):
    """``async_start`` and the like: awaited, and otherwise as without the prefix."""

    async def async_start(self: _Self, boot_timeout: float | None = None) -> _Self:
        """Starts the sandbox and waits until it takes commands."""
        await self._native.start(boot_timeout)
        return self

    async def async_stop(self: _Self, timeout: float = 3.0) -> _Self:
        """Shuts the guest down."""
        await self._native.stop(timeout)
        return self

    async def async_pause(self: _Self) -> _Self:
        """Holds the sandbox still."""
        await self._native.pause()
        return self

    async def async_resume(self: _Self) -> _Self:
        """Lets a paused sandbox go on."""
        await self._native.resume()
        return self

    async def async_delete(self) -> None:
        """Ends the sandbox and removes its disk."""
        await self._native.delete()

    async def async_close(self) -> None:
        """Lets go of the sandbox."""
        await self._native.close()

    async def async_run(
        self,
        command: Command,
        timeout: float = 30,
        shell: str = "login",
        **options: Unpack[RunOptions],
    ) -> CommandResult:
        """Runs a command. Cancelling kills it."""
        return await self._native.run(arguments(command, options, timeout, shell))

    async def async_upload_file(self, local_path: PathLike, remote_path: PathLike) -> None:
        """Copies a file of the host into the guest."""
        await self._native.upload_file(local_path, remote_path, True)

    async def async_download_file(self, remote_path: PathLike, local_path: PathLike) -> Path:
        """Copies a file of the guest to the host."""
        await self._native.download_file(remote_path, local_path)
        return Path(local_path)

    async def async_wait_for_ready(self: _Self, timeout: float = 60.0) -> _Self:
        """Waits until the sandbox takes commands."""
        if not (await self.async_run("true", timeout, "raw")).ok:
            raise OperationTimeoutError("wait_for_ready", timeout)
        return self

    async def async_wait_for_ssh(self: _Self, timeout: float = 60.0) -> _Self:
        """The older name of :meth:`async_wait_for_ready`."""
        return await self.async_wait_for_ready(timeout)

    @classmethod
    async def async_create_many(
        cls: type[_Self],
        configs: Sequence[VMConfig],
        boot_timeout: float | None = 60.0,
        concurrency: int | None = None,
        *,
        data_dir: PathLike | None = None,
        backend: str | None = None,
    ) -> builtins.list[_Self]:
        """Creates and starts sandboxes side by side, all or none of them.

        At most ``concurrency`` start at a time.
        """
        # Here, as it takes longer to import than all of this package.
        import asyncio

        room = asyncio.Semaphore(concurrency or max(len(configs), 1))

        async def one(config: VMConfig) -> _Self:
            async with room:
                handle = cls.__new__(cls)
                spec = native_spec(config, backend)
                handle._native = (await _native.create(spec, data_dir, BUNDLED)).take()
                handle._is_creator = True
                made.append(handle)
                return await handle.async_start(boot_timeout)

        made: builtins.list[_Self] = []
        tasks = [asyncio.ensure_future(one(config)) for config in configs]
        try:
            return list(await asyncio.gather(*tasks))
        except BaseException:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            deletions = [handle.async_delete() for handle in made]
            await asyncio.gather(*deletions, return_exceptions=True)
            raise

    async def __aenter__(self: _Self) -> _Self:
        if self._is_creator:
            await self.async_start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        ending = (
            (self.async_delete,) if self._is_creator else (self.async_stop, self.async_close)
        )
        for step in ending:
            try:
                await step()
            except SmolVMError as failure:
                warn(self.vm_id, failure)
