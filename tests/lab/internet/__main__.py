"""Serves one side of the lab, `internet` or `host`, until standard input ends.

LAB is the lab's directory.
"""

import os
import sys
from pathlib import Path

from . import dns, plain
from .journal import Journal
from .web import Web, tls

# The lab's resolver, another one, and where datagrams are echoed.
RESOLVERS = ("203.0.113.53", "203.0.113.54")
DATAGRAMS = ("203.0.113.20", "203.0.113.10", "2001:db8:2::20", "169.254.169.254", "10.9.8.7")

HTTP_PORTS = (80, 8080)
# The last one is DNS over TLS's (RFC 7858 §3.1); who gets that far is in the journal.
HTTPS_PORTS = (443, 8443, 853)
HOST_PORT = 8080


def serve_internet(directory: Path, journal: Journal) -> None:
    zone = dns.Zone(directory / "zone.json")
    for address in RESOLVERS:
        dns.serve(address, zone, journal)
    plain.serve_streams(journal)
    plain.serve_datagrams(DATAGRAMS, journal)
    for port in HTTP_PORTS:
        Web(port, None, directory / "site", journal).start()
    spoken = tls(directory / "server.pem", directory / "server.key")
    for port in HTTPS_PORTS:
        Web(port, spoken, directory / "site", journal).start()


def main() -> None:
    side, directory = sys.argv[1], Path(os.environ["LAB"])
    journal = Journal(directory / f"{side}.jsonl")
    if side == "internet":
        serve_internet(directory, journal)
    else:
        Web(HOST_PORT, None, directory / "site", journal).start()
    print("ready", flush=True)
    sys.stdin.buffer.read()


main()
