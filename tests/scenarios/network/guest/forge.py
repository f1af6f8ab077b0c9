"""`forge.py PEER SOURCE...`: sends a datagram to port 7000 of a peer from each source address, with
the address as its payload. Only a raw socket sends those that are not the guest's.
"""

import json
import socket
import struct
import sys
from pathlib import Path

GATEWAY, PORT = "172.16.0.1", 7000


def hardware_address(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))


def gateway_mac() -> bytes:
    for line in Path("/proc/net/arp").read_text().splitlines():
        if line.startswith(GATEWAY + " "):
            return hardware_address(line.split()[3])
    raise SystemExit("the gateway has no hardware address")


def checksum(data: bytes) -> int:
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def packet(source: str, to: str) -> bytes:
    payload = source.encode()
    # No checksum, which IPv4 allows (RFC 768).
    datagram = struct.pack("!HHHH", 5000, PORT, 8 + len(payload), 0) + payload
    ends = socket.inet_aton(source) + socket.inet_aton(to)
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(datagram), 1, 0, 64, 17, 0) + ends
    return head[:10] + struct.pack("!H", checksum(head)) + head[12:] + datagram


peer, *sources = sys.argv[1:]
name = next(path.name for path in Path("/sys/class/net").iterdir() if path.name != "lo")
own = hardware_address(Path(f"/sys/class/net/{name}/address").read_text().strip())
link = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
link.bind((name, 0))
for source in sources:
    link.send(gateway_mac() + own + b"\x08\x00" + packet(source, peer))
print(json.dumps(sources))
