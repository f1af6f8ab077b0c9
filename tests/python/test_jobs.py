"""Jobs: commands that outlive the Python process that started them."""

from __future__ import annotations

import asyncio
import signal
import subprocess
from collections.abc import Callable

import pytest

from smolvm import (
    AsyncSmolVM,
    OperationTimeoutError,
    SmolVM,
    SmolVMError,
)

Python = Callable[[str], "subprocess.CompletedProcess[str]"]


def collected(outputs: list[tuple[str, bytes]], stream: str) -> bytes:
    return b"".join(data for name, data in outputs if name == stream)


def test_job_goes_on_where_a_killed_client_was(vm: SmolVM, python: Python) -> None:
    script = (
        "import os, sys\n"
        "from smolvm import SmolVM\n"
        f"vm = SmolVM.from_id({vm.vm_id!r})\n"
        "line = 'echo one; until test -e /tmp/go; do sleep 0.05; done; echo two; echo no >&2; exit 3'\n"
        "job = vm.jobs.start(line, name='build')\n"
        "for piece in job.attach():\n"
        "    print(piece.cursor, piece.data.decode(), end='', flush=True)\n"
        "    os.kill(os.getpid(), 9)\n"
    )
    client = python(script)
    assert (client.returncode, client.stdout) == (-9, "4 one\n")

    job = vm.jobs.get("build")
    assert [status.exit for status in vm.jobs.list() if status.name == "build"] == [None]
    with pytest.raises(OperationTimeoutError):
        job.wait(timeout=0.01)
    vm.files.write("/tmp/go", "")
    attached = job.attach(cursor=4)
    rest = [(piece.stream, piece.data) for piece in attached]
    assert collected(rest, "stdout") == b"two\n"
    assert collected(rest, "stderr") == b"no\n"
    assert attached.exit is not None
    assert (attached.exit.reason, attached.exit.exit_code) == ("exited", 3)
    assert attached.cursor == 11
    assert job.wait() == attached.exit

    (status,) = [status for status in vm.jobs.list() if status.name == "build"]
    assert (status.exit, status.oldest_byte, status.written_bytes) == (attached.exit, 0, 11)
    job.remove()
    with pytest.raises(SmolVMError, match="no job build"):
        job.attach()


def test_lost_output_is_announced(vm: SmolVM) -> None:
    job = vm.jobs.start(["seq", "1", "5000"], buffer_bytes=1024)
    job.wait()
    lost, *kept = job.attach(cursor=10)
    assert (lost.stream, lost.lost_bytes, lost.data) == ("lost", 23_893 - 1024 - 10, b"")
    assert len(b"".join(piece.data for piece in kept)) == 1024
    assert kept[-1].cursor == 23_893
    job.remove()


def test_attached_client_writes_and_signals(vm: SmolVM) -> None:
    # Waits for the signal itself: a shell's trap does not run while the shell reads.
    program = (
        "import signal, sys\n"
        "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])\n"
        "print('ready', flush=True)\n"
        "print('got', input(), flush=True)\n"
        "signal.sigwait([signal.SIGTERM])\n"
        "print('told', flush=True)\n"
        "sys.exit(4)\n"
    )
    job = vm.jobs.start(["python3", "-c", program], stdin=True)
    with job.attach() as attached:
        assert next(attached).data == b"ready\n"
        attached.write("hello\n")
        assert next(attached).data == b"got hello\n"
        attached.send_signal(signal.SIGTERM)
        assert [piece.data for piece in attached] == [b"told\n"]
    assert attached.exit is not None and attached.exit.exit_code == 4
    with pytest.raises(ValueError, match="attach again"):
        next(attached)
    with pytest.raises(StopIteration):
        next(job.attach(cursor=attached.cursor))
    job.remove()


def test_many_threads_may_read_one_attachment(vm: SmolVM) -> None:
    from concurrent.futures import ThreadPoolExecutor

    job = vm.jobs.start(["seq", "1", "50000"])
    attached = job.attach()
    with ThreadPoolExecutor(4) as pool:
        parts = list(pool.map(lambda _: list(attached), range(4)))
    pieces = sorted((piece for part in parts for piece in part), key=lambda piece: piece.cursor)
    expected = "".join(f"{number}\n" for number in range(1, 50001)).encode()
    assert b"".join(piece.data for piece in pieces) == expected
    job.remove()


def test_bad_jobs_are_refused(vm: SmolVM) -> None:
    first = vm.jobs.start("true", name="first")
    with pytest.raises(SmolVMError, match="already"):
        vm.jobs.start("true", name="first")
    for name in ["", "Upper", "a/b", "x" * 65]:
        with pytest.raises(SmolVMError, match="name of a job"):
            vm.jobs.start("true", name=name)
    for size in [0, 64 * 1024 * 1024 + 1]:
        with pytest.raises(SmolVMError, match="must keep"):
            vm.jobs.start("true", buffer_bytes=size)
    with pytest.raises(SmolVMError, match="cursor"):
        first.attach(cursor=1000)
    first.remove()


def test_event_loop_can_stop_waiting_without_losing_output(vm: SmolVM) -> None:
    async def main() -> None:
        async_vm = AsyncSmolVM.from_id(vm.vm_id)
        line = "echo one; read line; echo two"
        job = await async_vm.jobs.start(line, stdin=True)
        async with await job.attach() as attached:
            assert (await anext(attached)).data == b"one\n"
            for _ in range(3):
                with pytest.raises(asyncio.TimeoutError):
                    await asyncio.wait_for(anext(attached), 0.01)
            await attached.write("\n")
            assert [piece.data async for piece in attached] == [b"two\n"]
        assert (await job.wait()).ok
        assert job.name in [status.name for status in await async_vm.jobs.list()]
        await job.remove()

    asyncio.run(main())
