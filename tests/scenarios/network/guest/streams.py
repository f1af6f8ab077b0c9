"""A WebSocket and server-sent events at the host given; prints what was received."""

import base64
import json
import os
import socket
import sys
import urllib.request

HOST = sys.argv[1]


def websocket(text: bytes) -> str:
    """Sends a text to the echo and returns what comes back (RFC 6455 §5.2)."""
    with socket.create_connection((HOST, 80)) as connection:
        stream = connection.makefile("rwb")
        key = base64.b64encode(os.urandom(16)).decode()
        stream.write(
            f"GET /websocket HTTP/1.1\r\nHost: {HOST}\r\nUpgrade: websocket\r\n"
            f"Connection: Upgrade\r\nSec-WebSocket-Key: {key}\r\n"
            "Sec-WebSocket-Version: 13\r\n\r\n".encode()
        )
        stream.flush()
        while stream.readline() != b"\r\n":
            pass
        mask = os.urandom(4)
        masked = bytes(byte ^ mask[i % 4] for i, byte in enumerate(text))
        stream.write(bytes([0x81, 0x80 | len(text)]) + mask + masked)
        stream.flush()
        head = stream.read(2)
        return stream.read(head[1]).decode()


def events(key: str) -> list[str]:
    """Returns the events; the second one is sent when the first one is here."""
    received = []
    with urllib.request.urlopen(f"http://{HOST}/events/{key}") as stream:
        for line in stream:
            if line.startswith(b"data: "):
                received.append(line[6:].decode().strip())
                urllib.request.urlopen(f"http://{HOST}/release/{key}").close()
    return received


print(json.dumps({"websocket": websocket(b"over a socket"), "events": events("streams")}))
