"""Says in the page why a site cannot be reached, where the session's network denies it.

    Chromium ──loads a page──> Guard ──query──> gateway: REFUSED, and why ──> a page that says so
                                                any other answer          ──> Chromium goes on

The gateway decides and denies, with this or without; here it is only asked before Chromium asks,
which would say that there is no such site. What is denied by its address or port is not seen here:
those connections are refused.
"""

import asyncio
import base64
import html
import pathlib
import re
import secrets
import socket
import struct
import urllib.parse

HOSTS = pathlib.Path("/etc/hosts")
RESOLV_CONF = pathlib.Path("/etc/resolv.conf")

# Seconds that the gateway, which is next door, may take to say whether a name is allowed.
NAME_PATIENCE = 2

# DNS (RFC 1035 §3.2.2 and §4.1.1; RFC 6891 §6.1.1; RFC 8914 §2).
TYPE_A, TYPE_OPT, CLASS_IN, REFUSED, EXTENDED_ERROR = 1, 41, 1, 5, 15


class Guard:
    """Stands between the pages of one Chromium and what they load first."""

    def __init__(self, chromium):
        self.chromium = chromium

    async def attached(self, session, target):
        """Has a page wait for the guard's word before it loads a document."""
        documents = [{"resourceType": "Document", "requestStage": "Request"}]
        await self.chromium.call("Fetch.enable", session, patterns=documents)

    async def heard(self, session, event):
        """Deals with an event of a page."""
        if event["method"] == "Fetch.requestPaused":
            await self.judge(session, event["params"])

    async def judge(self, session, paused):
        request = paused["requestId"]
        url = urllib.parse.urlsplit(paused["request"]["url"])
        reason = None
        if url.scheme in ("http", "https") and is_public_name(url.hostname):
            reason = await why_refused(url.hostname)
        if reason is None:
            await self.chromium.call("Fetch.continueRequest", session, requestId=request)
            return
        await self.chromium.call(
            "Fetch.fulfillRequest",
            session,
            requestId=request,
            responseCode=403,
            responseHeaders=[
                {"name": "Content-Type", "value": "text/html; charset=utf-8"},
                {"name": "Cache-Control", "value": "no-store"},
            ],
            body=base64.b64encode(refusal_page(url.hostname, reason).encode()).decode(),
        )


def is_public_name(host):
    """Tells whether the gateway knows the host: neither an address nor the guest itself."""
    if not host or ":" in host or re.fullmatch(r"[0-9.]+", host):
        return False
    known = {name for line in HOSTS.read_text().splitlines() for name in line.split()[1:]}
    return host not in known and host != "localhost" and not host.endswith(".localhost")


async def why_refused(name):
    """Returns why the session's network does not let anybody ask for a name, if so."""
    found = re.search(r"^nameserver\s+(\S+)", RESOLV_CONF.read_text(), re.MULTILINE)
    if found is None:
        return None
    loop = asyncio.get_running_loop()
    try:
        number = secrets.randbits(16)
        query = dns_query(number, name)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.setblocking(False)
            await loop.sock_connect(client, (found[1], 53))
            await loop.sock_sendall(client, query)
            answer = await asyncio.wait_for(loop.sock_recv(client, 4096), NAME_PATIENCE)
        return refusal(answer, number)
    except (OSError, UnicodeError, struct.error, IndexError, TimeoutError):
        # Chromium finds out what is wrong, and says it.
        return None


def dns_query(number, name):
    """Returns a query for the address of a name that takes extended errors."""
    labels = name.rstrip(".").encode("ascii").split(b".")
    question = b"".join(bytes([len(label)]) + label for label in labels) + b"\0"
    header = struct.pack("!6H", number, 0x0100, 1, 0, 0, 1)
    options = struct.pack("!BHHIH", 0, TYPE_OPT, 1232, 0, 0)
    return header + question + struct.pack("!HH", TYPE_A, CLASS_IN) + options


def refusal(answer, number):
    """Returns the text of a refusal's extended error; nothing for an answer that is none."""
    found, flags, questions, *_ = struct.unpack_from("!6H", answer)
    if found != number or flags & 0xF != REFUSED:
        return None
    at = 12
    for _ in range(questions):
        while answer[at]:
            at += 1 + answer[at]
        at += 5
    # A refusal has no records but the options, whose name is the root.
    _, kind, _, _, length = struct.unpack_from("!BHHIH", answer, at)
    option, size, _ = struct.unpack_from("!3H", answer, at + 11)
    if kind != TYPE_OPT or length < 6 or option != EXTENDED_ERROR:
        return "denied"
    return answer[at + 17 : at + 15 + size].decode("utf-8", "replace") or "denied"


def refusal_page(host, reason):
    """Returns the page that says so."""
    host, reason = html.escape(host), html.escape(reason)
    return (
        f"<!doctype html><title>{host} is blocked</title>"
        "<style>body{font:1.1em sans-serif;max-width:40em;margin:4em auto;padding:0 1em}</style>"
        f"<h1>{host} is blocked</h1><p>The network policy of this browser session does not allow "
        f"it.</p><p>Decided by: <code>{reason}</code></p>"
    )
