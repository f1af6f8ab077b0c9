"""Sends frames that no kernel makes: attacks that carry their name as payload to the echo, so that
whoever reads the echo's journal sees which ones got through.

`flood-udp N` and `flood-tcp N` open N flows to addresses of 203.0.113.64/26 and 203.0.113.128/26.
"""

import socket
import struct
import sys
from pathlib import Path

ECHO, ECHO_V6 = "203.0.113.20", "2001:db8:2::20"
GUEST, GATEWAY = "172.16.0.2", "172.16.0.1"
GUEST_V6 = "fd73:6d6f:6c76::2"
ECHO_PORT, DNS_PORT = 7, 53

IPV4, VLAN, IPV6, LLDP = 0x0800, 0x8100, 0x86DD, 0x88CC
ICMP, TCP, UDP, IPIP, GRE = 1, 6, 17, 4, 47
HOP_BY_HOP, ROUTING, FRAGMENT, OPTIONS = 0, 43, 44, 60
SYN, FIN, URG_PSH_FIN = 0x02, 0x01, 0x29
MORE_FRAGMENTS = 0x2000
# No-operation and end (RFC 791 §3.1); loose source route by way of the metadata service.
NOTHING = b"\1\1\1\0"
SOURCE_ROUTE = bytes([131, 7, 4]) + socket.inet_aton("169.254.169.254") + b"\0"


def interface() -> str:
    return next(path.name for path in Path("/sys/class/net").iterdir() if path.name != "lo")


def mac_of_gateway() -> bytes:
    """Returns what ARP has found, after something was sent there."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as endpoint:
        endpoint.connect((GATEWAY, DNS_PORT))
        endpoint.settimeout(30)
        endpoint.send(b"\0\1\1\0\0\1\0\0\0\0\0\0\3web\3lab\4test\0\0\1\0\1")
        endpoint.recv(512)
    for line in Path("/proc/net/arp").read_text().splitlines():
        if line.startswith(GATEWAY + " "):
            return bytes.fromhex(line.split()[3].replace(":", ""))
    raise SystemExit("the gateway has no hardware address")


NAME = interface()
OWN_MAC = bytes.fromhex(Path(f"/sys/class/net/{NAME}/address").read_text().strip().replace(":", ""))
STRANGER = bytes.fromhex("020000000099")
LINK = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
LINK.bind((NAME, 0))
GATEWAY_MAC = mac_of_gateway()


def checksum(data: bytes) -> int:
    data += b"\0" * (len(data) % 2)
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def ipv4(payload: bytes, protocol=UDP, source=GUEST, to=ECHO, options=b"", fragment=0) -> bytes:
    words = 5 + len(options) // 4
    head = struct.pack(
        "!BBHHHBBH4s4s",
        0x40 | words, 0, words * 4 + len(payload), 1, fragment, 64, protocol, 0,
        socket.inet_aton(source), socket.inet_aton(to),
    ) + options  # fmt: skip
    return head[:10] + struct.pack("!H", checksum(head)) + head[12:] + payload


def udp(payload: bytes, to: int = ECHO_PORT, source: int = 5000) -> bytes:
    """Returns a datagram without a checksum, which IPv4 allows (RFC 768)."""
    return struct.pack("!HHHH", source, to, 8 + len(payload), 0) + payload


def tcp(flags: int, to: int, source: int = 5000, target: str = ECHO) -> bytes:
    segment = struct.pack("!HHIIBBHHH", source, to, 1, 0, 5 << 4, flags, 1024, 0, 0)
    pseudo = socket.inet_aton(GUEST) + socket.inet_aton(target) + struct.pack("!HH", TCP, 20)
    return segment[:16] + struct.pack("!H", checksum(pseudo + segment)) + segment[18:]


def ipv6(payload: bytes, extensions: list[tuple[int, bytes]] = (), to: str = ECHO_V6) -> bytes:
    """Returns a UDP datagram to the echo, behind extension headers of these types."""
    ends = socket.inet_pton(socket.AF_INET6, GUEST_V6), socket.inet_pton(socket.AF_INET6, to)
    datagram = struct.pack("!HHHH", 5000, ECHO_PORT, 8 + len(payload), 0) + payload
    pseudo = ends[0] + ends[1] + struct.pack("!II", len(datagram), UDP)
    datagram = datagram[:6] + struct.pack("!H", checksum(pseudo + datagram)) + datagram[8:]
    kinds = [kind for kind, _ in extensions] + [UDP]
    chain = b"".join(bytes([kinds[i + 1]]) + rest for i, (_, rest) in enumerate(extensions))
    length = len(chain) + len(datagram)
    return struct.pack("!IHBB", 6 << 28, length, kinds[0], 64) + ends[0] + ends[1] + chain + datagram


def frame(packet: bytes, kind=IPV4, source=OWN_MAC, to=GATEWAY_MAC) -> bytes:
    return to + source + struct.pack("!H", kind) + packet


def forged_answer() -> bytes:
    """Returns a DNS answer: web.lab.test is 203.0.113.77."""
    name = b"\3web\3lab\4test\0"
    question = name + struct.pack("!HH", 1, 1)
    record = name + struct.pack("!HHIH", 1, 1, 3600, 4) + socket.inet_aton("203.0.113.77")
    return struct.pack("!HHHHHH", 7, 0x8180, 1, 1, 0, 0) + question + record


def icmp(kind: int, payload: bytes) -> bytes:
    message = struct.pack("!BBHHH", kind, 0, 0, 1, 1) + payload
    return message[:2] + struct.pack("!H", checksum(message)) + message[4:]


def extension(kind: int, name: bytes) -> bytes:
    # Padding (RFC 8200 §4.2), a route of no segments, or a fragment that is all there is.
    rest = {ROUTING: b"\0\0\0\0\0\0\0", FRAGMENT: b"\0\0\0\0\0\0\1"}.get(kind, b"\0\1\4\0\0\0\0")
    return frame(ipv6(name, [(kind, rest)]), IPV6)


def attacks(name: bytes) -> dict[str, list[bytes]]:
    """Returns the frames of every attack, with this payload."""
    whole = ipv4(udp(name))
    inner = ipv4(udp(name), to="10.9.8.7")
    return {
        "legit": [frame(whole)],
        "legit-v6": [frame(ipv6(name), IPV6)],
        "source-of-the-link": [frame(ipv4(udp(name), source="172.16.0.99"))],
        "source-of-the-internet": [frame(ipv4(udp(name), source="198.51.100.1"))],
        "source-of-the-gateway": [frame(ipv4(udp(name), source=GATEWAY))],
        "hardware-source": [frame(whole, source=STRANGER)],
        "hardware-destination": [frame(whole, to=STRANGER)],
        "options": [frame(ipv4(udp(name), options=NOTHING))],
        "source-route": [frame(ipv4(udp(name), options=SOURCE_ROUTE))],
        "fragments": [
            frame(ipv4(udp(name)[:8], fragment=MORE_FRAGMENTS)),
            frame(ipv4(udp(name)[8:], fragment=1)),
        ],
        "hop-by-hop": [extension(HOP_BY_HOP, name)],
        "routing": [extension(ROUTING, name)],
        "fragment-v6": [extension(FRAGMENT, name)],
        "destination-options": [extension(OPTIONS, name)],
        "tunnel-ipip": [frame(ipv4(inner, IPIP))],
        "tunnel-gre": [frame(ipv4(struct.pack("!HH", 0, IPV4) + inner, GRE))],
        "vlan": [frame(struct.pack("!HH", 1, IPV4) + whole, VLAN)],
        "lldp": [frame(name, LLDP)],
        "loopback": [
            frame(ipv4(udp(name), to="127.0.0.1")),
            frame(ipv4(tcp(SYN, 8080, target="127.0.0.1"), TCP, to="127.0.0.1")),
        ],
        "loopback-v6": [frame(ipv6(name, to="::1"), IPV6)],
        "link-local": [frame(ipv6(name, to="fe80::99"), IPV6)],
        "multicast": [frame(ipv4(udp(name), to="224.0.0.251"))],
        "broadcast": [frame(ipv4(udp(name), to="255.255.255.255"), to=b"\xff" * 6)],
        "icmp-timestamp": [frame(ipv4(icmp(13, name), ICMP))],
        "icmp-redirect": [frame(ipv4(icmp(5, whole), ICMP, to=GATEWAY))],
        "icmp-tunnel": [frame(ipv4(icmp(8, name * 40), ICMP))],
        "forged-answer": [
            frame(ipv4(udp(forged_answer(), 5000, DNS_PORT), source=GATEWAY, to=GUEST)),
            frame(ipv4(udp(forged_answer(), DNS_PORT), to=GATEWAY)),
        ],
        "no-handshake": [
            frame(ipv4(tcp(flags, 7), TCP)) for flags in (0, FIN, SYN | FIN, URG_PSH_FIN)
        ],
        "cut": [frame(whole[:length]) for length in range(len(whole))],
        "lies-about-length": [frame(whole[:2] + b"\xff\xff" + whole[4:])],
        "port-zero": [frame(ipv4(udp(name, to=0)))],
    }


def flood(protocol: int, count: int) -> None:
    base = {UDP: 64, TCP: 128}[protocol]
    for number in range(count):
        to, port = f"203.0.113.{base + number % 64}", 1 + number // 64 % 65535
        payload = udp(b"flood", port) if protocol == UDP else tcp(SYN, port, target=to)
        try:
            LINK.send(frame(ipv4(payload, protocol, to=to)))
        except OSError:
            # The device's queue is full: what a flood does to whoever makes it.
            continue


def main() -> None:
    match sys.argv[1:]:
        case ["flood-udp", count]:
            flood(UDP, int(count))
        case ["flood-tcp", count]:
            flood(TCP, int(count))
        case []:
            names = list(attacks(b""))
            for name in [*names, "legit-after"]:
                kind = "legit" if name == "legit-after" else name
                for made in attacks(name.encode())[kind]:
                    LINK.send(made)
    print("null")


main()
