"""Browser sessions: Chromium in a sandbox, driven by real clients. Chromium takes seconds to start."""

from __future__ import annotations

import asyncio
import json
import struct
import subprocess
import tarfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from browser_pages import connected, smolvm, video

from smolvm import (
    AsyncBrowserSession,
    AsyncSmolVM,
    BrowserSession,
    BrowserSessionAlreadyExistsError,
    BrowserSessionConfig,
    BrowserSessionNotFoundError,
    BrowserSessionState,
    BrowserViewport,
    SmolVM,
    SmolVMError,
    ValidationError,
    VMAlreadyExistsError,
)

Python = Callable[[str], "subprocess.CompletedProcess[str]"]

SERVER = """
import http.server
class Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        if self.path == '/report.txt':
            self.send_header('Content-Disposition', 'attachment')
            body = b'quarterly'
        else:
            self.send_header('Content-Type', 'text/html; charset=utf-8')
            body = '<title>Grüße 世界</title><body style="margin:0;height:2000px">' \\
                '<a href=/report.txt>report</a>'.encode()
        self.end_headers()
        self.wfile.write(body)
server = http.server.ThreadingHTTPServer(('127.0.0.1', 8000), Page)
print('up', flush=True)
server.serve_forever()
"""


def serve(vm: SmolVM) -> str:
    """Has the guest serve a page to its own browser; returns the page's URL."""
    job = vm.jobs.start(["python3", "-c", SERVER], name="pages")
    with job.attach() as attached:
        assert next(attached).data == b"up\n"
    return "http://127.0.0.1:8000/"


def png_size(path: Path) -> tuple[int, int]:
    # PNG, third edition, §11.2.2: width and height come first in the first chunk.
    width, height = struct.unpack(">II", path.read_bytes()[16:24])
    return width, height


@pytest.fixture(scope="module")
def started() -> Iterator[dict[str, Any]]:
    """What the command said of the session that tests share; none of them may end it."""
    options = "--session-id shared --viewport-width 1440 --viewport-height 900 --env TZ=Asia/Tokyo"
    outcome = smolvm(f"browser start --live --record-video {options} --json")
    assert outcome.returncode == 0, outcome.stderr
    yield {"ready": time.time(), **json.loads(outcome.stdout)}
    smolvm("browser stop shared")


@pytest.fixture
def session(started: dict[str, Any]) -> Iterator[BrowserSession]:
    with BrowserSession.from_id(started["data"]["session_id"]) as handle:
        yield handle


def test_config_has_the_defaults_of_the_interface() -> None:
    config = BrowserSessionConfig()
    assert (config.mode, config.profile_mode, config.timeout_minutes) == (
        "headless",
        "ephemeral",
        30,
    )
    assert (config.mem_size_mib, config.disk_size_mib, config.vcpu_count) == (2048, 4096, 2)
    assert config.viewport == BrowserViewport(1280, 720)
    config = BrowserSessionConfig(viewport={"width": 1440, "height": 900}, memory=4096)
    assert (config.viewport_width, config.viewport_height, config.mem_size_mib) == (1440, 900, 4096)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "visible"}, "mode: .* none of headless, live"),
        ({"browser": "firefox"}, "browser: .* none of chromium"),
        ({"profile_mode": "persistent"}, "^profile_id is required when profile_mode='persistent'$"),
        ({"profile_mode": "persistent", "profile_id": "../x"}, "profile_id: "),
        ({"session_id": "A"}, "session_id: "),
        ({"timeout_minutes": 0}, "timeout_minutes is 0; it must be 1 to 240"),
        ({"timeout_minutes": 241}, "timeout_minutes is 241"),
        ({"timeout_minutes": True}, "timeout_minutes: True is not a whole number"),
        ({"viewport_width": 639}, "viewport_width is 639; it must be 640 to 7680"),
        ({"viewport": {"width": 1280, "height": 4321}}, "viewport_height is 4321"),
        ({"viewport": "1280x720"}, "^viewport must be a mapping with width/height values$"),
        ({"viewport": {"width": 1280}}, "viewport must be a mapping with width/height values"),
        (
            {"viewport": {"width": 1440, "height": 720}, "viewport_width": 1280},
            "^viewport.width must match viewport_width$",
        ),
        ({"record_video": True}, "^record_video requires mode='live'$"),
        ({"network_policy_id": " "}, "network_policy_id cannot be blank"),
        ({"env_vars": {"1A": "x"}}, "env_vars.1A"),
        ({"env_vars": {"A": None}}, "env_vars.A: the value is None"),
        ({"mem_size_mib": 511}, "mem_size_mib is 511; it must be 512 to 16384"),
        ({"disk_size_mib": 16385}, "disk_size_mib is 16385; it must be 2048 to 16384"),
        ({"allowed_domains": ["example.com", "a b"]}, "allowed_domains.1"),
        ({"allowed_domains": "example.com"}, "allowed_domains: .* not a list"),
    ],
)
def test_config_refuses_what_is_not_legal(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        BrowserSessionConfig(**options)


def test_session_that_was_not_started_ends_with_its_process(python: Python) -> None:
    script = (
        "import os\n"
        "from smolvm import BrowserSession, BrowserSessionConfig\n"
        "session = BrowserSession(BrowserSessionConfig(session_id='left'))\n"
        "print(session.status, [info.session_id for info in session.list()], flush=True)\n"
        "os.kill(os.getpid(), 9)\n"
    )
    outcome = python(script)
    assert outcome.stdout == "created ['left']\n", outcome.stderr
    assert "left" not in [info.session_id for info in BrowserSession.list()]
    with pytest.raises(BrowserSessionNotFoundError, match="Browser session 'left' not found"):
        BrowserSession.from_id("left")


def test_names_and_profiles_belong_to_one_session() -> None:
    config = BrowserSessionConfig(
        session_id="first", profile_mode="persistent", profile_id="taken"
    )
    first = BrowserSession(config)
    with pytest.raises(BrowserSessionAlreadyExistsError):
        BrowserSession(config)
    with pytest.raises(VMAlreadyExistsError, match="profile 'taken' is in use .*'first'"):
        BrowserSession(BrowserSessionConfig(profile_mode="persistent", profile_id="taken"))
    assert first.vm_id.startswith("browser-prof-taken-")
    first.stop()
    with pytest.raises(BrowserSessionNotFoundError):
        first.stop()


def test_named_network_policy_is_reserved() -> None:
    session = BrowserSession(BrowserSessionConfig(network_policy_id="office"))
    with pytest.raises(SmolVMError, match="network_policy_id is reserved"):
        session.start()
    session.stop()


def test_command_describes_the_session_in_one_document(started: dict[str, Any]) -> None:
    data = started["data"]
    assert (started["ok"], started["command"], data["status"]) == (True, "browser.start", "ready")
    assert data["session_id"] == data["vm_id"] == "shared"
    assert urlsplit(data["cdp_url"]).hostname == "127.0.0.1"
    assert data["live_url"] == data["viewer_url"]
    assert "/vnc.html?autoconnect=1&resize=scale" in data["live_url"]
    assert data["display_url"].startswith("vnc://127.0.0.1:")

    listed = json.loads(smolvm("browser list --status ready --json").stdout)["data"]
    assert listed["filters"] == {"status": "ready"}
    assert [one["session_id"] for one in listed["sessions"]] == ["shared"]
    again = smolvm("browser start --session-id shared")
    assert again.returncode == 1
    assert "already exists" in again.stderr


def test_many_clients_in_a_row_reach_the_same_browser(session: BrowserSession) -> None:
    assert session.cdp_url is not None
    with urllib.request.urlopen(f"{session.cdp_url}/json/version") as answer:
        socket = urlsplit(json.load(answer)["webSocketDebuggerUrl"])
    assert socket.netloc == urlsplit(session.cdp_url).netloc
    for _ in range(20):
        assert connected(socket.netloc, socket.path).status == 101
    assert session.status == BrowserSessionState.READY


def test_live_view_is_shown_and_needs_its_token(session: BrowserSession) -> None:
    assert session.live_url is not None
    with urllib.request.urlopen(session.live_url) as page:
        assert b"noVNC" in page.read()
    where = urlsplit(session.live_url)
    (path,) = parse_qs(where.query)["path"]
    assert connected(where.netloc, f"/{path}").status == 101
    for wrong in ["/websockify", "/websockify?token=", "/websockify?token=00"]:
        # It says nothing to whoever does not know the token.
        with pytest.raises(ConnectionError):
            connected(where.netloc, wrong)


def test_playwright_finds_a_page_and_downloads_arrive(
    session: BrowserSession, tmp_path: Path
) -> None:
    page = session.connect_playwright().contexts[0].pages[0]
    assert page.evaluate("[innerWidth, innerHeight]") == [1440, 900]
    page.goto(serve(session.vm))
    assert page.title() == "Grüße 世界"
    assert png_size(session.screenshot(tmp_path / "new" / "page.png")) == (1440, 2000)
    window = session.screenshot(tmp_path / "window.png", full_page=False)
    assert png_size(window) == (1440, 900)
    assert session.screenshot(tmp_path / "page.jpg").read_bytes()[:2] == b"\xff\xd8"

    with page.expect_download() as download:
        page.click("a")
    assert download.value.suggested_filename == "report.txt"
    deadline = time.monotonic() + 60
    while not session.downloads and time.monotonic() < deadline:
        # The guest says when a download begins, and only its directory when it is complete.
        time.sleep(0.1)
    (copy,) = session.downloads
    assert copy == session.artifacts_dir / "downloads" / "report.txt"
    assert copy.read_text() == "quarterly"
    # The browser goes on without Playwright.
    session.close()
    assert session.status == BrowserSessionState.READY


def test_another_process_uses_the_session(session: BrowserSession, python: Python) -> None:
    script = (
        "from smolvm import BrowserSession\n"
        "with BrowserSession.from_id('shared') as session:\n"
        "    print(session.start().status, session.config.viewport_width)\n"
    )
    assert python(script).stdout == "ready 1440\n"
    assert session.status == BrowserSessionState.READY


def test_browser_has_its_variables_and_is_not_root(session: BrowserSession) -> None:
    page = session.connect_playwright().contexts[0].pages[0]
    # 09:00 in Tokyo.
    assert page.evaluate("new Date(0).getHours()") == 9
    users = session.vm.run("ps -o user= -C chromium | sort -u").stdout
    assert users.split() == ["browser"]
    assert "chromium.log" in session.logs(tail=5)


def test_event_loop_uses_the_session(session: BrowserSession, tmp_path: Path) -> None:
    async def main() -> None:
        created = AsyncSmolVM.browser(timeout_minutes=1)
        assert created.status == BrowserSessionState.CREATED
        await created.stop()
        handle = AsyncBrowserSession.from_id(session.session_id)
        assert "shared" in [info.session_id for info in await AsyncBrowserSession.list()]
        browser = await handle.connect_playwright()
        assert await browser.contexts[0].pages[0].evaluate("1 + 1") == 2
        picture = await handle.screenshot(tmp_path / "page.png", full_page=False)
        assert png_size(picture) == (1440, 900)
        await handle.close()

    asyncio.run(main())


def test_stop_brings_the_video_and_a_second_stop_finds_nothing(
    started: dict[str, Any], session: BrowserSession, tmp_path: Path
) -> None:
    """Last of those that share the session: it ends it."""
    cdp = urlsplit(session.cdp_url or "")
    assert session.collect_artifacts() == session.artifacts_dir / "guest-artifacts.tar.gz"
    recorded = time.time() - started["ready"]
    assert smolvm("browser stop shared").returncode == 0
    archive = session.artifacts_dir / "guest-artifacts.tar.gz"
    size, seconds = video(archive, "opt/smolvm-browser/artifacts/shared/session.mp4", tmp_path)
    assert size == (1440, 900)
    # It begins a moment before the command has said so, and ends a moment after it is told to.
    assert seconds == pytest.approx(recorded, abs=10)
    with tarfile.open(archive) as members:
        assert "var/log/smolvm-browser/chromium.log" in members.getnames()
    second = smolvm("browser stop shared")
    assert (second.returncode, "not found" in second.stderr) == (1, True)
    with pytest.raises(ConnectionRefusedError):
        HTTPConnection(cdp.netloc).connect()
    assert "shared" not in [info.vm_id for info in SmolVM.list()]
    assert session.info.session_id == "shared"


def test_kept_profile_has_its_cookies_in_the_next_session() -> None:
    def config() -> BrowserSessionConfig:
        return BrowserSessionConfig(profile_mode="persistent", profile_id="kept")

    with BrowserSession(config()) as session:
        page = session.connect_playwright().contexts[0].pages[0]
        page.goto(serve(session.vm))
        page.evaluate("document.cookie = 'login=me; max-age=86400'; localStorage.seen = 'yes'")
    with BrowserSession(config()) as session:
        page = session.connect_playwright().contexts[0].pages[0]
        page.goto(serve(session.vm))
        assert page.evaluate("[document.cookie, localStorage.seen]") == ["login=me", "yes"]
