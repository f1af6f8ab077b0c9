"""SSH keys for images that are reached with SSH."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from smolvm.exceptions import HostError

__all__ = ["ensure_ssh_key"]


def ensure_ssh_key(key_dir: str | os.PathLike[str] | None = None) -> tuple[Path, Path]:
    """Returns the private and the public key that all sandboxes share; makes them if missing."""
    directory = Path(key_dir) if key_dir is not None else _home() / ".smolvm" / "keys"
    private = directory / "id_ed25519"
    public = directory / "id_ed25519.pub"
    if private.is_file() and public.is_file():
        return private, public
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    private.unlink(missing_ok=True)
    command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "smolvm-auto"]
    try:
        subprocess.run([*command, "-f", str(private)], check=True, stdin=subprocess.DEVNULL)
    except (OSError, subprocess.CalledProcessError) as error:
        raise HostError(f"cannot make an SSH key with ssh-keygen: {error}") from error
    return private, public


def _home() -> Path:
    user = os.environ.get("SUDO_USER") if os.geteuid() == 0 else None
    return Path(f"~{user}" if user else "~").expanduser()
