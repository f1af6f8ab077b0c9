"""Browsers in sandboxes: :class:`BrowserSession`, and :class:`AsyncBrowserSession` to be awaited.

    with BrowserSession(BrowserSessionConfig(mode="live")) as session:
        page = session.connect_playwright().contexts[0].pages[0]
"""

from __future__ import annotations

import builtins
from _thread import _local
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from smolvm import _native
from smolvm.async_vm import AsyncSmolVM
from smolvm.browser_config import (
    BrowserSessionConfig,
    BrowserSessionInfo,
    BrowserSessionState,
    browser_config,
    browser_info,
    native_browser,
)
from smolvm.computer import AsyncComputer, Computer
from smolvm.exceptions import BrowserSessionNotFoundError, SmolVMError, ValidationError
from smolvm.files import PathLike
from smolvm.handle import BUNDLED, warn
from smolvm.vm import SmolVM

if TYPE_CHECKING:
    # Not installed together with this package.
    Browser = Any

__all__ = ["AsyncBrowserSession", "BrowserSession"]

#: Milliseconds that Playwright may take to connect to a browser that is ready: an emulated guest on
#: a busy host needs more than the half minute that is its default.
_CONNECT_MS = 180_000


def _playwright(api: str) -> Any:
    """Returns one of Playwright's two modules; it is not installed together with this package."""
    from importlib import import_module

    try:
        return import_module(f"playwright.{api}")
    except ImportError:
        message = "connect_playwright needs Playwright: pip install playwright"
        raise SmolVMError(message) from None


class _Driver:
    """A driver of Playwright's synchronous API. Only its own thread can speak to it."""

    def __init__(self) -> None:
        self.playwright = _playwright("sync_api").sync_playwright().start()
        #: Sessions that use it.
        self.users = 0


#: The driver of each thread, which can have one. This is threading.local, without the import of all
#: of threading.
_of_thread = _local()


def _own_driver() -> _Driver | None:
    return getattr(_of_thread, "driver", None)


def _take_driver() -> _Driver:
    """Returns this thread's driver, for one more session."""
    driver = _own_driver() or _Driver()
    _of_thread.driver = driver
    driver.users += 1
    return driver


def _leave_driver(driver: _Driver) -> None:
    """Stops a driver that no session uses any more. One of another thread stays for its thread."""
    driver.users -= 1
    if driver.users == 0 and driver is _own_driver():
        del _of_thread.driver
        driver.playwright.stop()


class BrowserHandle:
    """What both kinds of handle share: everything that does not wait."""

    _native: _native.BrowserSession
    _is_creator: bool
    #: Playwright's driver and connected browser, once there are some.
    _playwright: tuple[Any, Any] | None = None
    #: What is known of a session that is over for this handle.
    _last: BrowserSessionInfo | None = None

    def __init__(
        self,
        config: BrowserSessionConfig | None = None,
        *,
        session_id: str | None = None,
        data_dir: PathLike | None = None,
        socket_dir: PathLike | None = None,
        ssh_key_path: PathLike | None = None,
    ) -> None:
        if config is not None and session_id is not None:
            raise ValidationError("give either config or session_id, not both")
        if session_id is not None:
            self._open(session_id, data_dir)
            return
        self._config = config if config is not None else BrowserSessionConfig()
        asked = native_browser(self._config.__dict__)
        self._native = _native.create_browser(asked, data_dir, BUNDLED).wait().take()
        self._is_creator = True

    def _open(self, session_id: str, data_dir: PathLike | None) -> None:
        self._native = _native.open_browser(session_id, data_dir, BUNDLED)
        self._config = browser_config(self._native.info().wait())
        self._is_creator = False

    @property
    def session_id(self) -> str:
        """The session's name."""
        return self._native.session_id

    @property
    def vm_id(self) -> str:
        """The name of the session's sandbox."""
        return self._native.vm_id

    @property
    def data_dir(self) -> Path:
        """The directory that holds the session."""
        return Path(self._native.data_dir)

    @property
    def config(self) -> BrowserSessionConfig:
        """What it was asked to be. A handle on another's session has no environment variables."""
        return self._config

    @property
    def info(self) -> BrowserSessionInfo:
        """What is known of the session now; of one that has ended, what was known last."""
        try:
            self._last = browser_info(self._native.info().wait())
        except BrowserSessionNotFoundError:
            if self._last is None:
                raise
        return self._last

    @property
    def status(self) -> BrowserSessionState:
        """Where the session is in its life."""
        return browser_info(self._native.info().wait()).status

    @property
    def cdp_url(self) -> str | None:
        """Where programs drive the browser, while it is ready."""
        return self.info.cdp_url

    @property
    def live_url(self) -> str | None:
        """Where people watch and use the browser, in live mode. Whoever has it can."""
        return self.info.live_url

    @property
    def viewer_url(self) -> str | None:
        """The newer name of ``live_url``."""
        return self.info.live_url

    @property
    def display_url(self) -> str | None:
        """Where VNC clients find the display, in live mode. Whoever has it can."""
        return self.info.display_url

    @property
    def browser_cdp_url(self) -> str | None:
        """Another name of ``cdp_url``."""
        return self.info.cdp_url

    @property
    def artifacts_dir(self) -> Path:
        """Where ``guest-artifacts.tar.gz`` is, once the session has ended."""
        return self.data_dir / "browser-sessions" / self.session_id

    def open_live_view(self) -> bool:
        """Opens the live view in this host's browser. Returns whether there is one."""
        url = self.live_url
        if url is None:
            raise SmolVMError(f"Browser session '{self.session_id}' has no live view")
        import webbrowser

        return webbrowser.open(url)

    def open_viewer(self) -> bool:
        """The newer name of :meth:`open_live_view`."""
        return self.open_live_view()

    def _cdp_url_for_playwright(self) -> str:
        url = self.cdp_url
        if url is None:
            raise SmolVMError(
                f"Browser session '{self.session_id}' has no CDP URL; it is {self.info.status}"
            )
        return url

    def _download_behavior(self) -> dict[str, Any]:
        """Returns where Chromium saves files; Playwright has told it a directory of this host."""
        path = f"/opt/smolvm-browser/downloads/{self.session_id}"
        return {"behavior": "allow", "downloadPath": path, "eventsEnabled": True}

    def __repr__(self) -> str:
        try:
            status = str(self.status)
        except BrowserSessionNotFoundError:
            status = "ended"
        except SmolVMError:
            status = "unknown"
        return f"{type(self).__name__}(session_id={self.session_id!r}, status={status!r})"


class BrowserSession(BrowserHandle):
    """Chromium in a sandbox of its own.

    Constructing creates the session and does not start it. It ends with this process, unless
    :meth:`close` let go of it while it was ready. Any thread may use any handle, but for
    Playwright, whose objects belong to the thread that connected.
    """

    @classmethod
    def from_id(
        cls,
        session_id: str,
        *,
        data_dir: PathLike | None = None,
        socket_dir: PathLike | None = None,
        ssh_key_path: PathLike | None = None,
    ) -> BrowserSession:
        """Returns a handle on an existing session, of this process or of another."""
        return cls(session_id=session_id, data_dir=data_dir)

    @staticmethod
    def list(*, data_dir: PathLike | None = None) -> list[BrowserSessionInfo]:
        """Returns all sessions, by name."""
        return [browser_info(known) for known in _native.list_browsers(data_dir, BUNDLED).wait()]

    @property
    def computer(self) -> Computer:
        """Mouse and keyboard at the page that was used last."""
        return Computer(self._native.computer())

    @property
    def vm(self) -> SmolVM:
        """The session's sandbox."""
        return SmolVM.from_id(self.vm_id, data_dir=self.data_dir)

    def start(self, boot_timeout: float | None = None) -> BrowserSession:
        """Starts the browser and waits until it takes commands; nothing when it does.

        Guest and browser have ``boot_timeout`` seconds each to come up, or as long as they need.
        """
        self._last = browser_info(self._native.start(boot_timeout).wait())
        return self

    def stop(self) -> None:
        """Ends the session: its video is completed, and what it leaves comes to the host."""
        self._disconnect()
        self._last = self.info
        self._native.stop().wait()

    def delete(self) -> None:
        """Another name of :meth:`stop`."""
        self.stop()

    def close(self) -> None:
        """Lets go of the session. One that is ready goes on, also without this process."""
        self._disconnect()
        self._native.close().wait()

    def refresh(self) -> BrowserSession:
        """Checks that the session exists; ``info`` and ``status`` are always current."""
        self._native.info().wait()
        return self

    def connect_playwright(self) -> Browser:
        """Returns Playwright's ``Browser`` of this session, of its synchronous API."""
        if self._playwright is None:
            url = self._cdp_url_for_playwright()
            driver = _take_driver()
            try:
                browser = driver.playwright.chromium.connect_over_cdp(url, timeout=_CONNECT_MS)
                # What it sets is in force as long as it is there.
                connection = browser.new_browser_cdp_session()
                connection.send("Browser.setDownloadBehavior", self._download_behavior())
            except BaseException:
                _leave_driver(driver)
                raise
            self._playwright = driver, browser
        return self._playwright[1]

    def _disconnect(self) -> None:
        if self._playwright is not None:
            driver, browser = self._playwright
            self._playwright = None
            # The browser goes on: only Playwright's connection ends, and that of another thread
            # when the browser does.
            try:
                if driver is _own_driver():
                    browser.close()
            finally:
                _leave_driver(driver)

    def screenshot(self, destination: PathLike, *, full_page: bool = True) -> Path:
        """Takes a picture of the page that was used last, as PNG, or JPEG for ``.jpg``."""
        path = Path(destination)
        image = self._native.screenshot(path, full_page).wait()
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(image)
        return path

    @property
    def downloads(self) -> builtins.list[Path]:
        """The finished downloads, copied to the host."""
        return [Path(path) for path in self._native.downloads().wait()]

    def push_file(self, local_path: PathLike, guest_path: PathLike) -> None:
        """Copies a file of the host into the guest."""
        self.vm.upload_file(local_path, guest_path)

    def pull_file(self, guest_path: PathLike, local_path: PathLike) -> Path:
        """Copies a file of the guest to the host."""
        path = Path(local_path)
        path.parent.mkdir(parents=True, exist_ok=True)
        return self.vm.download_file(guest_path, path)

    def collect_artifacts(self) -> Path | None:
        """Packs what the session has left so far; ``None`` when it does not run."""
        if self.info.cdp_url is None:
            return None
        return Path(self._native.collect_artifacts().wait())

    def logs(self, tail: int = 100) -> str:
        """Returns the last lines of each log of the browser and the programs around it."""
        return self._native.logs(tail).wait()

    def __enter__(self) -> BrowserSession:
        if self._is_creator:
            self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # Nothing here may hide what the body raised.
        ending = self.stop if self._is_creator else self.close
        try:
            ending()
        except BrowserSessionNotFoundError:
            pass
        except SmolVMError as failure:
            warn(self.vm_id, failure)


class AsyncBrowserSession(BrowserHandle):
    """A :class:`BrowserSession` whose methods are awaited.

    Constructing waits the moment that making its files takes; :meth:`create` does not. So do
    ``info`` and what is read from it.
    """

    @classmethod
    async def create(
        cls, config: BrowserSessionConfig | None = None, *, data_dir: PathLike | None = None
    ) -> AsyncBrowserSession:
        """Creates a session."""
        handle = cls.__new__(cls)
        handle._config = config if config is not None else BrowserSessionConfig()
        asked = native_browser(handle._config.__dict__)
        handle._native = (await _native.create_browser(asked, data_dir, BUNDLED)).take()
        handle._is_creator = True
        return handle

    @classmethod
    def from_id(
        cls, session_id: str, *, data_dir: PathLike | None = None
    ) -> AsyncBrowserSession:
        """Returns a handle on an existing session, of this process or of another."""
        return cls(session_id=session_id, data_dir=data_dir)

    @staticmethod
    async def list(*, data_dir: PathLike | None = None) -> list[BrowserSessionInfo]:
        """Returns all sessions, by name."""
        return [browser_info(known) for known in await _native.list_browsers(data_dir, BUNDLED)]

    @property
    def computer(self) -> AsyncComputer:
        """Mouse and keyboard at the page that was used last; its methods are awaited."""
        return AsyncComputer(self._native.computer())

    @property
    def vm(self) -> AsyncSmolVM:
        """The session's sandbox."""
        return AsyncSmolVM.from_id(self.vm_id, data_dir=self.data_dir)

    async def start(self, boot_timeout: float | None = None) -> AsyncBrowserSession:
        """Starts the browser; see :meth:`BrowserSession.start`."""
        self._last = browser_info(await self._native.start(boot_timeout))
        return self

    async def stop(self) -> None:
        """Ends the session; see :meth:`BrowserSession.stop`."""
        await self._disconnect()
        self._last = browser_info(await self._native.info())
        await self._native.stop()

    async def delete(self) -> None:
        """Another name of :meth:`stop`."""
        await self.stop()

    async def close(self) -> None:
        """Lets go of the session; see :meth:`BrowserSession.close`."""
        await self._disconnect()
        await self._native.close()

    async def connect_playwright(self) -> Browser:
        """Returns Playwright's ``Browser`` of this session, of its asynchronous API."""
        if self._playwright is None:
            url = self._cdp_url_for_playwright()
            playwright = _playwright("async_api")
            driver = await playwright.async_playwright().start()
            try:
                browser = await driver.chromium.connect_over_cdp(url, timeout=_CONNECT_MS)
                connection = await browser.new_browser_cdp_session()
                await connection.send("Browser.setDownloadBehavior", self._download_behavior())
            except BaseException:
                await driver.stop()
                raise
            self._playwright = driver, browser
        return self._playwright[1]

    async def _disconnect(self) -> None:
        if self._playwright is not None:
            driver, _ = self._playwright
            self._playwright = None
            await driver.stop()

    async def screenshot(self, destination: PathLike, *, full_page: bool = True) -> Path:
        """Takes a picture of the page; see :meth:`BrowserSession.screenshot`."""
        path = Path(destination)
        image = await self._native.screenshot(path, full_page)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(image)
        return path

    async def downloads(self) -> builtins.list[Path]:
        """Copies the finished downloads to the host and returns where they are."""
        return [Path(path) for path in await self._native.downloads()]

    async def push_file(self, local_path: PathLike, guest_path: PathLike) -> None:
        """Copies a file of the host into the guest."""
        await self.vm.upload_file(local_path, guest_path)

    async def pull_file(self, guest_path: PathLike, local_path: PathLike) -> Path:
        """Copies a file of the guest to the host."""
        path = Path(local_path)
        path.parent.mkdir(parents=True, exist_ok=True)
        return await self.vm.download_file(guest_path, path)

    async def collect_artifacts(self) -> Path | None:
        """Packs what the session has left so far; ``None`` when it does not run."""
        if browser_info(await self._native.info()).cdp_url is None:
            return None
        return Path(await self._native.collect_artifacts())

    async def logs(self, tail: int = 100) -> str:
        """Returns the last lines of each log of the browser and the programs around it."""
        return await self._native.logs(tail)

    async def __aenter__(self) -> AsyncBrowserSession:
        if self._is_creator:
            await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        ending = self.stop if self._is_creator else self.close
        try:
            await ending()
        except BrowserSessionNotFoundError:
            pass
        except SmolVMError as failure:
            warn(self.vm_id, failure)
