"""Speaks TLS and HTTP as no well-behaved client does.

Each argument is `HOW ADDRESS NAME...`; prints a JSON object with what came of each: the names of
the servers that answered, such as `["web.lab.test"]` (`upload` where one took an upload), and then
`closed`, `reset` or a status that is no success.
"""

import email.parser
import json
import socket
import ssl
import sys
from typing import BinaryIO

PATIENCE = 30


def connect(address: str, port: int) -> socket.socket:
    connection = socket.create_connection((address, port), PATIENCE)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def request(name: str) -> bytes:
    return f"GET / HTTP/1.1\r\nHost: {name}\r\n\r\n".encode()


def answers(stream: BinaryIO, count: int) -> list[str]:
    """Reads the answers to requests: who served each, or why there is none."""
    served = []
    for _ in range(count):
        status = stream.readline().split()
        if not status:
            return [*served, "closed"]
        headers = email.parser.BytesParser().parsebytes(b"".join(iter(stream.readline, b"\r\n")))
        body = stream.read(int(headers["content-length"]))
        if status[1] != b"200":
            return [*served, f"status {status[1].decode()}"]
        served.append(json.loads(body)["host"] if body.startswith(b"{") else "upload")
    return served


def http_requests(address: str, *names: str) -> list[str]:
    """One request after the answer to another, on one connection."""
    served = []
    with connect(address, 80) as connection:
        stream = connection.makefile("rb")
        for name in names:
            connection.sendall(request(name))
            served += answers(stream, 1)
            if served[-1] != name:
                break
    return served


def pipelined(address: str, *names: str) -> list[str]:
    """All requests in one piece, on one connection."""
    with connect(address, 80) as connection:
        connection.sendall(b"".join(map(request, names)))
        return answers(connection.makefile("rb"), len(names))


def smuggled(address: str, outer: str, inner: str) -> list[str]:
    """A request in the body of another, whose length is told in two ways (RFC 9112 §6.1)."""
    hidden = request(inner)
    head = f"PUT /upload HTTP/1.1\r\nHost: {outer}\r\nContent-Length: {len(hidden) + 5}\r\n"
    with connect(address, 80) as connection:
        connection.sendall(head.encode() + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + hidden)
        return answers(connection.makefile("rb"), 2)


def tls(address: str, name: str, send=socket.socket.sendall) -> list[str]:
    """TLS that shows the name (`-`: none), with the hello in pieces as `send` makes them."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    received, written = ssl.MemoryBIO(), ssl.MemoryBIO()
    session = context.wrap_bio(received, written, server_hostname=None if name == "-" else name)
    with connect(address, 443) as connection:
        hello = True

        def drive(operation):
            nonlocal hello
            while True:
                try:
                    return operation()
                except ssl.SSLWantReadError:
                    if pending := written.read():
                        (send if hello else socket.socket.sendall)(connection, pending)
                        hello = False
                    if not (piece := connection.recv(1 << 16)):
                        raise ConnectionResetError from None
                    received.write(piece)

        drive(session.do_handshake)
        session.write(request(name))
        answer = b""
        # The answer is a JSON object.
        while b"}" not in answer:
            answer += drive(session.read)
        return [json.loads(answer.partition(b"\r\n\r\n")[2])["sni"] or "nobody"]


def byte_by_byte(connection: socket.socket, hello: bytes) -> None:
    for byte in hello:
        connection.sendall(bytes([byte]))


def in_records(connection: socket.socket, hello: bytes) -> None:
    """Sends the hello in TLS records of one byte (RFC 8446 §5.1)."""
    handshake = hello[5:]
    records = (hello[:3] + b"\0\1" + bytes([byte]) for byte in handshake)
    connection.sendall(b"".join(records))


def with_ech(connection: socket.socket, hello: bytes) -> None:
    """Adds an Encrypted Client Hello (RFC 9849 §5) to the extensions, with which a hello ends."""
    # Behind the headers of record and handshake, the version and the random (RFC 8446 §4.1.2).
    at = 5 + 4 + 2 + 32
    for width in (1, 2, 1):  # session, cipher suites, compression methods
        at += width + int.from_bytes(hello[at : at + width])
    extensions = hello[at + 2 :] + b"\xfe\x0d\0\x08" + bytes(8)
    body = hello[9:at] + len(extensions).to_bytes(2) + extensions
    handshake = hello[5:6] + len(body).to_bytes(3) + body
    connection.sendall(hello[:3] + len(handshake).to_bytes(2) + handshake)


HOW = {
    "http": http_requests,
    "pipelined": pipelined,
    "smuggled": smuggled,
    "tls": tls,
    "tls-bytes": lambda address, name: tls(address, name, byte_by_byte),
    "tls-ech": lambda address, name: tls(address, name, with_ech),
    "tls-records": lambda address, name: tls(address, name, in_records),
}


def outcome(words: str) -> list[str]:
    how, address, *names = words.split()
    try:
        return HOW[how](address, *names)
    except ConnectionResetError:
        return ["reset"]
    except ConnectionRefusedError:
        return ["refused"]


print(json.dumps({words: outcome(words) for words in sys.argv[1:]}))
