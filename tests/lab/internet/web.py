"""HTTP and HTTPS at every address of the lab.

====================  ==========================================================================
``/``                 what the server saw: a JSON object with `host`, `sni`, `address`, `scheme`
``/bytes/N``          N bytes; ``/bytes/N/sha256`` is their digest
``/upload`` (PUT)     the SHA-256 of the body
``/events/KEY``       two server-sent events; the second waits for a request of ``/release/KEY``
``/websocket``        a WebSocket that echoes
``/site/...``         a file of the lab's directory `site`
====================  ==========================================================================
"""

import base64
import hashlib
import http.server
import json
import ssl
import struct
import threading
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from .journal import Journal
from .plain import DualStack

PIECE = 1 << 16
RELEASE_SECONDS = 60

# RFC 6455 §1.3 and §5.2.
WEBSOCKET_KEY = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
TEXT, CLOSE = 0x1, 0x8


class Web(DualStack):
    """A server of one port."""

    def __init__(self, port: int, tls: ssl.SSLContext | None, site: Path, journal: Journal) -> None:
        super().__init__(("::", port), Handler)
        self.tls, self.site, self.journal = tls, site, journal
        self.released: dict[str, threading.Event] = defaultdict(threading.Event)

    def finish_request(self, request, client_address) -> None:
        # Here, and not when it is accepted, as a slow handshake must not keep others waiting.
        if self.tls is not None:
            request = self.tls.wrap_socket(request, server_side=True)
        super().finish_request(request, client_address)
        if self.tls is not None:
            request.close()


def tls(certificate: Path, key: Path) -> ssl.SSLContext:
    """Returns how TLS is spoken: one certificate for all names, and the name shown is kept."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)

    def keep(connection: ssl.SSLObject, name: str | None, _context: ssl.SSLContext) -> None:
        connection.shown_name = name

    context.sni_callback = keep
    return context


def content(length: int) -> Iterator[bytes]:
    """Returns bytes that repeat nowhere, in pieces."""
    base = bytes(range(256)) * (PIECE // 256 - 1)
    for start in range(0, length, PIECE):
        piece = struct.pack("!Q", start) * 32 + base
        yield piece[: length - start]


class Handler(http.server.BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    server: Web

    def log_message(self, *_arguments: object) -> None:
        """Says nothing: the journal does."""

    def do_GET(self) -> None:
        local = self.request.getsockname()
        seen = {
            "scheme": "https" if self.server.tls else "http",
            "host": self.headers.get("host"),
            "sni": getattr(self.request, "shown_name", None),
        }
        self.server.journal.write("web", local, self.client_address, path=self.path, **seen)
        seen["address"] = local[0].removeprefix("::ffff:")
        match self.path.partition("?")[0].strip("/").split("/"):
            case ["bytes", length]:
                self._send(content(int(length)), int(length))
            case ["bytes", length, "sha256"]:
                self._send_text(digest(content(int(length))))
            case ["events", key]:
                self._send_events(key)
            case ["release", key]:
                self.server.released[key].set()
                self._send_text("released")
            case ["websocket"]:
                self._websocket()
            case ["site", *parts] if ".." not in parts:
                self._send_file(self.server.site.joinpath(*parts))
            case _:
                self._send_text(json.dumps(seen) + "\n")

    def do_PUT(self) -> None:
        self._send_text(digest(self._body()))

    def _body(self) -> Iterator[bytes]:
        if self.headers.get("transfer-encoding") != "chunked":
            yield from self._read(int(self.headers["content-length"]))
            return
        while length := int(self.rfile.readline(), 16):
            yield from self._read(length)
            self.rfile.readline()
        self.rfile.readline()

    def _read(self, length: int) -> Iterator[bytes]:
        while length and (piece := self.rfile.read(min(length, PIECE))):
            length -= len(piece)
            yield piece

    def _send(self, pieces: Iterator[bytes], length: int, kind: str = "text/plain") -> None:
        self.send_response(200)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(length))
        self.end_headers()
        for piece in pieces:
            self.wfile.write(piece)

    def _send_text(self, text: str) -> None:
        self._send(iter([text.encode()]), len(text.encode()))

    def _send_file(self, path: Path) -> None:
        if path.is_dir():
            path /= "index.html"
        if not path.is_file():
            self.send_error(404)
            return
        data = path.read_bytes()
        kind = "text/html" if path.suffix == ".html" else "application/octet-stream"
        self._send(iter([data]), len(data), kind)

    def _send_events(self, key: str) -> None:
        self.close_connection = True
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.end_headers()
        self.wfile.write(b"data: first\n\n")
        if self.server.released[key].wait(RELEASE_SECONDS):
            self.wfile.write(b"data: second\n\n")

    def _websocket(self) -> None:
        self.close_connection = True
        key = self.headers["sec-websocket-key"].encode() + WEBSOCKET_KEY
        self.send_response(101)
        self.send_header("upgrade", "websocket")
        self.send_header("connection", "Upgrade")
        accepted = base64.b64encode(hashlib.sha1(key).digest())
        self.send_header("sec-websocket-accept", accepted.decode())
        self.end_headers()
        while frame := self.rfile.read(2):
            kind, length = frame[0] & 0xF, frame[1] & 0x7F
            if length == 126:
                (length,) = struct.unpack("!H", self.rfile.read(2))
            mask = self.rfile.read(4)
            text = bytes(byte ^ mask[i % 4] for i, byte in enumerate(self.rfile.read(length)))
            head = bytes([0x80 | kind])
            head += bytes([length]) if length < 126 else struct.pack("!BH", 126, length)
            self.wfile.write(head + text)
            if kind == CLOSE:
                return


def digest(pieces: Iterator[bytes]) -> str:
    """Returns the SHA-256 of bytes."""
    total = hashlib.sha256()
    for piece in pieces:
        total.update(piece)
    return total.hexdigest()
