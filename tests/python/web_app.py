"""A small web application on this host's loopback, for browsers to be tried with.

It keeps what it was sent, so that a test can compare that with what was typed.
"""

from __future__ import annotations

import base64
import email
import email.policy
import hashlib
import io
import math
import threading
import wave
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.message import EmailMessage
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

#: What the guest calls this host.
HOST = "host.smolvm.internal"

#: Texts in the world's scripts, each with the first letters that must be drawn.
SCRIPTS = {
    "Latin": "Grüße, žluťoučký kůň",
    "Greek": "Καλημέρα κόσμε",
    "Cyrillic": "Привет, мир",
    "Arabic": "مرحبا بالعالم",
    "Hebrew": "שלום עולם",
    "Devanagari": "नमस्ते दुनिया",
    "Thai": "สวัสดีชาวโลก",
    "Chinese": "你好世界",
    "Japanese": "こんにちは世界",
    "Korean": "안녕하세요",
    "emoji": "😀🚀🦀",
}

#: Text that is written from right to left.
RTL = {"Arabic", "Hebrew"}

#: Where /colours has a rectangle and of which colour: left, top, width, height.
RECTANGLES = {
    (255, 0, 0): (0, 0, 100, 80),
    (0, 128, 0): (1340, 0, 100, 80),
    (0, 0, 255): (0, 820, 100, 80),
    (255, 165, 0): (1340, 820, 100, 80),
    (128, 0, 128): (600, 400, 240, 100),
}

#: Of everything between the rectangles.
BACKGROUND = (240, 240, 220)

#: What a download consists of, byte for byte: no text.
DOWNLOAD = bytes(range(256)) * 64


def _document(title: str, body: str) -> str:
    return f'<!doctype html><html lang="en"><title>{title}</title><body>{body}</body></html>'


def _colours() -> str:
    parts = [
        f'<div style="position:absolute;left:{left}px;top:{top}px;width:{width}px;'
        f'height:{height}px;background:rgb{colour}"></div>'
        for colour, (left, top, width, height) in RECTANGLES.items()
    ]
    style = f"<style>html{{background:rgb{BACKGROUND}}}body{{margin:0;height:900px}}</style>"
    return _document("colours", style + "".join(parts))


def _scripts() -> str:
    lines = [
        f'<p id="{name}" dir="{"rtl" if name in RTL else "ltr"}">{text}</p>'
        for name, text in SCRIPTS.items()
    ]
    return _document(" ".join(SCRIPTS.values()), "".join(lines))


def tone() -> bytes:
    """Half a second of a sound, as a WAV file."""
    rate, file = 8000, io.BytesIO()
    with wave.open(file, "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(1)
        sound.setframerate(rate)
        steps = range(rate // 2)
        sound.writeframes(bytes(round(128 + 90 * math.sin(step / 3)) for step in steps))
    return file.getvalue()


PAGES = {
    "/": _document(
        "start",
        '<h1>Start</h1><a href="/second">the second page</a> <a href="/moved">moved</a>'
        ' <a href="/missing">nowhere</a> <a href="/report.bin">report</a>',
    ),
    "/second": _document("second", "<h1>Second</h1>"),
    "/form": _document(
        "form",
        '<form method="post" enctype="multipart/form-data" action="/submitted">'
        '<label>Name <input name="name"></label>'
        '<label>Notes <textarea name="notes"></textarea></label>'
        '<label>Colour <select name="colour"><option>red<option>green<option>blue</select></label>'
        '<label><input type="checkbox" name="fast" value="yes">Fast</label>'
        '<label><input type="checkbox" name="slow" value="yes">Slow</label>'
        '<label><input type="radio" name="size" value="s">Small</label>'
        '<label><input type="radio" name="size" value="l">Large</label>'
        '<label>Files <input type="file" name="files" multiple></label>'
        "<button>Send</button></form>",
    ),
    "/counter": _document(
        "counter",
        '<button onclick="this.textContent = ++count + \' times\'">press</button>'
        "<script>let count = 0</script>",
    ),
    "/popups": _document(
        "popups",
        '<a href="/second" target="_blank">another tab</a>'
        "<button onclick=\"open('/second', 'small', 'width=400,height=300')\">window</button>",
    ),
    "/frames": _document(
        "frames",
        '<iframe name="outer" src="/counter"></iframe>'
        '<iframe name="inner" srcdoc="&lt;p&gt;written here&lt;/p&gt;"></iframe>',
    ),
    "/colours": _colours(),
    "/scripts": _scripts(),
    "/tall": _document(
        "tall",
        "<style>body{margin:0;height:3000px;background:white}</style>"
        '<div style="position:absolute;top:2900px;width:100%;height:100px;background:#00f"></div>',
    ),
    "/typing": _document(
        "typing",
        "<style>body{margin:0}input,button{position:absolute;font-size:30px}"
        "input{left:200px;top:300px;width:500px}</style>"
        "<input autofocus><script>clicks = [];"
        "addEventListener('mousedown', e => clicks.push([e.clientX, e.clientY, e.button]))"
        "</script>",
    ),
}


@dataclass
class Received:
    """What the browser has sent: fields by name, and files by their names."""

    fields: dict[str, list[str]] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)


class WebApp:
    """The application. ``url`` is what a guest calls it, ``local_url`` what this host does."""

    def __init__(self, server: ThreadingHTTPServer) -> None:
        self.port = server.server_port
        self.url = f"http://{HOST}:{self.port}"
        self.local_url = f"http://127.0.0.1:{self.port}"
        self.received = Received()
        #: Files that a test has added: content type and content by path.
        self.files: dict[str, tuple[str, bytes]] = {"/tone.wav": ("audio/wav", tone())}
        #: The user agents that have asked for something.
        self.agents: set[str] = set()

    @property
    def rule(self) -> str:
        """What a sandbox must be allowed to reach it."""
        return f"{HOST}:{self.port}"


class _Handler(BaseHTTPRequestHandler):
    app: WebApp
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        self.app.agents.add(self.headers.get("User-Agent", ""))
        if path == "/echo":
            self._echo()
        elif path == "/moved":
            self._answer(302, "text/plain", b"", {"Location": "/second"})
        elif path == "/report.bin":
            attached = {"Content-Disposition": 'attachment; filename="report.bin"'}
            self._answer(200, "application/octet-stream", DOWNLOAD, attached)
        elif path in self.app.files:
            self._answer(200, *self.app.files[path])
        elif path in PAGES:
            self._answer(200, "text/html; charset=utf-8", PAGES[path].encode())
        else:
            self._answer(404, "text/html", _document("not here", "nothing is here").encode())

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        head = f"Content-Type: {self.headers['Content-Type']}\r\n\r\n".encode()
        message = email.message_from_bytes(head + body, policy=email.policy.HTTP)
        received = Received()
        for part in message.iter_parts():
            assert isinstance(part, EmailMessage)
            content = part.get_payload(decode=True)
            assert isinstance(content, bytes)
            name = str(part.get_param("name", header="Content-Disposition"))
            file = part.get_filename()
            if file is None:
                received.fields.setdefault(name, []).append(content.decode())
            elif file:
                received.files[file] = content
        self.app.received = received
        self._answer(200, "text/html", _document("sent", "<h1>Thank you</h1>").encode())

    def _answer(
        self, status: int, kind: str, body: bytes, headers: dict[str, str] | None = None
    ) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def _echo(self) -> None:
        """A WebSocket (RFC 6455) that sends back what it gets."""
        key = self.headers["Sec-WebSocket-Key"] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
        self.send_response(101)
        self.send_header("Upgrade", "websocket")
        self.send_header("Connection", "Upgrade")
        accept = base64.b64encode(hashlib.sha1(key.encode()).digest()).decode()
        self.send_header("Sec-WebSocket-Accept", accept)
        self.end_headers()
        for first, payload in _frames(self.rfile):
            self.wfile.write(_frame(first, payload))
        self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:
        """Keeps the requests out of the test's output."""


def _frames(source: io.BufferedIOBase) -> Iterator[tuple[int, bytes]]:
    """The frames of a client (RFC 6455 §5.2), the closing one last: first byte and payload."""
    while head := source.read(2):
        length = head[1] & 0x7F
        if length >= 126:
            length = int.from_bytes(source.read(2 if length == 126 else 8), "big")
        mask = source.read(4) * (length // 4 + 1)
        masked = source.read(length)
        yield head[0], bytes(a ^ b for a, b in zip(masked, mask))
        if head[0] & 0x0F == 8:
            return


def _frame(first: int, payload: bytes) -> bytes:
    size = len(payload)
    if size < 126:
        return bytes([first, size]) + payload
    if size < 1 << 16:
        return bytes([first, 126]) + size.to_bytes(2, "big") + payload
    return bytes([first, 127]) + size.to_bytes(8, "big") + payload


@contextmanager
def served() -> Iterator[WebApp]:
    """Serves the application on a port of this host's loopback."""

    class Handler(_Handler):
        """Handles what this server is asked for."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        # What a browser keeps open must not keep the test from ending.
        server.block_on_close = False
        app = WebApp(server)
        Handler.app = app
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield app
        server.shutdown()
        thread.join()
