"""A plain client of the Chrome DevTools Protocol: one WebSocket, one call at a time."""

from __future__ import annotations

import base64
import json
import os
import urllib.request
from http.client import HTTPConnection
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

#: Seconds that an emulated guest may take to answer.
PATIENCE = 120


class WebSocket:
    """A connection to a browser (RFC 6455)."""

    def __init__(self, url: str) -> None:
        where = urlsplit(url)
        self._connection = HTTPConnection(where.netloc, timeout=PATIENCE)
        upgrade = {
            "Connection": "Upgrade",
            "Upgrade": "websocket",
            "Sec-WebSocket-Version": "13",
            "Sec-WebSocket-Key": base64.b64encode(os.urandom(16)).decode(),
        }
        self._connection.request("GET", where.path, headers=upgrade)
        self._socket = self._connection.sock
        self._file = self._socket.makefile("rb")
        status = self._file.readline()
        assert b" 101 " in status, status
        while self._file.readline() != b"\r\n":
            pass
        self._last_id = 0

    @classmethod
    def of_browser(cls, cdp_url: str) -> WebSocket:
        """Connects to the browser that answers at a session's ``cdp_url``."""
        with urllib.request.urlopen(f"{cdp_url}/json/version", timeout=PATIENCE) as answer:
            return cls(json.load(answer)["webSocketDebuggerUrl"])

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Returns the result of a method."""
        self._last_id += 1
        self._send(json.dumps({"id": self._last_id, "method": method, "params": parameters}))
        while True:
            answer = json.loads(self._receive())
            if answer.get("id") == self._last_id:
                result: dict[str, Any] = answer["result"]
                return result

    def close(self) -> None:
        self._file.close()
        self._connection.close()

    def __enter__(self) -> WebSocket:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _send(self, text: str) -> None:
        data = text.encode()
        assert len(data) < 1 << 16
        length = bytes([0xFE]) + len(data).to_bytes(2, "big")
        # Masked with zeros: what masks are for is caches between, and there is none.
        self._socket.sendall(b"\x81" + length + bytes(4) + data)

    def _receive(self) -> bytes:
        content = b""
        while True:
            first, length = self._file.read(2)
            if length >= 126:
                length = int.from_bytes(self._file.read(2 if length == 126 else 8), "big")
            content += self._file.read(length)
            # The last frame of a message.
            if first & 0x80:
                return content
