"""SSH to a guest whose image has a server: by the host's own ``ssh``."""

from __future__ import annotations

import os
import time
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from smolvm.exceptions import HostError, OperationTimeoutError, SmolVMError
from smolvm.files import PathLike
from smolvm.types import CommandResult

if TYPE_CHECKING:
    import tempfile

__all__ = ["SSHClient"]

#: What ssh exits with when it is ssh itself that failed (ssh(1)).
_SSH_FAILED = 255


class SSHClient:
    """Runs commands in a guest over SSH; :meth:`SmolVM.run` needs none of this.

    The server's key is taken on the first connection of this client and must stay the same.
    ``known_hosts`` is a file to keep it in.
    """

    def __init__(
        self,
        host: str = "127.0.0.1",
        user: str = "root",
        port: int = 22,
        key_path: PathLike | None = None,
        connect_timeout: float = 10,
        *,
        known_hosts: PathLike | None = None,
    ) -> None:
        self.host = host
        self.user = user
        self.port = port
        self._own_directory: tempfile.TemporaryDirectory[str] | None = None
        if known_hosts is None:
            import tempfile

            self._own_directory = tempfile.TemporaryDirectory(prefix="smolvm-ssh-")
            known_hosts = Path(self._own_directory.name) / "known_hosts"
        options = [
            "BatchMode=yes",
            "StrictHostKeyChecking=accept-new",
            f"UserKnownHostsFile={os.fspath(known_hosts)}",
            f"ConnectTimeout={max(1, round(connect_timeout))}",
            "LogLevel=ERROR",
        ]
        self._options = [part for option in options for part in ("-o", option)]
        if key_path is not None:
            self._options += ["-i", os.fspath(key_path), "-o", "IdentitiesOnly=yes"]

    def run(self, command: str, timeout: float = 30, shell: str = "login") -> CommandResult:
        """Runs a command; ``shell`` is ``login``, which reads the profile, or ``raw``."""
        import shlex

        if not command.strip():
            raise ValueError("command: it is empty")
        if timeout <= 0:
            raise ValueError(f"timeout: {timeout} is not a number of seconds greater than 0")
        if shell not in ("login", "raw"):
            raise ValueError("shell: use 'login' or 'raw'")
        line = command if shell == "raw" else f'"${{SHELL:-/bin/sh}}" -lc {shlex.quote(command)}'
        target = ["-p", str(self.port), f"{self.user}@{self.host}", line]
        result = self._call(["ssh", *self._options, *target], "run", timeout)
        if result.exit_code == _SSH_FAILED:
            raise SmolVMError(f"ssh to {self.host}:{self.port} failed: {result.stderr.strip()}")
        return result

    def wait_for_ssh(self, timeout: float = 60) -> None:
        """Waits until the server lets this client in."""
        deadline = time.monotonic() + timeout
        while True:
            left = deadline - time.monotonic()
            if left <= 0:
                raise OperationTimeoutError("wait_for_ssh", timeout)
            try:
                if self.run("true", max(left, 0.1), "raw").ok:
                    return
            except OperationTimeoutError:
                continue
            except HostError:
                raise
            except SmolVMError:
                # Refused: the server is not there yet.
                time.sleep(min(0.2, max(left, 0)))

    def upload_file(self, local_path: PathLike, remote_path: str, timeout: float = 300) -> None:
        """Copies a file of the host into the guest."""
        self._copy([os.fspath(local_path), f"{self.user}@{self.host}:{remote_path}"], timeout)

    def download_file(self, remote_path: str, local_path: PathLike, timeout: float = 300) -> None:
        """Copies a file of the guest to the host."""
        self._copy([f"{self.user}@{self.host}:{remote_path}", os.fspath(local_path)], timeout)

    def close(self) -> None:
        """Forgets the server's key, unless it is in a file of the caller's."""
        if self._own_directory is not None:
            self._own_directory.cleanup()

    def _copy(self, paths: list[str], timeout: float) -> None:
        command = ["scp", "-q", *self._options, "-P", str(self.port), "--", *paths]
        result = self._call(command, "copy", timeout)
        if not result.ok:
            raise SmolVMError(f"scp failed: {result.stderr.strip()}")

    def _call(self, command: list[str], operation: str, timeout: float) -> CommandResult:
        # Here, so that importing the package stays quick.
        import subprocess

        begun = time.monotonic()
        try:
            done = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=timeout,
                check=False,
            )
        except FileNotFoundError:
            raise HostError(
                f"{command[0]} is not installed; run: sudo apt-get install openssh-client"
            ) from None
        except subprocess.TimeoutExpired as expired:
            error = OperationTimeoutError(operation, timeout)
            error.stdout = (expired.stdout or b"").decode("utf-8", "replace")
            error.stderr = (expired.stderr or b"").decode("utf-8", "replace")
            raise error from None
        return CommandResult(
            done.returncode,
            done.stdout.decode("utf-8", "replace"),
            done.stderr.decode("utf-8", "replace"),
            duration_ms=round((time.monotonic() - begun) * 1000),
        )

    def __enter__(self) -> SSHClient:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
