"""SSH keys for images that are reached with SSH."""

from __future__ import annotations

import os
from pathlib import Path

from smolvm import _native

__all__ = ["ensure_ssh_key"]


def ensure_ssh_key(key_dir: str | os.PathLike[str] | None = None) -> tuple[Path, Path]:
    """Returns the private and the public key that all sandboxes share; makes them if missing.

    They are in ``~/.smolvm/keys`` unless told otherwise; under sudo in that of the user who
    called it, and theirs.
    """
    owner: tuple[int, int] | None = None
    home = Path.home()
    user = os.environ.get("SUDO_USER") if os.geteuid() == 0 else None
    if user and key_dir is None:
        import pwd

        entry = pwd.getpwnam(user)
        home, owner = Path(entry.pw_dir), (entry.pw_uid, entry.pw_gid)
    directory = home / ".smolvm" / "keys" if key_dir is None else Path(key_dir)
    return _native.ensure_key_pair(directory, owner)
