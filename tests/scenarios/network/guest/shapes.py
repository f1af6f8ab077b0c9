"""What connections and datagrams do that programs seldom think of; prints what came of each.

The argument is the address of the echo.
"""

import errno
import hashlib
import json
import os
import select
import selectors
import socket
import sys

HOST = sys.argv[1]
PATIENCE = 60
ECHO, DIGEST, RESET, DAYTIME, CLOSED = 7, 10, 11, 13, 99
# Around the lengths of packets: of Ethernet's, of IPv6's smallest link, of the guest's own link.
SIZES = (1, 1231, 1232, 1233, 1471, 1472, 1473, 8972, 65491, 65492)


def connect(port: int) -> socket.socket:
    return socket.create_connection((HOST, port), PATIENCE)


def short(count: int) -> int:
    """Makes connections one after another, to a server that speaks first; counts the whole."""
    whole = 0
    for _ in range(count):
        with connect(DAYTIME) as connection:
            whole += connection.makefile("rb").read().endswith(b"PST\r\n")
    return whole


def parallel(count: int) -> int:
    """Echoes something different on each of many connections that are open at once."""
    waiting = selectors.DefaultSelector()
    connections = [connect(ECHO) for _ in range(count)]
    for number, connection in enumerate(connections):
        connection.sendall(b"%08d" % number)
        waiting.register(connection, selectors.EVENT_READ, number)
    echoed = 0
    while waiting.get_map():
        ready = waiting.select(PATIENCE)
        if not ready:
            break
        for key, _ in ready:
            echoed += key.fileobj.recv(8, socket.MSG_WAITALL) == b"%08d" % key.data
            waiting.unregister(key.fileobj)
    for connection in connections:
        connection.close()
    return echoed


def half_close() -> bool:
    """Ends one half, and reads from the other what only then can be known."""
    sent = os.urandom(1 << 20)
    with connect(DIGEST) as connection:
        connection.sendall(sent)
        connection.shutdown(socket.SHUT_WR)
        received = connection.makefile("rb").read()
    return received.decode() == hashlib.sha256(sent).hexdigest()


def slow_writer() -> bool:
    """Sends byte by byte."""
    sent = os.urandom(2000)
    with connect(DIGEST) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in sent:
            connection.sendall(bytes([byte]))
        connection.shutdown(socket.SHUT_WR)
        received = connection.makefile("rb").read()
    return received.decode() == hashlib.sha256(sent).hexdigest()


def late_reader() -> bool:
    """Reads nothing of the echo until every buffer on the way is full, and then all of it."""
    sent, received = hashlib.sha256(), hashlib.sha256()
    with connect(ECHO) as connection:
        connection.setblocking(False)
        while select.select([], [connection], [], 2)[1]:
            piece = os.urandom(1 << 16)
            sent.update(piece[: connection.send(piece)])
        connection.settimeout(PATIENCE)
        connection.shutdown(socket.SHUT_WR)
        while piece := connection.recv(1 << 16):
            received.update(piece)
    return received.digest() == sent.digest()


def error_of(action) -> str:
    try:
        action()
    except OSError as error:
        return errno.errorcode[error.errno]
    return "none"


def reset() -> None:
    with connect(RESET) as connection:
        connection.sendall(b"x")
        connection.recv(1)


def datagrams() -> dict[int, str]:
    """Echoes datagrams of many sizes."""
    outcomes = {}
    for size in SIZES:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as endpoint:
            endpoint.settimeout(PATIENCE)
            endpoint.connect((HOST, ECHO))
            payload = os.urandom(size)
            endpoint.send(payload)
            outcomes[size] = endpoint.recv(1 << 16) == payload
    return outcomes


print(
    json.dumps(
        {
            "short": short(1000),
            "parallel": parallel(200),
            "half_close": half_close(),
            "slow_writer": slow_writer(),
            "late_reader": late_reader(),
            "reset": error_of(reset),
            "refused": error_of(lambda: connect(CLOSED)),
            "datagrams": datagrams(),
        }
    )
)
