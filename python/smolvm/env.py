"""Rules for environment variables."""

from __future__ import annotations

from smolvm import _native

__all__ = ["validate_env_key"]


def validate_env_key(key: str) -> str:
    """Returns ``key`` when it can name an environment variable; raises ``ValueError`` else."""
    _native.check_env_key(key)
    return key
