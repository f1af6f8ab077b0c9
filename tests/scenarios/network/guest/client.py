"""Connects to a host and port, tells its process ID, and asks for the name until that ends."""

import os
import socket
import sys

host, port = sys.argv[1], int(sys.argv[2])
connection = socket.create_connection((host, port), 60)
print(os.getpid(), flush=True)
connection.settimeout(0.2)
while True:
    try:
        connection.recv(1)
        break
    except TimeoutError:
        socket.getaddrinfo(host, port)
