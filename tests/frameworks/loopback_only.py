"""Runs a Python program that can reach this host alone: `python loopback_only.py PROGRAM [ARGUMENT...]`.

Frameworks swallow failures of their telemetry and of price lists they fetch, so an attempt to reach anything else is not
only refused: it makes this program exit with ATTEMPTED, with what was attempted on standard error.
"""

import ipaddress
import runpy
import sys
from typing import Any

ATTEMPTED = 70

attempts: list[str] = []


def _is_loopback(host: Any) -> bool:
    text = host.decode() if isinstance(host, bytes) else str(host or "localhost")
    try:
        return ipaddress.ip_address(text).is_loopback
    except ValueError:
        return text == "localhost"


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "socket.getaddrinfo":
        host = arguments[0]
    elif event in ("socket.connect", "socket.sendto") and isinstance(arguments[1], tuple):
        host = arguments[1][0]
    else:
        return
    if not _is_loopback(host):
        attempts.append(f"{event} {host}")
        raise OSError(f"this program may only reach this host, not {host}")


if __name__ == "__main__":
    sys.addaudithook(_audit)
    sys.argv = sys.argv[1:]
    sys.path.pop(0)
    runpy.run_path(sys.argv[0], run_name="__main__")
    if attempts:
        print(f"attempted: {attempts}", file=sys.stderr)
        sys.exit(ATTEMPTED)
