"""The programs of a session, and how they are started and ended."""

import asyncio
import ctypes
import os
import pathlib
import pwd
import signal
import subprocess
import sys

from browser_kernel import write_only_to

LOGS = pathlib.Path("/var/log/smolvm-browser")
USER = pwd.getpwnam("browser")
DISPLAY = ":99"

# Seconds.
END_PATIENCE = 20

# Memory runs out: a page goes first (Chromium gives renderers +300), then Chromium, and never what
# tells the host about it (proc_pid_oom_score_adj(5)).
SERVICE_OOM_SCORE = -500

# linux/prctl.h.
PR_SET_PDEATHSIG = 1
PRCTL = ctypes.CDLL(None, use_errno=True).prctl


class SessionError(Exception):
    """The session cannot go on."""


class Process:
    """A program of the session, run as `browser` in a process group of its own."""

    # The process IDs of all that were started, for whose end asyncio waits.
    started = set()

    def __init__(self, name, running):
        self.name = name
        self.running = running

    @classmethod
    async def start(
        cls, name, *command, environment=(), oom_score=SERVICE_OOM_SCORE, writes_to=None, **options
    ):
        def before_exec():
            if writes_to is not None:
                write_only_to(writes_to)
            # The score can be raised by everybody, but lowered by root only.
            pathlib.Path("/proc/self/oom_score_adj").write_text(str(oom_score))
            os.setgroups([])
            os.setgid(USER.pw_gid)
            os.setuid(USER.pw_uid)
            # After the change of user, which would reset it (prctl(2)).
            PRCTL(PR_SET_PDEATHSIG, signal.SIGKILL)

        variables = {"PATH": "/usr/bin:/bin", "HOME": USER.pw_dir, "USER": "browser"}
        variables |= {"LANG": "C.UTF-8", "DISPLAY": DISPLAY, **dict(environment)}
        with open(LOGS / f"{name}.log", "ab") as log:
            running = await asyncio.create_subprocess_exec(
                *command,
                env=variables,
                cwd=USER.pw_dir,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=before_exec,
                **options,
            )
        cls.started.add(running.pid)
        return cls(name, running)

    def send(self, number):
        """Sends a signal to the program, if it still runs."""
        if self.running.returncode is None:
            self.running.send_signal(number)

    async def end(self, number=signal.SIGTERM):
        """Ends the program with the signal, and its whole group with it."""
        self.send(number)
        try:
            await asyncio.wait_for(self.running.wait(), END_PATIENCE)
        except TimeoutError:
            print(f"{self.name} did not end and is killed", file=sys.stderr)
        try:
            os.killpg(self.running.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        await self.running.wait()
