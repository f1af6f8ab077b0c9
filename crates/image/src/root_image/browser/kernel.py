"""What the session asks of the kernel: places to write to, word of memory that runs out, orphans."""

import asyncio
import ctypes
import os
import pathlib
import re
import signal

# What the kernel says of a process that it ends for its memory (Linux mm/oom_kill.c,
# `__oom_kill_process`).
OOM_LINE = re.compile(r"ut of memory.*: Killed process [0-9]+ \((.*?)\)")

# linux/sched.h and linux/mount.h.
CLONE_NEWNS = 0x20000
MS_RDONLY, MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = 0x1, 0x20, 0x1000, 0x4000, 0x40000

LIBC = ctypes.CDLL(None, use_errno=True)


def checked(outcome):
    """Raises when a function of the C library has failed."""
    if outcome != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def write_only_to(directories):
    """Lets this process, and what it starts, write to these directories alone.

    Other file systems stay as they are: those of devices, /run and shared memory.
    """

    def mount(source, target, flags):
        checked(LIBC.mount(source.encode(), target.encode(), None, ctypes.c_ulong(flags), None))

    checked(LIBC.unshare(CLONE_NEWNS))
    mount("none", "/", MS_REC | MS_PRIVATE)
    for directory in directories:
        mount(str(directory), str(directory), MS_BIND)
    mount("none", "/", MS_REMOUNT | MS_BIND | MS_RDONLY)


def watch_memory(say):
    """Has it said from now on what the kernel ends for its memory."""
    log = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK)
    os.lseek(log, 0, os.SEEK_END)

    def read():
        while True:
            try:
                record = os.read(log, 8192)
            except BlockingIOError:
                return
            except BrokenPipeError:
                # Records were overwritten before they were read (Linux
                # Documentation/ABI/testing/dev-kmsg).
                continue
            found = OOM_LINE.search(record.decode("utf-8", "replace"))
            if found is not None:
                say(f"out of memory: {found[1]}")

    asyncio.get_running_loop().add_reader(log, read)


def children():
    """Returns the process IDs of our children, also of dead ones."""
    found = pathlib.Path(f"/proc/self/task/{os.getpid()}/children").read_text()
    return [int(child) for child in found.split()]


def bury_orphans(started):
    """Takes leave of the dead among what programs of the session have left: they are ours now.

    For the end of those that were started here, asyncio waits.
    """
    for child in children():
        if child not in started:
            try:
                os.waitpid(child, os.WNOHANG)
            except ChildProcessError:
                pass


def end_orphans():
    """Ends what programs of the session have started and left: it is ours now."""
    while orphans := children():
        for child in orphans:
            try:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
            except (ProcessLookupError, ChildProcessError):
                # asyncio's own waiting has seen its end first.
                pass
