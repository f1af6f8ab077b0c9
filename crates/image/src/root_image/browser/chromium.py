"""A running Chromium, and what it is told when it is started."""

import asyncio
import contextlib
import json
import os
import pathlib
import sys

from browser_process import DISPLAY, END_PATIENCE, LOGS, USER, Process, SessionError

RUN = pathlib.Path("/run/smolvm-browser")
POLICY = pathlib.Path("/etc/chromium/policies/managed/smolvm.json")
CHROMIUM = "/usr/lib/chromium/chromium"
CDP_PORT = 9222

# The discard service's port (RFC 863), which the guest does not offer.
NOBODY = "http://127.0.0.1:9/"

# How often a picture may fail until there is one, a tenth of a second apart.
DRAWING_ATTEMPTS = 100

# What speaks to Chromium's makers, or looks for devices in the network.
DISABLED_FEATURES = [
    "AimEnabled",
    "MediaRouter",
    "NetworkTimeServiceQuerying",
    "OptimizationGuideModelExecution",
    "OptimizationGuideOnDeviceModel",
    "OptimizationHints",
    "PreconnectToSearch",
    "Translate",
]


class ViewportError(Exception):
    """The page has another height than was asked for."""

    def __init__(self, found):
        super().__init__(f"the page has {found} rows")
        self.found = found


class Chromium:
    """A running Chromium, spoken to through the pipe of --remote-debugging-pipe.

    The pipe is CDP, one message to each zero byte. Chromium ends when it is closed, so it cannot
    outlive this process.
    """

    def __init__(self, process, reader, writer):
        self.process = process
        self.writer = writer
        self.last_id = 0
        # Calls that wait for their answers.
        self.calls = {}
        # Work that its events have begun.
        self.work = set()
        # Who hears of its events.
        self.listeners = []
        self.listening = asyncio.ensure_future(self.listen(reader))

    @classmethod
    async def start(cls, settings, rows, environment):
        """Starts Chromium on the profile, with a window of so many rows."""
        # Left by a Chromium whose machine was killed; another can hold the profile no more,
        # because two sessions cannot run in one guest.
        for name in ("SingletonLock", "SingletonCookie", "SingletonSocket"):
            # A directory is none of Chromium's, which will say so.
            with contextlib.suppress(IsADirectoryError):
                (settings.profile_dir / name).unlink(missing_ok=True)
        commands_read, commands_write = os.pipe()
        answers_read, answers_write = os.pipe()
        process = await Process.start(
            "chromium",
            # Chromium reads commands from descriptor 3 and writes answers to descriptor 4.
            "/bin/bash", "-c", f'exec "$@" 3<&{commands_read} 4>&{answers_write}', "bash",
            *chromium_command(settings, rows),
            environment={"TMPDIR": str(RUN), **dict(environment)},
            oom_score=0,
            # Whoever drives Chromium may tell it where to save files, whatever its policy says;
            # so where none shall be, there is no place for them.
            writes_to=None if settings.allows_downloads else (settings.profile_dir, USER.pw_dir),
            pass_fds=(commands_read, answers_write),
        )  # fmt: skip
        os.close(commands_read)
        os.close(answers_write)
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(limit=1 << 24)
        protocol = asyncio.StreamReaderProtocol(reader)
        await loop.connect_read_pipe(lambda: protocol, os.fdopen(answers_read, "rb", 0))
        writer = os.fdopen(commands_write, "wb", 0)
        return cls(process, reader, writer)

    async def listen(self, reader):
        """Hands answers to whoever waits for them, and events to the listeners, until the end."""
        try:
            while True:
                message = json.loads((await reader.readuntil(b"\0"))[:-1])
                call = self.calls.pop(message.get("id"), None)
                if call is not None and not call.done():
                    call.set_result(message)
                elif "method" in message:
                    for listener in self.listeners:
                        self.begin(listener.heard(message))
        except asyncio.IncompleteReadError:
            pass
        finally:
            for call in self.calls.values():
                call.cancel()
            self.calls.clear()
            for work in self.work:
                work.cancel()

    def begin(self, work):
        """Has the work done beside what else goes on."""

        async def done():
            try:
                await work
            except SessionError as error:
                # Most often, the page that it was about is gone.
                print(error, file=sys.stderr)

        task = asyncio.ensure_future(done())
        self.work.add(task)
        task.add_done_callback(self.work.discard)

    async def call(self, method, session=None, **parameters):
        """Returns the result of a CDP method."""
        ended = SessionError(f"chromium ended, see {LOGS}/chromium.log")
        if self.listening.done():
            raise ended
        self.last_id += 1
        message = {"id": self.last_id, "method": method, "params": parameters}
        if session is not None:
            message["sessionId"] = session
        call = self.calls[self.last_id] = asyncio.get_running_loop().create_future()
        try:
            self.writer.write(json.dumps(message).encode() + b"\0")
            # Waited for as a group, the end of the call is not taken for that of its caller.
            await asyncio.wait([call])
        except BrokenPipeError:
            raise ended from None
        if call.cancelled():
            raise ended
        answer = call.result()
        if "error" in answer:
            raise SessionError(f"chromium refused {method}: {answer['error']['message']}")
        return answer["result"]

    async def page(self):
        """Returns the target of the first page, and makes one where there is none."""
        targets = (await self.call("Target.getTargets"))["targetInfos"]
        pages = [target["targetId"] for target in targets if target["type"] == "page"]
        if pages:
            return pages[0]
        return (await self.call("Target.createTarget", url="about:blank"))["targetId"]

    @contextlib.asynccontextmanager
    async def attached_page(self):
        """Has a CDP session with the first page."""
        attached = await self.call(
            "Target.attachToTarget", targetId=await self.page(), flatten=True
        )
        yield attached["sessionId"]
        await self.call("Target.detachFromTarget", sessionId=attached["sessionId"])

    async def drawn(self):
        """Returns when there are pictures of the page: first of all, the process that draws has to
        find that there is no graphics card, and start again without."""
        async with self.attached_page() as session:
            for attempt in range(DRAWING_ATTEMPTS):
                try:
                    await self.call("Page.captureScreenshot", session, format="jpeg", quality=1)
                    return
                except SessionError:
                    if self.listening.done() or attempt + 1 == DRAWING_ATTEMPTS:
                        raise
                    await asyncio.sleep(0.1)

    async def check_viewport(self, settings):
        """Raises unless the page has the height asked for."""
        async with self.attached_page() as session:
            found = await self.call("Runtime.evaluate", session, expression="innerHeight")
        if found["result"]["value"] != settings.height:
            raise ViewportError(found["result"]["value"])

    async def end(self):
        """Has Chromium write its profile and end."""
        if self.process.running.returncode is None:
            try:
                await asyncio.wait_for(self.call("Browser.close"), END_PATIENCE)
                await asyncio.wait_for(self.process.running.wait(), END_PATIENCE)
            except (SessionError, TimeoutError):
                pass
        await self.process.end()
        self.listening.cancel()
        self.writer.close()


def chromium_command(settings, rows):
    """Returns Chromium's command line."""
    return [
        CHROMIUM,
        "--ozone-platform=x11" if settings.is_live else "--headless=new",
        # Of the whole display: the window manager gives a window no other size.
        "--window-position=0,0",
        f"--window-size={settings.width},{rows}",
        # The host reaches it through a port forward, and nobody else does.
        f"--remote-debugging-port={CDP_PORT}",
        "--remote-debugging-address=127.0.0.1",
        "--remote-debugging-pipe",
        f"--user-data-dir={settings.profile_dir}",
        # Nobody is there to answer questions.
        "--no-first-run",
        "--no-default-browser-check",
        "--hide-crash-restore-bubble",
        # There is no keyring, and waiting for one takes seconds.
        "--password-store=basic",
        # There is no graphics card: pages are drawn in software, and what they draw with WebGL is
        # by SwiftShader, which is one more thing that a page may attack, in this machine.
        "--disable-gpu",
        "--enable-unsafe-swiftshader",
        # A page that nobody looks at works as fast as one that somebody does.
        "--disable-background-timer-throttling",
        "--disable-backgrounding-occluded-windows",
        "--disable-renderer-backgrounding",
        # A page that was left is loaded again when one goes back to it: out of the cache of whole
        # pages it comes without the events of a load, which clients wait for.
        "--disable-back-forward-cache",
        # Questions that are asked by windows, which no client of CDP sees.
        "--disable-hang-monitor",
        "--disable-prompt-on-repost",
        # What speaks to Chromium's makers unasked: the guest may have no network, and what the
        # session contacts shall be what its pages contact. The policy has more of it.
        "--disable-background-networking",
        "--disable-component-extensions-with-background-pages",
        "--disable-component-update",
        "--disable-default-apps",
        "--disable-domain-reliability",
        "--disable-sync",
        "--disable-breakpad",
        f"--disable-features={','.join(DISABLED_FEATURES)}",
        # Pictures of a page that is behind another.
        "--enable-features=CDPScreenshotNewSurface",
        # Where they have no switch, to a port that nobody listens on: the list of accounts that
        # are signed in to the browser itself, and new versions of its parts.
        f"--gaia-url={NOBODY}",
        f"--component-updater=url-source={NOBODY}",
        # Whoever drives it decides when it tries again.
        "--disable-auto-reload",
        "about:blank",
    ]


def write_policy(settings):
    """Writes what neither a page nor whoever drives Chromium can change."""
    policy = {
        # These and the password manager tell Chromium's makers which forms there are.
        "AutofillAddressEnabled": False,
        "AutofillCreditCardEnabled": False,
        "BackgroundModeEnabled": False,
        "BookmarkBarEnabled": False,
        # What speaks to Chromium's makers unasked. BrowserSignin, 0: nobody can sign in to the
        # browser itself.
        "AlternateErrorPagesEnabled": False,
        "BrowserNetworkTimeQueriesEnabled": False,
        "BrowserSignin": 0,
        # A warning of a switch takes rows of the page.
        "CommandLineFlagSecurityWarningsEnabled": False,
        "ComponentUpdatesEnabled": False,
        "GenAILocalFoundationalModelSettings": 1,
        "SafeBrowsingProtectionLevel": 0,
        "DefaultBrowserSettingEnabled": False,
        "DownloadDirectory": str(settings.downloads_dir),
        # 0: all are allowed; 3: none is.
        "DownloadRestrictions": 0 if settings.allows_downloads else 3,
        # 2: no page writes to files that somebody picks; 3: it may ask.
        "DefaultFileSystemWriteGuardSetting": 3 if settings.allows_downloads else 2,
        "MetricsReportingEnabled": False,
        # 2: no site is contacted because a page might be asked for next.
        "NetworkPredictionOptions": 2,
        "PasswordManagerEnabled": False,
        "PromptForDownloadLocation": False,
        "SearchSuggestEnabled": False,
        "ShowHomeButton": False,
        # Its dictionary would be downloaded.
        "SpellcheckEnabled": False,
    }
    POLICY.parent.mkdir(parents=True, exist_ok=True)
    POLICY.write_text(json.dumps(policy, indent=2) + "\n")
