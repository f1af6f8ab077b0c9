"""What browser sessions promise when something goes wrong, or somebody tries what is not allowed.

Sessions are shared, because an emulated guest takes long to start one; the tests of a session end
with the one that ends it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from socket import create_connection
from typing import Any
from urllib.parse import urlsplit

import pytest
from browser_pages import HOST, SECRET, START_SECONDS, site, smolvm, video, wait_until

from smolvm import (
    BrowserSession,
    BrowserSessionConfig,
    BrowserSessionNotFoundError,
    BrowserSessionState,
    SmolVM,
)

#: Minutes that the session lives which its deadline ends; an emulated guest needs one to start.
MINUTES = 3

#: Connects as another user, and says what it is told first.
STRANGER = """
import socket, sys
client = socket.create_connection(("127.0.0.1", int(sys.argv[1])), timeout=30)
try:
    client.sendall(b"GET /json/version HTTP/1.1\\r\\nHost: 127.0.0.1\\r\\n\\r\\n")
    print(client.recv(64))
except ConnectionError:
    print(b"")
"""


@pytest.fixture(scope="module")
def pages() -> Iterator[str]:
    """The site that sessions may reach, as host and port."""
    with site() as where:
        yield where


@pytest.fixture(scope="module")
def guarded(pages: str) -> Iterator[dict[str, Any]]:
    """What the command said of a session that may do little."""
    yield started("guarded", f"--no-downloads --allow-domain {pages}")
    smolvm("browser stop guarded")


def started(name: str, options: str) -> dict[str, Any]:
    """What the command says of a session that it starts, with all that a session can show."""
    command = f"browser start --session-id {name} --live --record-video {options} --json"
    outcome = smolvm(command)
    assert outcome.returncode == 0, outcome.stderr
    data: dict[str, Any] = json.loads(outcome.stdout)["data"]
    return data


@pytest.fixture
def guarded_session(guarded: dict[str, Any]) -> Iterator[BrowserSession]:
    with BrowserSession.from_id(guarded["session_id"]) as handle:
        yield handle


@pytest.fixture(scope="module")
def rough(pages: str) -> Iterator[BrowserSession]:
    """A session that bad things happen to."""
    options = {"allowed_domains": [pages], "mem_size_mib": 1024, "disk_size_mib": 2048}
    with BrowserSession(BrowserSessionConfig(session_id="rough", **options)) as session:
        yield session


#: Not by its name, which its dead children have as well.
KILL_CHROMIUM = "pkill -9 -o -f -- --remote-debugging-pipe"


def first_page(session: BrowserSession) -> Any:
    return session.connect_playwright().contexts[0].pages[0]


def new_page(session: BrowserSession) -> Any:
    """Playwright does not use a page again that has crashed."""
    return session.connect_playwright().contexts[0].new_page()


def has_told(session: BrowserSession, *words: str) -> bool:
    reason = session.info.reason or ""
    return all(word in reason for word in words)


def processes_of(name: str, data_dir: Path) -> list[str]:
    """The processes of a sandbox, by their command lines."""
    lines = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().decode().replace("\0", " ")
        except (ProcessLookupError, FileNotFoundError):
            continue
        if str(data_dir / "sandboxes" / name) in line:
            lines.append(line)
    return lines


def end_program(session: BrowserSession, program: str) -> None:
    """Kills a program beside the browser, and waits until the launcher has started it again."""
    session.vm.run(f"pkill -9 -f '{program} '")
    told = f"ended {program} with -9", f"restarted {program}"
    wait_until(partial(has_told, session, *told), 120, told[1])


def nothing_is_left_of(name: str, data_dir: Path) -> bool:
    listed = json.loads(smolvm("browser list --json").stdout)["data"]["sessions"]
    return (
        name not in [one["session_id"] for one in listed]
        and name not in [info.vm_id for info in SmolVM.list()]
        and not (data_dir / "sandboxes" / name).exists()
        and not processes_of(name, data_dir)
    )


def test_page_says_why_its_site_is_blocked(guarded_session: BrowserSession, pages: str) -> None:
    page = first_page(guarded_session)
    assert page.goto(f"http://{pages}/").status == 200
    assert page.title() == "home"
    for url in ["http://blocked.example/", "https://blocked.example/"]:
        assert page.goto(url).status == 403
        text = page.inner_text("body")
        assert "blocked.example is blocked" in text
        assert "mode: restricted" in text
    page.goto(f"http://{pages}/")
    with page.context.expect_page() as opening:
        page.evaluate("void window.open('https://other.example/')")
    opening.value.wait_for_load_state()
    assert "other.example is blocked" in opening.value.inner_text("body")
    opening.value.close()

    network = guarded_session.vm.network
    network.deny(HOST)
    assert page.goto(f"http://{pages}/").status == 403
    assert f"deny {HOST}" in page.inner_text("body")
    network.remove(f"deny {HOST}")
    assert page.goto(f"http://{pages}/").status == 200


def test_network_log_has_what_pages_asked_for_and_nothing_else(
    guarded_session: BrowserSession, pages: str
) -> None:
    events = list(guarded_session.vm.network.events())
    asked = {event.fields["name"]: event for event in events if event.type == "dns"}
    assert not asked["blocked.example"].is_allowed
    assert asked["blocked.example"].rule == "mode: restricted"
    port = pages.rsplit(":")[-1]
    reached = [event for event in events if event.type == "connection"]
    assert {event.fields["destination"].rsplit(":")[-1] for event in reached} == {port}
    assert reached[0].rule == f"allow {pages}"
    # Chromium itself asks for nothing.
    others = [name for name in asked if not name.endswith(HOST)]
    assert sorted(others) == ["blocked.example", "other.example"]
    told = smolvm("network log guarded").stdout
    assert "blocked.example A: REFUSED  -- denied by mode: restricted [job browser-session" in told


def test_download_that_is_not_allowed_is_stopped_whatever_a_client_says(
    guarded_session: BrowserSession, pages: str
) -> None:
    page = first_page(guarded_session)
    page.goto(f"http://{pages}/")
    connection = page.context.browser.new_browser_cdp_session()
    own = "/opt/smolvm-browser/downloads/guarded"
    for behavior, path in [("allow", own), ("allowAndName", own), ("allow", "/tmp/elsewhere")]:
        place = {"behavior": behavior, "downloadPath": path, "eventsEnabled": True}
        connection.send("Browser.setDownloadBehavior", place)
        with page.expect_download() as download:
            page.click("#save")
        assert download.value.failure() is not None
    connection.detach()
    guarded_session.close()
    # What Playwright does when it is connected to the URL and nothing else.
    with BrowserSession.from_id("guarded") as session:
        page = first_page(session)
        with page.expect_download() as download:
            page.click("#save")
        assert download.value.failure() is not None
        assert session.downloads == []
        found = session.vm.run(f"grep -rl '{SECRET}' /tmp /var /opt /home /run /root /dev/shm")
        assert found.stdout == ""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_other_users_are_refused_at_every_port(guarded: dict[str, Any]) -> None:
    ports = {name: urlsplit(guarded[name]).port for name in ["cdp_url", "live_url", "display_url"]}
    assert None not in ports.values()

    def told(port: int | None, *as_user: str) -> str:
        command = [*as_user, "/usr/bin/python3", "-c", STRANGER, str(port)]
        outcome = subprocess.run(command, capture_output=True, text=True, check=True)
        return outcome.stdout.strip()

    other = ("setpriv", "--reuid=65534", "--clear-groups")
    assert {told(port, *other) for port in ports.values()} == {"b''"}
    assert "HTTP/1.1 200" in told(ports["cdp_url"])
    assert "RFB 003.008" in told(ports["display_url"])


def test_viewer_without_the_password_is_refused(guarded: dict[str, Any]) -> None:
    port = urlsplit(guarded["display_url"]).port
    assert port is not None
    with create_connection(("127.0.0.1", port), timeout=60) as client:
        stream = client.makefile("rb")
        # RFC 6143 §7.1 and §7.2.2: version, kinds of security, challenge, result.
        client.sendall(stream.read(12))
        assert stream.read(2) == b"\x01\x02"
        client.sendall(b"\x02")
        challenge = stream.read(16)
        client.sendall(bytes(byte ^ 0xFF for byte in challenge))
        assert stream.read(4) == b"\0\0\0\x01"


def test_programs_around_the_browser_are_started_again(guarded_session: BrowserSession) -> None:
    for program in ["ffmpeg", "websockify"]:
        end_program(guarded_session, program)
    assert guarded_session.status == BrowserSessionState.READY
    assert guarded_session.live_url is not None
    with urllib.request.urlopen(guarded_session.live_url) as page:
        assert b"noVNC" in page.read()
    assert "restarted ffmpeg" in guarded_session.logs(tail=20)


@pytest.mark.slow
def test_deadline_ends_the_session_and_its_videos_are_complete(
    data_dir: Path, tmp_path: Path
) -> None:
    session = started("brief", f"--timeout-minutes {MINUTES}")
    ready = time.time()
    with BrowserSession.from_id("brief") as handle:
        end_program(handle, "ffmpeg")
    expires = session["expires_at_unix_ms"] / 1000
    archive = Path(session["artifacts_dir"]) / "guest-artifacts.tar.gz"
    wait_until(lambda: not processes_of("brief", data_dir), expires - time.time() + 150, "end")
    ended = time.time()
    assert ended > expires
    with pytest.raises(BrowserSessionNotFoundError):
        BrowserSession.from_id("brief")
    assert nothing_is_left_of("brief", data_dir)
    with pytest.raises(ConnectionRefusedError):
        create_connection(("127.0.0.1", urlsplit(session["cdp_url"]).port or 0))

    inside = "opt/smolvm-browser/artifacts/brief"
    size, first = video(archive, f"{inside}/session.mp4", tmp_path)
    other_size, second = video(archive, f"{inside}/session-2.mp4", tmp_path)
    assert size == other_size == (1280, 720)
    # A video that is cut off has lost its last seconds, and the next takes some to begin.
    assert first + second == pytest.approx(expires - ready, abs=25)
    # The name is free.
    BrowserSession(BrowserSessionConfig(session_id="brief")).stop()


def test_page_whose_process_dies_takes_no_other_with_it(rough: BrowserSession, pages: str) -> None:
    page = first_page(rough)
    page.goto(f"http://{pages}/")
    with page.expect_event("crash"):
        rough.vm.run("pkill -9 -f 'type=renderer'")
    page.close()
    page = new_page(rough)
    assert page.goto(f"http://{pages}/").status == 200
    assert rough.status == BrowserSessionState.READY


def test_full_disk_fails_a_download_and_not_the_session(rough: BrowserSession, pages: str) -> None:
    page = new_page(rough)
    page.goto(f"http://{pages}/")
    filled = rough.vm.run(
        "dd if=/dev/zero of=/filler bs=1M 2>&1; dd if=/dev/zero of=/filler2 bs=512 2>&1; df /",
        timeout=300,
    )
    assert "100%" in filled.stdout
    with page.expect_download() as download:
        page.click("#save")
    assert download.value.failure() is not None
    assert page.goto(f"http://{pages}/").status == 200
    assert rough.status == BrowserSessionState.READY
    rough.vm.run("rm /filler /filler2")
    with page.expect_download() as download:
        page.click("#save")
    wait_until(lambda: len(rough.downloads) == 1, 60, "the download")
    assert rough.downloads[0].read_text() == SECRET


def test_page_that_eats_all_memory_is_ended_and_named(rough: BrowserSession, pages: str) -> None:
    page = new_page(rough)
    with page.expect_event("crash", timeout=300_000):
        page.goto(f"http://{pages}/eat")
    wait_until(lambda: has_told(rough, "out of memory: chromium"), 60, "the reason")
    assert "out of memory: chromium" in rough.logs(tail=20)
    page.close()
    assert new_page(rough).goto(f"http://{pages}/").status == 200


def test_browser_that_dies_comes_back_but_not_for_ever(rough: BrowserSession) -> None:
    """Last of those that share the session: it ends it."""
    for _ in range(3):
        rough.vm.run(KILL_CHROMIUM)
        wait_until(lambda: rough.status == BrowserSessionState.STARTING, 60, "the end")
        wait_until(lambda: rough.status == BrowserSessionState.READY, 180, "another browser")
        assert has_told(rough, "ended chromium with -9", "restarted chromium")
    # Of what they had started, too, nothing dead stays.
    zombies = "ps -e -o stat=,comm= | grep ^Z"
    wait_until(lambda: rough.vm.run(zombies).stdout == "", 60, "the end of the dead")
    rough.vm.run(KILL_CHROMIUM)
    wait_until(lambda: rough.status == BrowserSessionState.ERROR, 60, "the error")
    assert has_told(rough, "failed: chromium ended 4 times within 5 minutes")
    assert "failed: chromium ended 4 times" in rough.logs(tail=20)


#: A start at the moment when it is killed, as the guest or the list of sessions shows it.
MOMENTS = ["created", "starting", "launcher"]


def has_come(moment: str) -> bool:
    try:
        session = BrowserSession.from_id("killed")
    except BrowserSessionNotFoundError:
        return False
    if moment == "launcher":
        is_running = session.vm.status == "running"
        return is_running and session.vm.run("pgrep -u browser").ok
    return moment == "created" or session.status == BrowserSessionState.STARTING


@pytest.mark.parametrize("moment", MOMENTS)
def test_start_that_is_killed_leaves_nothing(moment: str, data_dir: Path) -> None:
    program = str(Path(sys.executable).with_name("smolvm"))
    command = [program, "browser", "start", "--session-id", "killed"]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as starting:
        wait_until(lambda: has_come(moment), START_SECONDS, moment)
        starting.kill()
    assert starting.returncode == -9
    wait_until(lambda: nothing_is_left_of("killed", data_dir), 60, "the end of everything")
    assert not (data_dir / "browser-sessions" / "killed").exists()


def test_stop_during_a_start_ends_both(data_dir: Path) -> None:
    program = str(Path(sys.executable).with_name("smolvm"))
    command = [program, "browser", "start", "--session-id", "killed"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as starting:
        wait_until(lambda: has_come("launcher"), START_SECONDS, "the launcher")
        assert smolvm("browser stop killed").returncode == 0
        _, errors = starting.communicate(timeout=60)
    assert starting.returncode == 1
    assert "was stopped while it started" in errors
    assert nothing_is_left_of("killed", data_dir)


@pytest.mark.slow
def test_five_sessions_start_at_once_and_each_is_of_its_own(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SMOLVM_DATA_DIR", str(tmp_path))
    names = [f"one-of-five-{number}" for number in range(5)]

    def one(name: str) -> BrowserSession:
        session = BrowserSession(BrowserSessionConfig(session_id=name, mem_size_mib=1024))
        return session.start(boot_timeout=START_SECONDS)

    with ThreadPoolExecutor(len(names)) as threads:
        sessions = list(threads.map(one, names))
        for name, session in zip(names, sessions, strict=True):
            first_page(session).goto(f"data:text/html,<title>{name}</title>")
        assert [first_page(session).title() for session in sessions] == names
        assert len({session.cdp_url for session in sessions}) == len(names)
        list(threads.map(BrowserSession.stop, sessions))
    assert all(nothing_is_left_of(name, tmp_path) for name in names)
