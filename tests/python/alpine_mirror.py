"""A small copy of Alpine's server, made of programs of this host: a root, packages, an index."""

from __future__ import annotations

import base64
import functools
import gzip
import hashlib
import http.server
import io
import re
import shutil
import subprocess
import tarfile
import threading
from pathlib import Path

_KEY_NAME = "test@smolvm.rsa.pub"
_RELEASE = "v3.23/releases/x86_64/alpine-minirootfs-3.23.2-x86_64.tar.gz"
_REPOSITORY = "v3.23/main/x86_64"
_PROGRAMS = ("sh", "cat", "id", "ls", "mkdir", "mount", "sync", "uname")

#: Packages, and their files. The programs of OpenSSH leave word that they ran.
_PACKAGES = {
    "openssh": {
        "usr/sbin/sshd": "#!/bin/sh\ncat /etc/ssh/sshd_config > /root/sshd-started\n",
        "usr/bin/ssh-keygen": '#!/bin/sh\nfor last; do :; done\necho host key > "$last"\n',
        "etc/ssh/sshd_config": "from the package\n",
    },
    "iproute2": {},
    "curl": {},
    "bash": {},
}


def archive(files: dict[str, str | bytes]) -> bytes:
    """A gzipped archive of files."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for name, content in files.items():
            data = content.encode() if isinstance(content, str) else content
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(data), 0o755
            tar.addfile(entry, io.BytesIO(data))
    return gzip.compress(packed.getvalue(), 1)


def _libraries(program: Path) -> list[Path]:
    said = subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout
    return [Path(path) for path in re.findall(r"(/\S+)", said)]


def _minirootfs(directory: Path, public_key: str) -> bytes:
    tree = directory / "tree"
    for name in ("bin", "etc/apk/keys", "root", "tmp", "proc", "sys", "dev", "run", "mnt", "lib/apk/db"):
        (tree / name).mkdir(parents=True)
    for name in _PROGRAMS:
        program = Path(shutil.which(name) or name)
        shutil.copy(program, tree / "bin" / name)
        for library in _libraries(program):
            target = tree / library.relative_to("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(library, target)
    (tree / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")
    (tree / "etc/group").write_text("root:x:0:root\n")
    (tree / "etc/shadow").write_text("root:*::0:::::\n")
    (tree / "etc/apk/keys" / _KEY_NAME).write_text(public_key)
    (tree / "etc/apk/world").write_text("alpine-base\n")
    (tree / "lib/apk/db/installed").write_text(f"C:Q1{'A' * 27}=\nP:busybox\nV:1\np:/bin/sh\n\n")
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.GNU_FORMAT) as tar:
        tar.add(tree, arcname=".")
    return gzip.compress(packed.getvalue(), 1)


def _package(name: str, files: dict[str, str]) -> tuple[bytes, str]:
    content: dict[str, str | bytes] = {**files, f"usr/share/{name}": "here\n"}
    data = archive(content)
    info = f"pkgname = {name}\ndatahash = {hashlib.sha256(data).hexdigest()}\n"
    control = archive({".PKGINFO": info})
    digest = base64.b64encode(hashlib.sha1(control).digest()).decode()
    depends = "/bin/sh" if name == "openssh" else ""
    record = f"C:Q1{digest}\nP:{name}\nV:1.0-r0\nA:x86_64\nD:{depends}\np:\n\n"
    return archive({".SIGN.RSA.unread": "unread"}) + control + data, record


def _key_numbers(private_key: str) -> tuple[int, int]:
    """Modulus and private exponent of a PKCS #1 key (RFC 8017, A.1.2)."""
    der = base64.b64decode("".join(private_key.splitlines()[1:-1]))

    def element(at: int) -> tuple[int, int]:
        length, start = der[at + 1], at + 2
        if length & 0x80:
            count = length & 0x7F
            length, start = int.from_bytes(der[start : start + count], "big"), start + count
        return start, length

    at, _ = element(0)
    numbers = []
    for _ in range(4):
        start, length = element(at)
        numbers.append(int.from_bytes(der[start : start + length], "big"))
        at = start + length
    return numbers[1], numbers[3]


def _signature(private_key: str, data: bytes) -> bytes:
    """RSASSA-PKCS1-v1_5 with SHA-1 (RFC 8017, 8.2), as Alpine signs."""
    modulus, exponent = _key_numbers(private_key)
    size = (modulus.bit_length() + 7) // 8
    digest = bytes.fromhex("3021300906052b0e03021a05000414") + hashlib.sha1(data).digest()
    padded = b"\0\1" + b"\xff" * (size - len(digest) - 3) + b"\0" + digest
    return pow(int.from_bytes(padded, "big"), exponent, modulus).to_bytes(size, "big")


class AlpineMirror:
    """The files of a server, in a directory."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "mirror"
        key = directory / "key"
        make = ["ssh-keygen", "-q", "-t", "rsa", "-b", "2048", "-m", "PEM", "-N", "", "-f", str(key)]
        subprocess.run(make, check=True)
        public = subprocess.run(
            ["ssh-keygen", "-e", "-m", "PKCS8", "-f", f"{key}.pub"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        minirootfs = _minirootfs(directory, public)
        self.minirootfs_sha256 = hashlib.sha256(minirootfs).hexdigest()
        self._write(_RELEASE, minirootfs)
        index = ""
        for name, files in _PACKAGES.items():
            package, record = _package(name, files)
            self._write(f"{_REPOSITORY}/{name}-1.0-r0.apk", package)
            index += record
        signed = archive({"DESCRIPTION": "test", "APKINDEX": index})
        signature = archive({f".SIGN.RSA.{_KEY_NAME}": _signature(key.read_text(), signed)})
        self._write(f"{_REPOSITORY}/APKINDEX.tar.gz", signature + signed)

    def _write(self, name: str, content: bytes) -> None:
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)

    def serve(self) -> http.server.ThreadingHTTPServer:
        """Serves the files on the loopback interface until it is shut down."""

        class Quiet(http.server.SimpleHTTPRequestHandler):
            def log_message(self, format: str, *args: object) -> None:
                pass

        handler = functools.partial(Quiet, directory=str(self.path))
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return server
