"""Commands that outlive the process that started them, as ``vm.jobs``.

A job belongs to the guest. It goes on when whoever started it ends, and its latest output is kept
in the guest. Any process may attach to it by name and say, with a cursor, how much it has seen::

    job = vm.jobs.start("make -j2", name="build")
    ...
    for piece in SmolVM.from_id("box").jobs.get("build").attach(cursor=seen):
        ...
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any

from smolvm import _native
from smolvm.process import Command, arguments
from smolvm.types import JobOutput, JobStatus, ProcessExit

if TYPE_CHECKING:
    import signal as _signal

    from typing_extensions import Unpack

    from smolvm.process import ExecOptions

__all__ = ["AsyncAttachedJob", "AsyncJob", "AsyncJobs", "AttachedJob", "Job", "Jobs"]

#: Bytes of output that are kept of a job unless it is told otherwise.
BUFFER_BYTES = 1024 * 1024


def _encoded(data: str | bytes) -> bytes:
    return data.encode() if isinstance(data, str) else bytes(data)


def _output(stream: str, content: Any, cursor: int) -> JobOutput:
    if stream == "lost":
        return JobOutput(stream, b"", content, cursor)
    return JobOutput(stream, content, 0, cursor)


class _Attached:
    """What both kinds of attachment share: everything that does not wait."""

    def __init__(self, native: _native.AttachedJob, cursor: int) -> None:
        self._attached: _native.AttachedJob | None = native
        self._cursor = cursor
        self._exit: ProcessExit | None = None

    @property
    def _native(self) -> _native.AttachedJob:
        if self._attached is None:
            raise ValueError("this is detached from its job; attach again")
        return self._attached

    @property
    def pid(self) -> int:
        """Its process ID in the guest."""
        return self._native.pid

    @property
    def cursor(self) -> int:
        """How much of its output is known, in bytes of both outputs together."""
        return self._cursor

    @property
    def exit(self) -> ProcessExit | None:
        """How it ended, once all output up to its end was read."""
        return self._exit

    def detach(self) -> None:
        """Lets go of the job, which goes on."""
        self._attached = None

    def _take(self, piece: tuple[str, Any, int]) -> JobOutput | None:
        stream, content, cursor = piece
        if stream == "end":
            self._exit = content
            return None
        self._cursor = cursor
        return _output(stream, content, cursor)


class AttachedJob(_Attached):
    """A job that is listened to. Iterating gives its output until it has ended."""

    def __init__(self, native: _native.AttachedJob, cursor: int) -> None:
        import threading

        super().__init__(native, cursor)
        self._lock = threading.Lock()

    def __iter__(self) -> Iterator[JobOutput]:
        return self

    def __next__(self) -> JobOutput:
        with self._lock:
            output = self._take(self._native.read(self._cursor).wait())
        if output is None:
            raise StopIteration
        return output

    def write(self, data: str | bytes) -> None:
        """Writes to its standard input, and waits while it does not read."""
        self._native.write(_encoded(data)).wait()

    def close_stdin(self) -> None:
        """Ends its standard input, for everybody who is attached."""
        self._native.close_stdin().wait()

    def send_signal(self, signal: int | _signal.Signals) -> None:
        """Sends a signal to it and what it started in its process group."""
        self._native.send_signal(int(signal)).wait()

    def kill(self) -> None:
        """Kills it and everything it started; its output stays."""
        self._native.kill().wait()

    def __enter__(self) -> AttachedJob:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.detach()


class Job:
    """A job by its name, whether or not there is one any more."""

    def __init__(self, sandbox: _native.Sandbox, name: str) -> None:
        self._native = sandbox
        #: Its name in the guest.
        self.name = name

    def attach(self, cursor: int = 0) -> AttachedJob:
        """Listens to it from byte ``cursor`` of its output on."""
        return AttachedJob(_native.attach_job(self._native, self.name, cursor).wait(), cursor)

    def wait(self, timeout: float | None = None) -> ProcessExit:
        """Waits for its end. Raises :class:`OperationTimeoutError` when it goes on for longer."""
        return _native.wait_job(self._native, self.name, timeout).wait()

    def remove(self) -> None:
        """Kills it, if it runs, and forgets its output."""
        _native.remove_job(self._native, self.name).wait()

    def __repr__(self) -> str:
        return f"Job({self.name!r})"


class Jobs:
    """The jobs of one guest."""

    def __init__(self, sandbox: _native.Sandbox) -> None:
        self._native = sandbox

    def start(
        self,
        command: Command,
        *,
        name: str | None = None,
        buffer_bytes: int = BUFFER_BYTES,
        **options: Unpack[ExecOptions],
    ) -> Job:
        """Starts a job: a line for the shell, or a program. It has a random name unless given one.

        The options are those of :meth:`SmolVM.exec`. The last ``buffer_bytes`` of its output are
        kept in the guest's memory, at most 64 MiB of all jobs together.
        """
        asked = arguments(command, options)
        started = _native.start_job(self._native, asked, name, buffer_bytes)
        return Job(self._native, started.wait())

    def get(self, name: str) -> Job:
        """Returns the job of that name, without looking whether there is one."""
        return Job(self._native, name)

    def list(self) -> list[JobStatus]:
        """Returns how all jobs are, ended ones included."""
        return _native.list_jobs(self._native).wait()


class AsyncAttachedJob(_Attached):
    """A job that is listened to, in an event loop; see :class:`AttachedJob`."""

    def __init__(self, native: _native.AttachedJob, cursor: int) -> None:
        # Imported here because importing this package must not take the time of asyncio.
        import asyncio

        super().__init__(native, cursor)
        self._lock = asyncio.Lock()

    def __aiter__(self) -> AsyncIterator[JobOutput]:
        return self

    async def __anext__(self) -> JobOutput:
        async with self._lock:
            output = self._take(await self._native.read(self._cursor))
        if output is None:
            raise StopAsyncIteration
        return output

    async def write(self, data: str | bytes) -> None:
        """Writes to its standard input, and waits while it does not read."""
        await self._native.write(_encoded(data))

    async def close_stdin(self) -> None:
        """Ends its standard input, for everybody who is attached."""
        await self._native.close_stdin()

    async def send_signal(self, signal: int | _signal.Signals) -> None:
        """Sends a signal to it and what it started in its process group."""
        await self._native.send_signal(int(signal))

    async def kill(self) -> None:
        """Kills it and everything it started; its output stays."""
        await self._native.kill()

    async def __aenter__(self) -> AsyncAttachedJob:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.detach()


class AsyncJob:
    """A job by its name; see :class:`Job`."""

    def __init__(self, sandbox: _native.Sandbox, name: str) -> None:
        self._native = sandbox
        #: Its name in the guest.
        self.name = name

    async def attach(self, cursor: int = 0) -> AsyncAttachedJob:
        """Listens to it from byte ``cursor`` of its output on."""
        attached = await _native.attach_job(self._native, self.name, cursor)
        return AsyncAttachedJob(attached, cursor)

    async def wait(self, timeout: float | None = None) -> ProcessExit:
        """Waits for its end; see :meth:`Job.wait`."""
        return await _native.wait_job(self._native, self.name, timeout)

    async def remove(self) -> None:
        """Kills it, if it runs, and forgets its output."""
        await _native.remove_job(self._native, self.name)

    def __repr__(self) -> str:
        return f"AsyncJob({self.name!r})"


class AsyncJobs:
    """The jobs of one guest, in an event loop; see :class:`Jobs`."""

    def __init__(self, sandbox: _native.Sandbox) -> None:
        self._native = sandbox

    async def start(
        self,
        command: Command,
        *,
        name: str | None = None,
        buffer_bytes: int = BUFFER_BYTES,
        **options: Unpack[ExecOptions],
    ) -> AsyncJob:
        """Starts a job; see :meth:`Jobs.start`."""
        asked = arguments(command, options)
        started = await _native.start_job(self._native, asked, name, buffer_bytes)
        return AsyncJob(self._native, started)

    def get(self, name: str) -> AsyncJob:
        """Returns the job of that name, without looking whether there is one."""
        return AsyncJob(self._native, name)

    async def list(self) -> list[JobStatus]:
        """Returns how all jobs are, ended ones included."""
        return await _native.list_jobs(self._native)
