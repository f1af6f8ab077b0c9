"""What the browser's tests share: the command, a site on this host, and a look at videos."""

from __future__ import annotations

import json
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPResponse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

#: A start while other tests keep the processors busy.
START_SECONDS = 300

#: The name by which guests reach this host's loopback, where a rule allows it.
HOST = "host.smolvm.internal"

#: What a file that is downloaded holds, and nothing else in a guest.
SECRET = "quarterly figures 8f31"

_PAGES = {
    "/": "<title>home</title><h1>home</h1><a id=save href=/report.txt>report</a>",
    # Memory that has not been written to is not taken.
    "/eat": "<title>eater</title><script>const kept = [];"
    "setInterval(() => kept.push(new Uint8Array(1 << 25).fill(kept.length + 1)), 1);</script>",
}


def smolvm(arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs the command as agents do: by a login shell, and with its output captured."""
    command = f"{Path(sys.executable).with_name('smolvm')} {arguments}"
    return subprocess.run(
        ["bash", "-lc", command],
        capture_output=True,
        text=True,
        timeout=START_SECONDS,
        check=False,
    )


def wait_until(is_so: Callable[[], bool], seconds: float, what: str) -> None:
    """Returns when it is so, and fails when that takes too long."""
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline, f"{what} did not come"
        time.sleep(0.2)


def connected(host: str, path: str) -> HTTPResponse:
    """Opens a WebSocket (RFC 6455 §4.1) and closes it; returns the server's answer."""
    upgrade = {
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Protocol": "binary",
        "Sec-WebSocket-Key": "c21vbHZtIGNsaWVudCAhIQ==",
    }
    client = HTTPConnection(host, timeout=60)
    client.request("GET", path, headers=upgrade)
    answer = client.getresponse()
    client.close()
    return answer


class _Pages(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Cache-Control", "no-store")
        if self.path == "/report.txt":
            self.send_header("Content-Disposition", "attachment")
            body = SECRET
        else:
            self.send_header("Content-Type", "text/html; charset=utf-8")
            body = _PAGES.get(self.path, "")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, format: str, *args: object) -> None:
        """Keeps the requests out of the test's output."""


@contextmanager
def site() -> Iterator[str]:
    """A site on this host's loopback; gives its host and port, as guests know them."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Pages) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"{HOST}:{server.server_port}"
        server.shutdown()
        thread.join()


def video(archive: Path, name: str, into: Path) -> tuple[tuple[int, int], float]:
    """Returns the size and the seconds of a video among a session's artifacts."""
    with tarfile.open(archive) as members:
        found = members.extractfile(name)
        assert found is not None
        (into / "video.mp4").write_bytes(found.read())
    entries = ["-show_entries", "stream=width,height:format=duration", "-of", "json"]
    command = ["ffprobe", "-v", "error", *entries, str(into / "video.mp4")]
    probed = subprocess.run(command, capture_output=True, text=True, check=True)
    assert probed.stderr == ""
    found_in = json.loads(probed.stdout)
    (stream,) = found_in["streams"]
    return (stream["width"], stream["height"]), float(found_in["format"]["duration"])
