"""Serves in the background, and ends once it does. TCP port 7000 tells each client its address and
then sends back what it sends; so does port 7001, on the loopback alone. UDP port 7000 sends back
what it gets, and keeps it in /tmp/datagrams, one a line.
"""

import os
import selectors
import socket
import threading

PORT, LOOPBACK_PORT = 7000, 7001


def serve(connection: socket.socket, address: str) -> None:
    with connection:
        connection.sendall(address.encode() + b"\n")
        while piece := connection.recv(1 << 16):
            connection.sendall(piece)


def answer(endpoint: socket.socket) -> None:
    payload, address = endpoint.recvfrom(1 << 16)
    with open("/tmp/datagrams", "ab") as kept:
        kept.write(payload + b"\n")
    endpoint.sendto(payload, address)


everybody = socket.create_server(("0.0.0.0", PORT))
loopback = socket.create_server(("127.0.0.1", LOOPBACK_PORT))
datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
datagrams.bind(("0.0.0.0", PORT))
print("{}", flush=True)
if os.fork():
    os._exit(0)
os.setsid()
for stream in (0, 1, 2):
    os.close(stream)
selector = selectors.DefaultSelector()
for endpoint in (everybody, loopback, datagrams):
    selector.register(endpoint, selectors.EVENT_READ)
while True:
    for key, _ in selector.select():
        if key.fileobj is datagrams:
            answer(datagrams)
            continue
        connection, (address, _) = key.fileobj.accept()
        threading.Thread(target=serve, args=(connection, address), daemon=True).start()
