"""What has arrived at the lab's servers, a JSON line each, for tests to read."""

import json
import os
from pathlib import Path


class Journal:
    """The journal of one lab. Lines of several threads and processes stay whole."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def write(self, service: str, local: tuple, peer: tuple, **details: object) -> None:
        """Tells that `peer` has reached the service at the address `local`."""
        line = {
            "service": service,
            "address": local[0].removeprefix("::ffff:"),
            "port": local[1],
            "peer": peer[0].removeprefix("::ffff:"),
            **details,
        }
        os.write(self._file, json.dumps(line).encode() + b"\n")
