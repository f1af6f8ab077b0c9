"""Files of the guest, as ``vm.files``."""

from __future__ import annotations

import os
from typing import TypeAlias

from smolvm import _native
from smolvm.types import FileInfo

__all__ = ["AsyncFiles", "Files", "PathLike"]

#: A path of the host or, absolute, of the guest.
PathLike: TypeAlias = "str | os.PathLike[str]"

#: Most bytes that :meth:`Files.read` holds in memory unless it is told otherwise.
MAX_READ_BYTES = 256 * 1024 * 1024


class Files:
    """The files of one guest. Paths of the guest are absolute."""

    def __init__(self, sandbox: _native.Sandbox) -> None:
        self._native = sandbox

    def read(self, path: PathLike, *, max_bytes: int = MAX_READ_BYTES) -> bytes:
        """Returns what is in a file."""
        return self._native.read_file(path, max_bytes).wait()

    def read_text(self, path: PathLike, encoding: str = "utf-8") -> str:
        """Returns what is in a file, as text."""
        return self.read(path).decode(encoding)

    def write(
        self, path: PathLike, content: bytes | str, *, mode: int = 0o644, parents: bool = True
    ) -> None:
        """Writes a file, whole or not at all. Text is written as UTF-8."""
        data = content.encode() if isinstance(content, str) else bytes(content)
        self._native.write_file(path, data, mode, parents).wait()

    def list(self, path: PathLike) -> list[FileInfo]:
        """Returns what is in a directory, by name."""
        entries = self._native.list_directory(path).wait()
        return [FileInfo(**entry) for entry in entries]

    def stat(self, path: PathLike, *, follow_symlinks: bool = True) -> FileInfo:
        """Returns what a file is."""
        return FileInfo(**self._native.stat(path, follow_symlinks).wait())

    def exists(self, path: PathLike) -> bool:
        """Returns whether there is such a file or directory; follows symbolic links."""
        return self._native.exists(path).wait()

    def mkdir(self, path: PathLike, *, mode: int = 0o755, parents: bool = False) -> None:
        """Makes a directory; with ``parents`` also those above it."""
        self._native.make_directory(path, mode, parents).wait()

    def remove(self, path: PathLike, *, recursive: bool = False) -> None:
        """Removes a file or directory; with ``recursive`` one that is not empty."""
        self._native.remove_file(path, recursive).wait()

    def move(
        self, source: PathLike, destination: PathLike, *, overwrite: bool = False
    ) -> None:
        """Gives a file or directory another path on the same file system.

        What is there already is an error, unless it is to be replaced: a file, or a directory
        that is empty.
        """
        self._native.move_file(source, destination, overwrite).wait()

    def upload(self, local_path: PathLike, remote_path: PathLike) -> int:
        """Copies a file or directory into the guest, as ``cp -r`` does. Returns the bytes."""
        return self._native.copy_in(local_path, remote_path).wait()

    def download(self, remote_path: PathLike, local_path: PathLike) -> int:
        """Copies a file or directory to the host, as ``cp -r`` does. Returns the bytes."""
        return self._native.copy_out(remote_path, local_path).wait()


class AsyncFiles:
    """The files of one guest, awaited. Paths of the guest are absolute."""

    def __init__(self, sandbox: _native.Sandbox) -> None:
        self._native = sandbox

    async def read(self, path: PathLike, *, max_bytes: int = MAX_READ_BYTES) -> bytes:
        """Returns what is in a file."""
        return await self._native.read_file(path, max_bytes)

    async def read_text(self, path: PathLike, encoding: str = "utf-8") -> str:
        """Returns what is in a file, as text."""
        return (await self.read(path)).decode(encoding)

    async def write(
        self, path: PathLike, content: bytes | str, *, mode: int = 0o644, parents: bool = True
    ) -> None:
        """Writes a file, whole or not at all. Text is written as UTF-8."""
        data = content.encode() if isinstance(content, str) else bytes(content)
        await self._native.write_file(path, data, mode, parents)

    async def list(self, path: PathLike) -> list[FileInfo]:
        """Returns what is in a directory, by name."""
        entries = await self._native.list_directory(path)
        return [FileInfo(**entry) for entry in entries]

    async def stat(self, path: PathLike, *, follow_symlinks: bool = True) -> FileInfo:
        """Returns what a file is."""
        return FileInfo(**(await self._native.stat(path, follow_symlinks)))

    async def exists(self, path: PathLike) -> bool:
        """Returns whether there is such a file or directory; follows symbolic links."""
        return await self._native.exists(path)

    async def mkdir(self, path: PathLike, *, mode: int = 0o755, parents: bool = False) -> None:
        """Makes a directory; with ``parents`` also those above it."""
        await self._native.make_directory(path, mode, parents)

    async def remove(self, path: PathLike, *, recursive: bool = False) -> None:
        """Removes a file or directory; with ``recursive`` one that is not empty."""
        await self._native.remove_file(path, recursive)

    async def move(
        self, source: PathLike, destination: PathLike, *, overwrite: bool = False
    ) -> None:
        """Gives a file or directory another path on the same file system.

        What is there already is an error, unless it is to be replaced: a file, or a directory
        that is empty.
        """
        await self._native.move_file(source, destination, overwrite)

    async def upload(self, local_path: PathLike, remote_path: PathLike) -> int:
        """Copies a file or directory into the guest, as ``cp -r`` does. Returns the bytes."""
        return await self._native.copy_in(local_path, remote_path)

    async def download(self, remote_path: PathLike, local_path: PathLike) -> int:
        """Copies a file or directory to the host, as ``cp -r`` does. Returns the bytes."""
        return await self._native.copy_out(remote_path, local_path)
