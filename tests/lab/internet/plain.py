"""Small servers of TCP and UDP, on the ports that the standards gave them where there are any."""

import hashlib
import socket
import socketserver
import struct
import threading
from collections.abc import Callable, Iterable

from .journal import Journal

# RFC 862 and RFC 867; QUIC's (RFC 9000 §5).
ECHO, DAYTIME, QUIC = 7, 13, 443
# Reads until the client ends its half, then tells the SHA-256 of what it read.
DIGEST = 10
# Resets the connection at the first byte.
RESET = 11

PIECE = 1 << 16


def echo(connection: socket.socket) -> None:
    while piece := connection.recv(PIECE):
        connection.sendall(piece)


def daytime(connection: socket.socket) -> None:
    connection.sendall(b"Tuesday, February 22, 1982 17:37:43-PST\r\n")


def digest(connection: socket.socket) -> None:
    total = hashlib.sha256()
    while piece := connection.recv(PIECE):
        total.update(piece)
    connection.sendall(total.hexdigest().encode())


def reset(connection: socket.socket) -> None:
    connection.recv(1)
    # With no time to linger, closing resets (socket(7), SO_LINGER).
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


STREAMS: dict[int, Callable[[socket.socket], None]] = {
    ECHO: echo,
    DAYTIME: daytime,
    DIGEST: digest,
    RESET: reset,
}


class DualStack(socketserver.ThreadingTCPServer):
    """Listens at every address of both IP versions; a thread for each connection."""

    address_family = socket.AF_INET6
    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 1024

    def server_bind(self) -> None:
        self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        socketserver.TCPServer.server_bind(self)

    def handle_error(self, request: object, client_address: object) -> None:
        """Says nothing: guests break connections off, and some tests are about that."""

    def start(self) -> None:
        threading.Thread(target=self.serve_forever, daemon=True).start()


def serve_streams(journal: Journal) -> None:
    """Serves the TCP ports at every address."""

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            local = self.request.getsockname()
            journal.write("tcp", local, self.client_address)
            STREAMS[local[1]](self.request)

    for port in STREAMS:
        DualStack(("::", port), Handler).start()


def serve_datagrams(addresses: Iterable[str], journal: Journal) -> None:
    """Echoes datagrams at these addresses."""
    for address in addresses:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        for port in (ECHO, QUIC):
            endpoint = socket.socket(family, socket.SOCK_DGRAM)
            endpoint.bind((address, port))
            threading.Thread(target=_echo_datagrams, args=(endpoint, journal), daemon=True).start()


def _echo_datagrams(endpoint: socket.socket, journal: Journal) -> None:
    while True:
        payload, peer = endpoint.recvfrom(1 << 16)
        first = payload[:32].decode("latin-1")
        journal.write("udp", endpoint.getsockname(), peer, first=first, length=len(payload))
        endpoint.sendto(payload, peer)
