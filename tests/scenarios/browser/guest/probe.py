"""Looks at a browser session from inside its guest, and prints what it finds as JSON."""

import base64
import json
import os
import pathlib
import socket
import struct
import sys
import urllib.parse
import urllib.request


class WebSocket:
    """A client of RFC 6455 that sends and gets whole messages."""

    def __init__(self, url):
        parts = urllib.parse.urlsplit(url)
        self.stream = socket.create_connection((parts.hostname, parts.port))
        self.stream.settimeout(60)
        target = urllib.parse.urlunsplit(("", "", parts.path, parts.query, ""))
        key = base64.b64encode(os.urandom(16)).decode()
        lines = [f"GET {target} HTTP/1.1", f"Host: {parts.netloc}", "Upgrade: websocket"]
        lines += ["Connection: Upgrade", "Sec-WebSocket-Version: 13", f"Sec-WebSocket-Key: {key}"]
        self.stream.sendall("\r\n".join([*lines, "", ""]).encode())
        self.input = self.stream.makefile("rb")
        self.status = self.input.readline().decode().strip()
        while self.input.readline().strip():
            pass

    def send(self, text):
        payload = text.encode()
        # A key of zeros masks nothing; 126 says that the length takes two bytes.
        header = struct.pack("!BBHI", 0x81, 0x80 | 126, len(payload), 0)
        self.stream.sendall(header + payload)

    def receive(self):
        """Returns the next frame's payload; nothing where the other side is gone."""
        header = self.input.read(2)
        if len(header) < 2 or header[0] & 0xF == 8:
            return b""
        length = header[1] & 0x7F
        if length >= 126:
            kind = "!H" if length == 126 else "!Q"
            (length,) = struct.unpack(kind, self.input.read(struct.calcsize(kind)))
        return self.input.read(length)


def get(path):
    with urllib.request.urlopen(f"http://127.0.0.1:9222{path}", timeout=60) as answer:
        return json.load(answer)


def pages():
    """The addresses of the pages, and how large a picture of the first one is."""
    found = [target for target in get("/json/list") if target["type"] == "page"]
    page = WebSocket(found[0]["webSocketDebuggerUrl"])
    page.send(json.dumps({"id": 1, "method": "Page.captureScreenshot"}))
    answer = json.loads(page.receive())
    assert "result" in answer, answer
    picture = base64.b64decode(answer["result"]["data"])
    # The first chunk of a PNG (ISO/IEC 15948:2004, 11.2.2).
    width, height = struct.unpack("!II", picture[16:24])
    return {"urls": [target["url"] for target in found], "width": width, "height": height}


def live_view(token):
    """How noVNC's server takes a viewer with the token, and what the display says first."""
    query = urllib.parse.urlencode({"token": token})
    try:
        viewer = WebSocket(f"ws://127.0.0.1:6080/websockify?{query}")
        return {"status": viewer.status, "first": viewer.receive().decode()}
    except ConnectionResetError:
        return {"status": "", "first": ""}


def vnc():
    """Which ways the display has to know a viewer (RFC 6143, 7.1.2)."""
    viewer = socket.create_connection(("127.0.0.1", 5900))
    stream = viewer.makefile("rb")
    version = stream.read(12)
    viewer.sendall(version)
    return {"version": version.decode(), "security": list(stream.read(stream.read(1)[0]))}


def processes():
    """Chromium's processes, by what kind they are, and the one that started them."""
    found = {}
    for path in pathlib.Path("/proc").glob("[0-9]*"):
        # Forks of the zygote write theirs with spaces.
        words = (path / "cmdline").read_text().replace("\0", " ").split() or [""]
        kinds = [word.removeprefix("--type=") for word in words if word.startswith("--type=")]
        kind = kinds[0] if kinds else "browser"
        if "browser-session" in words[1 if len(words) > 1 else 0]:
            kind = "launcher"
        elif words[0] != "/usr/lib/chromium/chromium":
            continue
        lines = (path / "status").read_text().splitlines()
        status = dict(line.split(":\t", 1) for line in lines)
        found[kind] = {
            "pid": int(path.name),
            "uid": int(status["Uid"].split()[0]),
            "seccomp": int(status["Seccomp"]),
            "no_new_privs": int(status["NoNewPrivs"]),
            "user_namespace": os.readlink(path / "ns/user"),
            "network_namespace": os.readlink(path / "ns/net"),
            "oom_score_adj": int((path / "oom_score_adj").read_text()),
        }
    return found


WAYS = {"pages": pages, "live-view": live_view, "vnc": vnc, "processes": processes}
print(json.dumps(WAYS[sys.argv[1]](*sys.argv[2:])))
