"""Browser sessions, beside a plain sandbox and Chromium of the host. Runs alone, too."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from figures import Report, Samples, clock
from smolvm import BrowserSession, BrowserSessionConfig, BrowserSessionNotFoundError, SmolVM

#: What the guest calls this host.
HOST = "host.smolvm.internal"

WIDTH, HEIGHT = 1280, 720

#: Images of the page that is loaded.
RESOURCES = 100

#: Seconds that the live view is looked at.
WATCHED_SECONDS = 10

#: Milliseconds that a page may take in an emulated guest.
PATIENCE_MS = 180_000

MIB = 1024

#: Draws a block whose colour changes with every frame, and counts them.
ANIMATION = """<!doctype html><title>frames</title><style>body{margin:0}</style>
<canvas width=640 height=480></canvas><script>
    const paper = document.querySelector('canvas').getContext('2d');
    frames = 0;
    function draw() {
        frames += 1;
        paper.fillStyle = `rgb(${frames * 97 % 256}, ${frames * 57 % 256}, 128)`;
        paper.fillRect(0, 0, 640, 480);
        requestAnimationFrame(draw);
    }
    draw();
</script>"""

#: Counts, in noVNC's page, how often a pixel of the picture changes its colour.
COUNT_CHANGES = """([x, y, milliseconds]) => new Promise(done => {
    const canvas = document.querySelector('canvas');
    const end = performance.now() + milliseconds;
    let changes = 0, last = '';
    function look() {
        const seen = canvas.getContext('2d').getImageData(x, y, 1, 1).data.join();
        changes += seen != last;
        last = seen;
        performance.now() < end ? requestAnimationFrame(look) : done(changes);
    }
    look();
})"""


class _Pages(BaseHTTPRequestHandler):
    """`/page` has a hundred images, each a file of its own; `/frames` never stands still."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        where = urlsplit(self.path)
        kind = "text/html"
        if where.path == "/frames":
            body = ANIMATION
        elif where.path == "/page":
            images = (f'<img src="/{number}.svg?{where.query}">' for number in range(RESOURCES))
            body = f"<!doctype html><title>page</title>{''.join(images)}"
        else:
            kind = "image/svg+xml"
            body = (
                '<svg xmlns="http://www.w3.org/2000/svg" width="64" height="48">'
                f"<title>{self.path}</title>"
                '<rect width="64" height="48" fill="teal"/></svg>'
            )
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, format: str, *args: object) -> None:
        """Keeps the requests out of the figures."""


@contextmanager
def _served() -> Iterator[int]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Pages) as server:
        server.daemon_threads = True
        server.block_on_close = False
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


def sessions(report: Report, rounds: int) -> None:
    """Starts, uses and weighs browser sessions."""
    with _served() as port, ExitStack() as running:
        first, second = _starts(report, running, f"{HOST}:{port}", rounds)
        _memory(report, [first, second])
        second.stop()
        _use(report, first, port, rounds)


def _starts(
    report: Report, running: ExitStack, rule: str, rounds: int
) -> tuple[BrowserSession, BrowserSession]:
    """Starts sessions in turns with plain sandboxes, and leaves two of them running."""
    plain, started = Samples(), Samples()
    kept: list[BrowserSession] = []
    for _ in range(max(rounds, 2)):
        plain.append(clock(_plain))
        viewport = {"width": WIDTH, "height": HEIGHT}
        config = BrowserSessionConfig(mode="live", viewport=viewport, allowed_domains=[rule])
        session = BrowserSession(config)
        running.callback(_stopped, session)
        started.append(clock(session.start))
        kept.append(session)
        if len(kept) > 2:
            kept.pop(0).stop()
    name = "live browser session, until CDP answers"
    report.beside(name, started, "plain sandbox that runs true", plain, "s")
    return kept[0], kept[1]


def _stopped(session: BrowserSession) -> None:
    """Ends a session that may have been ended."""
    try:
        session.stop()
    except BrowserSessionNotFoundError:
        pass


def _plain() -> None:
    with SmolVM() as vm:
        vm.run(["true"])


def _memory(report: Report, running: list[BrowserSession]) -> None:
    """What each of two sessions has on the host, with about:blank."""
    for number, session in enumerate(running, 1):
        pid = session.vm.info.pid
        assert pid is not None
        used = _smaps(pid)
        unique = used["Private_Clean"] + used["Private_Dirty"]
        report.value(f"memory of session {number}'s VMM: resident", used["Rss"] / MIB, "MiB")
        report.value("  proportional share", used["Pss"] / MIB, "MiB")
        report.value("  its own alone", unique / MIB, "MiB")
        report.value("  shared with others", (used["Rss"] - unique) / MIB, "MiB")


def _smaps(pid: int) -> dict[str, int]:
    """Returns /proc/PID/smaps_rollup, in KiB (proc_pid_smaps(5))."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    fields = (line.split() for line in lines)
    return {field[0].rstrip(":"): int(field[1]) for field in fields}


def _use(report: Report, session: BrowserSession, port: int, rounds: int) -> None:
    """Pages, pictures and the live view, beside the same Chromium without a machine around it."""
    browser = session.connect_playwright()
    options = ["--no-sandbox"] if os.geteuid() == 0 else []
    host = browser.browser_type.launch(executable_path=shutil.which("chromium"), args=options)
    page = browser.contexts[0].pages[0]
    beside = host.new_page(viewport={"width": WIDTH, "height": HEIGHT})
    for each in (page, beside):
        each.set_default_timeout(PATIENCE_MS)
    _pages(report, page, beside, port, rounds)
    _pictures(report, session, page, beside, rounds * 3)
    _live_view(report, session, host, page, port)
    host.close()


def _pages(report: Report, page: Any, beside: Any, port: int, rounds: int) -> None:
    loaded, loaded_beside = Samples(), Samples()
    # The first page of each is not counted: it starts a process for the site.
    for turn in range(rounds + 1):
        path = f"{port}/page?{turn}"
        for where, one, samples in (
            (HOST, page, loaded),
            ("127.0.0.1", beside, loaded_beside),
        ):
            url = f"http://{where}:{path}"
            seconds = clock(lambda: one.goto(url))
            if turn:
                samples.append(seconds * 1e3)
    name = f"page with {RESOURCES} images"
    report.beside(name, loaded, "Chromium of the host", loaded_beside, "ms")


def _pictures(
    report: Report, session: BrowserSession, page: Any, beside: Any, rounds: int
) -> None:
    own, driven, driven_beside = Samples(), Samples(), Samples()
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "page.png"
        for _ in range(rounds):
            own.append(clock(lambda: session.screenshot(path, full_page=False)) * 1e3)
            driven.append(clock(page.screenshot) * 1e3)
            driven_beside.append(clock(beside.screenshot) * 1e3)
    report.row(f"screenshot() of {WIDTH}x{HEIGHT}", own, "ms")
    name = "page.screenshot() of Playwright"
    report.beside(name, driven, "of Chromium of the host", driven_beside, "ms")


def _live_view(
    report: Report, session: BrowserSession, host: Any, page: Any, port: int
) -> None:
    page.goto(f"http://{HOST}:{port}/frames")
    rows = page.evaluate("outerHeight - innerHeight")
    view = host.new_page(viewport={"width": WIDTH, "height": HEIGHT + rows})
    view.goto(session.live_url)
    view.wait_for_selector("html.noVNC_connected", timeout=PATIENCE_MS)
    before, begun = page.evaluate("frames"), time.perf_counter()
    changes = view.evaluate(COUNT_CHANGES, [320, rows + 240, WATCHED_SECONDS * 1000])
    seconds = time.perf_counter() - begun
    drawn = (page.evaluate("frames") - before) / seconds
    report.value("live view: pictures a second that a viewer gets", changes / seconds, "/s")
    report.value("  beside: what the page draws meanwhile", drawn, "/s")
    report.ratio("seen / drawn", changes / seconds / drawn)
    view.close()


def main() -> int:
    parser = argparse.ArgumentParser(description="Measures browser sessions alone.")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    report = Report()
    with tempfile.TemporaryDirectory() as data_dir:
        os.environ["SMOLVM_DATA_DIR"] = data_dir
        sessions(report, options.rounds)
    return 1 if report.has_broken_promise else 0


if __name__ == "__main__":
    sys.exit(main())
