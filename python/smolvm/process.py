"""Running commands: :class:`Process`, and :class:`AsyncProcess` for event loops.

Each output waits for its reader in a buffer of 1 MiB. While that is full the command waits, as it
does with a pipe: read both outputs, ``discard()`` one, or use ``communicate()`` or ``output()``.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, AnyStr, Generic, TypeAlias, TypedDict, cast

from smolvm.types import ProcessExit

if TYPE_CHECKING:
    import os
    import signal as _signal

    from smolvm import _native
    from smolvm._native import Process as NativeProcess

__all__ = [
    "AsyncProcess",
    "AsyncProcessInput",
    "AsyncProcessOutput",
    "Process",
    "ProcessInput",
    "ProcessOutput",
]

#: A line for the guest's shell, or a program and its arguments.
Command: TypeAlias = "str | Sequence[str | os.PathLike[str]]"

#: Asks a process to end (signal(7)).
_SIGTERM = 15

#: Bytes that :meth:`ProcessOutput.chunks` reads at once at most.
CHUNK_BYTES = 64 * 1024


class RunOptions(TypedDict, total=False):
    """How to run a command, beyond the command itself."""

    #: Absolute working directory; the user's home unless given.
    cwd: str | os.PathLike[str]
    #: Variables of this command alone, on top of those of the guest.
    env: Mapping[str, str]
    #: ``name``, ``uid``, ``name:group`` or ``uid:gid``; root unless given.
    user: str
    #: Most memory in MiB of the command and all it starts; more ends in ``out_of_memory``.
    memory: int
    #: Most processors: 0.5 is half of one.
    cpus: float
    #: Most processes and threads.
    max_processes: int


class ExecOptions(RunOptions, total=False):
    """How to start a command, beyond the command itself."""

    #: ``login``, which reads the profile, or ``raw``, of a command that is a line.
    shell: str
    #: Seconds after which it and everything it started are killed.
    timeout: float
    #: Whether there will be input; otherwise its input is empty.
    stdin: bool
    #: Runs it on a terminal, of these rows and columns or of 24 and 80. All its output is then
    #: ``stdout``.
    terminal: bool | tuple[int, int]


def arguments(
    command: Command, options: Mapping[str, Any], timeout: float | None = None, shell: str = "login"
) -> _native.CommandArguments:
    """Returns a command as the extension module takes it."""
    unknown = options.keys() - ExecOptions.__annotations__.keys()
    if unknown:
        raise TypeError(f"unknown options of a command: {', '.join(sorted(unknown))}")
    terminal = options.get("terminal", False)
    size = (24, 80) if terminal is True else terminal or None
    env = options.get("env")
    return {
        "command": command,
        "shell": options.get("shell", shell),
        "timeout": options.get("timeout", timeout),
        "cwd": options.get("cwd"),
        "env": env,
        "user": options.get("user"),
        "stdin": options.get("stdin", False) or size is not None,
        "terminal": size,
        "memory": options.get("memory"),
        "cpus": options.get("cpus"),
        "max_processes": options.get("max_processes"),
    }


def _encoded(data: str | bytes) -> bytes:
    return data.encode() if isinstance(data, str) else bytes(data)


class ProcessOutput(Generic[AnyStr]):
    """What a command writes to one of its outputs. Iterating gives lines with their ends."""

    def __init__(self, native: NativeProcess, name: str) -> None:
        self._native = native
        self._name = name

    def readline(self) -> AnyStr:
        """Returns the next line; nothing at the end. One above 1 MiB comes in pieces."""
        return cast(AnyStr, self._native.read_line(self._name).wait())

    def read(self, max_bytes: int | None = None) -> AnyStr:
        """Returns all the rest; with ``max_bytes`` as soon as there is anything, and at most that.

        Nothing at the end.
        """
        if max_bytes is None:
            return cast(AnyStr, self._native.read_all(self._name).wait())
        return cast(AnyStr, self._native.read(self._name, max_bytes).wait())

    def chunks(self, max_bytes: int = CHUNK_BYTES) -> Iterator[AnyStr]:
        """Gives what arrives as it arrives, without regard to lines."""
        while chunk := self.read(max_bytes):
            yield chunk

    def discard(self) -> None:
        """Has this output dropped from now on."""
        self._native.discard(self._name)

    def __iter__(self) -> Iterator[AnyStr]:
        return self

    def __next__(self) -> AnyStr:
        line = self.readline()
        if not line:
            raise StopIteration
        return line


class ProcessInput:
    """A command's standard input. Text is written as UTF-8."""

    def __init__(self, native: NativeProcess) -> None:
        self._native = native

    def write(self, data: str | bytes) -> None:
        """Writes all of ``data``, and waits while the command does not read it.

        Raises :class:`CommandOverError` when the command is over.
        """
        self._native.write(_encoded(data)).wait()

    def close(self) -> None:
        """Ends the input."""
        self._native.close_stdin().wait()


class _Running:
    """What both kinds of process share: everything that does not wait."""

    _native: NativeProcess

    def __init__(self, native: NativeProcess) -> None:
        self._native = native

    @property
    def pid(self) -> int:
        """Its process ID in the guest."""
        return self._native.pid

    def poll(self) -> ProcessExit | None:
        """Returns how it ended, or ``None`` while it runs."""
        return self._native.poll()

    @property
    def returncode(self) -> int | None:
        """Its exit code, or ``None`` while it runs."""
        end = self._native.poll()
        return None if end is None else end.exit_code

    def __repr__(self) -> str:
        end = self._native.poll()
        state = "running" if end is None else end.reason
        return f"{type(self).__name__}(pid={self.pid}, {state})"


class Process(_Running, Generic[AnyStr]):
    """A running command. It is killed when nothing holds on to it or its outputs any more.

    As a context manager it is killed on leaving, if it still runs.
    """

    def __init__(self, native: NativeProcess) -> None:
        super().__init__(native)
        self.stdin = ProcessInput(native)
        self.stdout: ProcessOutput[AnyStr] = ProcessOutput(native, "stdout")
        self.stderr: ProcessOutput[AnyStr] = ProcessOutput(native, "stderr")

    def output(self) -> Iterator[tuple[str, AnyStr]]:
        """Gives what arrives on either output, each with ``"stdout"`` or ``"stderr"``."""
        while (piece := self._native.read_any().wait()) is not None:
            yield cast("tuple[str, AnyStr]", piece)

    def wait(self, timeout: float | None = None) -> ProcessExit:
        """Waits for its end. Raises :class:`OperationTimeoutError` when it goes on for longer."""
        return self._native.wait(timeout).wait()

    def communicate(
        self, input: str | bytes | None = None, timeout: float | None = None
    ) -> tuple[AnyStr, AnyStr]:
        """Writes ``input``, ends the input, and returns all of both outputs."""
        data = None if input is None else _encoded(input)
        both = self._native.communicate(data, timeout).wait()
        return cast("tuple[AnyStr, AnyStr]", both)

    def send_signal(self, signal: int | _signal.Signals) -> None:
        """Sends a signal to it and what it started in its process group."""
        self._native.send_signal(int(signal)).wait()

    def terminate(self) -> None:
        """Asks it to end: sends SIGTERM."""
        self.send_signal(_SIGTERM)

    def kill(self) -> None:
        """Kills it and everything it started."""
        self._native.kill().wait()

    def resize(self, rows: int, columns: int) -> None:
        """Changes the size of its terminal."""
        self._native.resize(rows, columns).wait()

    def __enter__(self) -> Process[AnyStr]:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stdout.discard()
        self.stderr.discard()
        self.kill()
        self.wait()


class AsyncProcessOutput(Generic[AnyStr]):
    """What a command writes to one of its outputs. Iterating gives lines with their ends."""

    def __init__(self, native: NativeProcess, name: str) -> None:
        self._native = native
        self._name = name

    async def readline(self) -> AnyStr:
        """Returns the next line; nothing at the end. One above 1 MiB comes in pieces."""
        return cast(AnyStr, await self._native.read_line(self._name))

    async def read(self, max_bytes: int | None = None) -> AnyStr:
        """Returns all the rest; with ``max_bytes`` as soon as there is anything, and at most that.

        Nothing at the end.
        """
        if max_bytes is None:
            return cast(AnyStr, await self._native.read_all(self._name))
        return cast(AnyStr, await self._native.read(self._name, max_bytes))

    async def chunks(self, max_bytes: int = CHUNK_BYTES) -> AsyncIterator[AnyStr]:
        """Gives what arrives as it arrives, without regard to lines."""
        while chunk := await self.read(max_bytes):
            yield chunk

    def discard(self) -> None:
        """Has this output dropped from now on."""
        self._native.discard(self._name)

    def __aiter__(self) -> AsyncIterator[AnyStr]:
        return self

    async def __anext__(self) -> AnyStr:
        line = await self.readline()
        if not line:
            raise StopAsyncIteration
        return line


class AsyncProcessInput:
    """A command's standard input. Text is written as UTF-8."""

    def __init__(self, native: NativeProcess) -> None:
        self._native = native

    async def write(self, data: str | bytes) -> None:
        """Writes all of ``data``; see :meth:`ProcessInput.write`."""
        await self._native.write(_encoded(data))

    async def close(self) -> None:
        """Ends the input."""
        await self._native.close_stdin()


class AsyncProcess(_Running, Generic[AnyStr]):
    """A running command whose methods are awaited; see :class:`Process`."""

    def __init__(self, native: NativeProcess) -> None:
        super().__init__(native)
        self.stdin = AsyncProcessInput(native)
        self.stdout: AsyncProcessOutput[AnyStr] = AsyncProcessOutput(native, "stdout")
        self.stderr: AsyncProcessOutput[AnyStr] = AsyncProcessOutput(native, "stderr")

    async def output(self) -> AsyncIterator[tuple[str, AnyStr]]:
        """Gives what arrives on either output, each with ``"stdout"`` or ``"stderr"``."""
        while (piece := await self._native.read_any()) is not None:
            yield cast("tuple[str, AnyStr]", piece)

    async def wait(self, timeout: float | None = None) -> ProcessExit:
        """Waits for its end. Raises :class:`OperationTimeoutError` when it goes on for longer."""
        return await self._native.wait(timeout)

    async def communicate(
        self, input: str | bytes | None = None, timeout: float | None = None
    ) -> tuple[AnyStr, AnyStr]:
        """Writes ``input``, ends the input, and returns all of both outputs."""
        data = None if input is None else _encoded(input)
        return cast("tuple[AnyStr, AnyStr]", await self._native.communicate(data, timeout))

    async def send_signal(self, signal: int | _signal.Signals) -> None:
        """Sends a signal to it and what it started in its process group."""
        await self._native.send_signal(int(signal))

    async def terminate(self) -> None:
        """Asks it to end: sends SIGTERM."""
        await self.send_signal(_SIGTERM)

    async def kill(self) -> None:
        """Kills it and everything it started."""
        await self._native.kill()

    async def resize(self, rows: int, columns: int) -> None:
        """Changes the size of its terminal."""
        await self._native.resize(rows, columns)

    async def __aenter__(self) -> AsyncProcess[AnyStr]:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stdout.discard()
        self.stderr.discard()
        await self.kill()
        await self.wait()
