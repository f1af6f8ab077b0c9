#!/usr/bin/python3
"""Runs one browser session in the guest: Chromium, and in live mode a display people can watch.

    environment ──> Settings ──> display (Xvnc ── window manager, websockify) ──┐
                                 Chromium as `browser`, own sandbox on <────────┤
                                 ffmpeg, from the first page on <───────────────┘

What happens is told on standard output and in launcher.log, one line each:

    set-aside PATH          the profile would not open twice in a row; it is kept there, a new one
                            is used
    ready                   CDP answers on 127.0.0.1:9222; live: noVNC on 6080 and VNC on 5900 too
    out of memory: NAME     the kernel has ended a program of this name, most often a page's
    ended NAME with STATUS  a program has ended by itself, and is started again
    restarted NAME          it is there again; a video goes on in another file
    failed: REASON          the session is over, and the exit code is 1

SIGTERM ends the session: Chromium writes its profile, ffmpeg completes the video, nothing stays
behind, and the exit code is 0. Everything this process waits for is an event: a pipe, a signal,
the end of a process; only a listening socket of a program that announces nothing is tried again.
"""

import asyncio
import contextlib
import fcntl
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass

from browser_chromium import CDP_PORT, RUN, Chromium, ViewportError, write_policy
from browser_dialogs import Dialogs, DialogServer
from browser_downloads import Downloads
from browser_guard import Guard
from browser_kernel import bury_orphans, end_orphans, watch_memory
from browser_pages import Pages
from browser_process import DISPLAY, LOGS, PRCTL, SERVICE_OOM_SCORE, USER, Process, SessionError

ROOT = pathlib.Path("/opt/smolvm-browser")
NOVNC = "/usr/share/novnc"
VNC_PORT = 5900
NOVNC_PORT = 6080

# Rows that Chromium 156 has above the page: tabs and address, which headless it leaves room for
# as well. Where another Chromium has more or fewer, the first start finds out and starts again.
TOOLBAR_ROWS = 87

# What VNC passwords have at most (RFC 6143 §7.2.2): the key of DES.
VNC_PASSWORD_LENGTH = 8

# Seconds. An emulated guest needs 10 for Chromium, and minutes beside several others.
START_PATIENCE = 300

# Of each program. An emulated guest that is busy takes half a minute for one of Chromium's.
RESTARTS = 3
RESTARTS_WITHIN = 300

# linux/prctl.h.
PR_SET_CHILD_SUBREAPER = 36


@dataclass(frozen=True)
class Settings:
    """The session as asked for."""

    is_live: bool
    width: int
    height: int
    records: bool
    allows_downloads: bool
    is_restricted: bool
    profile: str
    session: str
    token: str

    @classmethod
    def from_environment(cls, environment):
        """Returns the session that the variables SMOLVM_BROWSER_… ask for."""

        def value(name, default=None):
            found = environment.get(f"SMOLVM_BROWSER_{name}", default)
            if found is None:
                raise SessionError(f"SMOLVM_BROWSER_{name} is not set")
            return found

        session = value("ID")
        profile = value("PROFILE", session)
        for name in (session, profile):
            if "/" in name or name.startswith(".") or not name:
                raise SessionError(f"{name!r} cannot be the name of a directory")
        is_live = value("MODE", "headless") == "live"
        return cls(
            is_live=is_live,
            width=int(value("WIDTH", "1280")),
            height=int(value("HEIGHT", "720")),
            records=value("RECORD", "0") == "1",
            allows_downloads=value("DOWNLOADS", "1") == "1",
            is_restricted=value("RESTRICTED", "0") == "1",
            profile=profile,
            session=session,
            token=value("TOKEN") if is_live else "",
        )

    @property
    def profile_dir(self):
        return ROOT / "profiles" / self.profile

    @property
    def artifacts_dir(self):
        return ROOT / "artifacts" / self.session

    @property
    def downloads_dir(self):
        return ROOT / "downloads" / self.session


def say(line):
    """Tells the host, and whoever reads the logs."""
    print(line, flush=True)
    if LOGS.is_dir():
        with open(LOGS / "launcher.log", "a") as log:
            log.write(f"{time.strftime('%H:%M:%S')} {line}\n")


def make_directories(settings):
    """Makes what the programs write to."""
    for directory in (settings.artifacts_dir, settings.downloads_dir, LOGS, RUN):
        directory.mkdir(parents=True, exist_ok=True)
    owned = [settings.artifacts_dir]
    if settings.allows_downloads:
        owned.append(settings.downloads_dir)
    for directory in owned:
        os.chown(directory, USER.pw_uid, USER.pw_gid)
        directory.chmod(0o700)
    # noVNC's token and VNC's password are here.
    os.chown(RUN, USER.pw_uid, USER.pw_gid)
    RUN.chmod(0o700)
    if settings.profile_dir.exists() and not settings.profile_dir.is_dir():
        set_aside(settings)
    settings.profile_dir.mkdir(parents=True, exist_ok=True)
    os.chown(settings.profile_dir, USER.pw_uid, USER.pw_gid)
    settings.profile_dir.chmod(0o700)


def set_aside(settings):
    """Keeps the profile under another name."""
    target = settings.profile_dir.with_name(f"{settings.profile}.broken-{time.time_ns()}")
    settings.profile_dir.rename(target)
    say(f"set-aside {target}")


async def listening(port):
    """Returns when something listens on the port, for programs that do not say so."""
    while True:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except ConnectionRefusedError:
            await asyncio.sleep(0.05)
        else:
            writer.close()
            return


class Session:
    """What runs, and in which order it is started and ended."""

    def __init__(self, settings, environment):
        self.settings = settings
        self.environment = environment
        self.toolbar_rows = TOOLBAR_ROWS
        self.services = []
        self.recorder = None
        self.recordings = 0
        self.chromium = None
        self.dialogs = DialogServer()
        # When which program was started again.
        self.restarts = []

    @property
    def rows(self):
        return self.settings.height + self.toolbar_rows

    async def start(self):
        """Starts everything; returns when it can be used."""
        make_directories(self.settings)
        write_policy(self.settings)
        await self.dialogs.start()
        try:
            await self.start_window()
        except ViewportError as error:
            self.toolbar_rows += self.settings.height - error.found
            await self.end_window()
            await self.start_window()
        if self.settings.is_live:
            await listening(NOVNC_PORT)
        if self.settings.records:
            await self.start_recorder()

    async def start_window(self):
        """Starts Chromium, and the display where there is one; the page has its size then."""
        if self.settings.is_live:
            await self.start_display()
        await self.start_chromium()
        await self.chromium.check_viewport(self.settings)

    async def start_display(self):
        """Starts the X server and what shows it; returns when the X server takes clients."""
        settings = self.settings
        password = subprocess.run(
            ["tigervncpasswd", "-f"],
            input=settings.token[:VNC_PASSWORD_LENGTH].encode() + b"\n",
            stdout=subprocess.PIPE,
            check=True,
        )
        write_private(RUN / "vnc-password", password.stdout)
        write_private(RUN / "token", f"{settings.token}: 127.0.0.1:{VNC_PORT}\n".encode())
        # Left by a display whose machine was killed: its process ID may be another's now.
        for path in (f"/tmp/.X{DISPLAY[1:]}-lock", f"/tmp/.X11-unix/X{DISPLAY[1:]}"):
            pathlib.Path(path).unlink(missing_ok=True)
        ready_read, ready_write = os.pipe()
        display = await Process.start(
            "vnc",
            "Xtigervnc", DISPLAY, "-displayfd", str(ready_write), "-geometry",
            f"{settings.width}x{self.rows}", "-depth", "24", "-noreset", "-nolisten", "tcp",
            "-rfbport", str(VNC_PORT), "-localhost=1", "-SecurityTypes=VncAuth",
            f"-PasswordFile={RUN}/vnc-password", "-desktop", settings.session, "-AlwaysShared",
            # The page keeps the size that was asked for.
            "-AcceptSetDesktopSize=0",
            # All viewers come from one address: one that guesses would lock all out.
            "-UseBlacklist=0",
            pass_fds=(ready_write,),
        )  # fmt: skip
        self.services.append(display)
        os.close(ready_write)
        await started(display, ready_read)
        await self.start_service("window-manager")
        await self.start_service("websockify")

    async def start_service(self, name):
        """Starts what the display needs besides the X server."""
        commands = {
            "window-manager": "matchbox-window-manager -use_titlebar no -use_cursor yes".split(),
            "websockify": [
                "python3", "-m", "websockify", "--web", NOVNC, "--token-plugin", "TokenFile",
                "--token-source", str(RUN / "token"), f"127.0.0.1:{NOVNC_PORT}",
            ],
        }  # fmt: skip
        self.services.append(await Process.start(name, *commands[name]))

    async def start_chromium(self):
        """Starts Chromium; a profile that it does not open twice in a row is set aside."""
        settings = self.settings
        had_profile = any(settings.profile_dir.iterdir())
        for attempt in (1, 2, 3):
            try:
                self.chromium = await Chromium.start(settings, self.rows, self.environment)
                await self.chromium.drawn()
                await self.watch_pages()
                if settings.allows_downloads:
                    await Downloads(self.chromium, settings.downloads_dir).start()
                await listening(CDP_PORT)
                return
            except SessionError:
                await self.chromium.end()
                if attempt == 3 or not had_profile:
                    raise
            if attempt == 2:
                set_aside(settings)
                make_directories(settings)

    async def watch_pages(self):
        """Sees what the pages do that nobody else has to see."""
        dialogs = Dialogs(self.chromium)
        watchers = [dialogs]
        if self.settings.is_restricted:
            watchers.append(Guard(self.chromium))
        await Pages(self.chromium, watchers).start()
        self.dialogs.dialogs = dialogs

    async def start_recorder(self):
        """Starts a video; returns when its first frame is taken."""
        settings = self.settings
        self.recordings += 1
        number = f"-{self.recordings}" if self.recordings > 1 else ""
        first_read, first_write = os.pipe()
        self.recorder = await Process.start(
            "ffmpeg",
            "ffmpeg", "-nostdin", "-y", "-loglevel", "warning", "-stats_period", "0.5",
            "-progress", f"pipe:{first_write}",
            # H.264 in the colours that every player knows has even sizes.
            "-f", "x11grab", "-framerate", "12", "-draw_mouse", "1", "-video_size",
            f"{settings.width & ~1}x{settings.height & ~1}", "-i",
            f"{DISPLAY}+0,{self.toolbar_rows}",
            "-fps_mode", "vfr", "-c:v", "libx264", "-preset", "ultrafast", "-pix_fmt", "yuv420p",
            # Written piece by piece, a video that is cut off can be played up to there.
            "-force_key_frames", "expr:gte(t,n_forced*5)", "-movflags", "+frag_keyframe+empty_moov+default_base_moof",
            "-flush_packets", "1",
            str(settings.artifacts_dir / f"session{number}.mp4"),
            pass_fds=(first_write,),
        )  # fmt: skip
        os.close(first_write)
        await started(self.recorder, first_read)

    async def watch(self):
        """Starts again what ends; returns never."""
        watch_memory(say)
        asyncio.get_running_loop().add_signal_handler(signal.SIGCHLD, bury_orphans, Process.started)
        while True:
            parts = [*self.services, self.chromium.process]
            if self.recorder is not None:
                parts.append(self.recorder)
            ends = {asyncio.ensure_future(part.running.wait()): part for part in parts}
            done, waiting = await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            for end in waiting:
                end.cancel()
            for end in done:
                await self.restart(ends[end], end.result())

    async def restart(self, part, status):
        """Starts a program again that has ended, but not over and over."""
        name = part.name
        if name == "vnc":
            # Chromium ends with its display.
            raise SessionError(f"{name} ended with {status}")
        now = time.monotonic()
        recent = [entry for entry in self.restarts if now - entry[0] < RESTARTS_WITHIN]
        self.restarts = [*recent, (now, name)]
        times = sum(what == name for _, what in self.restarts)
        if times > RESTARTS:
            minutes = RESTARTS_WITHIN // 60
            raise SessionError(f"{name} ended {times} times within {minutes} minutes")
        say(f"ended {name} with {status}")
        # What it has started goes as well.
        await part.end()
        if part is self.chromium.process:
            await self.chromium.end()
            await asyncio.wait_for(self.start_chromium(), START_PATIENCE)
            # Its page answers; that it has its size was seen before.
            with contextlib.suppress(ViewportError):
                await asyncio.wait_for(self.chromium.check_viewport(self.settings), START_PATIENCE)
        elif part is self.recorder:
            await asyncio.wait_for(self.start_recorder(), START_PATIENCE)
        else:
            self.services.remove(part)
            await self.start_service(name)
            if name == "websockify":
                await asyncio.wait_for(listening(NOVNC_PORT), START_PATIENCE)
        say(f"restarted {name}")

    async def end(self):
        """Ends everything, what was started last first."""
        self.dialogs.end()
        await self.end_window()

    async def end_window(self):
        """Ends all programs."""
        if self.recorder is not None:
            # Interrupted, ffmpeg completes its file (ffmpeg(1)).
            await self.recorder.end(signal.SIGINT)
        if self.chromium is not None:
            await self.chromium.end()
        for service in reversed(self.services):
            await service.end()
        self.services, self.recorder, self.chromium = [], None, None


def write_private(path, content):
    """Writes a file that only `browser` can read."""
    path.touch(mode=0o600)
    os.chown(path, USER.pw_uid, USER.pw_gid)
    path.write_bytes(content)


class FirstOutput(asyncio.Protocol):
    """Waits for the first output of a process on a pipe, and lets go of all that follows."""

    def __init__(self):
        self.came = asyncio.get_running_loop().create_future()

    def data_received(self, data):
        if not self.came.done():
            self.came.set_result(True)

    def connection_lost(self, error):
        if not self.came.done():
            self.came.set_result(False)


async def started(process, descriptor):
    """Returns when the process has written to the pipe, as it does when it works."""
    pipe = os.fdopen(descriptor, "rb", 0)
    _, output = await asyncio.get_running_loop().connect_read_pipe(FirstOutput, pipe)
    if not await output.came:
        raise SessionError(f"{process.name} did not start, see {LOGS}/{process.name}.log")


async def run(settings, environment):
    """Runs the session until it is told to end, or fails."""
    session = Session(settings, environment)
    try:
        await asyncio.wait_for(session.start(), START_PATIENCE)
        say("ready")
        await session.watch()
    except TimeoutError:
        raise SessionError(f"chromium did not answer within {START_PATIENCE} s") from None
    finally:
        await session.end()


async def run_until_told(settings, environment):
    """Runs the session; SIGTERM and SIGINT end it."""
    work = asyncio.ensure_future(run(settings, environment))
    loop = asyncio.get_running_loop()
    told = []

    def end(number):
        # Told twice, the end goes on as it is: it is bounded.
        if not told:
            told.append(number)
            work.cancel()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, end, number)
    try:
        await work
    except asyncio.CancelledError:
        pass


def main():
    """Returns the exit code."""
    PRCTL(PR_SET_CHILD_SUBREAPER, 1)
    pathlib.Path("/proc/self/oom_score_adj").write_text(str(SERVICE_OOM_SCORE))
    lock = open("/run/smolvm-browser.lock", "w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        settings = Settings.from_environment(os.environ)
        variables = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith("SMOLVM_BROWSER_") and name not in ("HOME", "USER", "PATH")
        }
        # There is no bus: saying so saves Chromium the search.
        variables |= {"DBUS_SESSION_BUS_ADDRESS": "disabled:"}
        asyncio.run(run_until_told(settings, variables))
    except BlockingIOError:
        say("failed: a session runs in this guest already")
        return 1
    except (OSError, SessionError, ValueError, subprocess.SubprocessError) as error:
        say(f"failed: {error}")
        return 1
    finally:
        end_orphans()
        shutil.rmtree(RUN, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
