"""A DNS server whose zone is a file that a test may change at any time.

The file is a JSON object with a member for each name::

    {"www.lab.test": {"answers": [["203.0.113.10"], ["203.0.113.11"]], "ttl": 5, "alias": null}}

Each question of one type gets the next list of `answers`, and after the last the first again. A
name with an `alias` is a CNAME of it. `*.lab.test` is about every name below without its own
member. Other names do not exist.
"""

import ipaddress
import json
import socket
import socketserver
import struct
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from .journal import Journal

# RFC 1035 §3.2.2 and §4.1.1, RFC 3596 §2.1.
A, CNAME, AAAA = 1, 5, 28
NO_ERROR, NXDOMAIN = 0, 3
RESPONSE, TRUNCATED, RECURSION_AVAILABLE = 0x8000, 0x0200, 0x0080
MAX_DATAGRAM = 1232
MAX_ALIASES = 8


class Zone:
    """The names of the lab."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._turns: Counter[tuple[str, int]] = Counter()
        self._lock = threading.Lock()

    def records(self, name: str, kind: int) -> list[tuple[str, int, int, bytes]] | None:
        """Returns owner, type, TTL and data of what answers a question; None: no such name."""
        entries = json.loads(self._path.read_text())
        records: list[tuple[str, int, int, bytes]] = []
        for _ in range(MAX_ALIASES):
            entry = entries.get(name) or next(filter(None, map(entries.get, wildcards(name))), None)
            if entry is None:
                return records or None
            if entry["alias"] is None:
                addresses = self._next(name, kind, entry["answers"])
                return records + [(name, kind, entry["ttl"], data) for data in addresses]
            records.append((name, CNAME, entry["ttl"], wire_name(entry["alias"])))
            name = entry["alias"]
        return records

    def _next(self, name: str, kind: int, answers: list[list[str]]) -> list[bytes]:
        with self._lock:
            turn = self._turns[name, kind]
            self._turns[name, kind] += 1
        addresses = map(ipaddress.ip_address, answers[turn % len(answers)])
        version = {A: 4, AAAA: 6}.get(kind)
        return [address.packed for address in addresses if address.version == version]


def wildcards(name: str) -> Iterator[str]:
    """Returns the wildcards that a name is below, nearest first."""
    while name := name.partition(".")[2]:
        yield f"*.{name}"


def wire_name(name: str) -> bytes:
    """Returns a name as it is in messages (RFC 1035 §3.1)."""
    labels = (bytes([len(label)]) + label.encode() for label in name.split("."))
    return b"".join(labels) + b"\0"


def question(message: bytes) -> tuple[str, int, bytes]:
    """Returns name, type and bytes of the question of a message."""
    labels = []
    end = 12
    while length := message[end]:
        labels.append(message[end + 1 : end + 1 + length].decode("latin-1").lower())
        end += 1 + length
    (kind,) = struct.unpack_from("!H", message, end + 1)
    return ".".join(labels), kind, message[12 : end + 5]


def answer(message: bytes, zone: Zone, limit: int) -> bytes:
    """Returns the answer to a query, without its records if it were longer than `limit`."""
    identifier, flags = struct.unpack_from("!HH", message)
    name, kind, asked = question(message)
    records = zone.records(name, kind)
    code = NXDOMAIN if records is None else NO_ERROR
    flags = RESPONSE | flags & 0x0100 | RECURSION_AVAILABLE | code
    body = b"".join(
        wire_name(owner) + struct.pack("!HHIH", kind, 1, ttl, len(data)) + data
        for owner, kind, ttl, data in records or []
    )
    if len(asked) + len(body) + 12 > limit:
        flags, records, body = flags | TRUNCATED, [], b""
    header = struct.pack("!HHHHHH", identifier, flags, 1, len(records or []), 0, 0)
    return header + asked + body


def serve(address: str, zone: Zone, journal: Journal) -> None:
    """Answers queries to port 53 of the address, by UDP and TCP."""

    class Datagram(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            message, reply_to = self.request
            name, kind, _ = question(message)
            journal.write("dns", (address, 53), self.client_address, name=name, kind=kind)
            reply_to.sendto(answer(message, zone, MAX_DATAGRAM), self.client_address)

    class Stream(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            while prefix := self.rfile.read(2):
                message = self.rfile.read(int.from_bytes(prefix))
                name, kind, _ = question(message)
                journal.write("dns-tcp", (address, 53), self.client_address, name=name, kind=kind)
                answered = answer(message, zone, 0xFFFF)
                self.wfile.write(len(answered).to_bytes(2) + answered)

    class Datagrams(socketserver.ThreadingUDPServer):
        daemon_threads = True

        def server_bind(self) -> None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
            super().server_bind()

    class Streams(socketserver.ThreadingTCPServer):
        daemon_threads = True
        allow_reuse_address = True
        request_queue_size = 256

    for server in (Datagrams((address, 53), Datagram), Streams((address, 53), Stream)):
        threading.Thread(target=server.serve_forever, daemon=True).start()
