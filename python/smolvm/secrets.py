"""Secrets that never enter the guest, as ``SmolVM(secrets={"API_KEY": Secret(...)})``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from smolvm import _native
from smolvm.exceptions import ValidationError

__all__ = ["Secret", "checked_secrets"]


class Secret:
    """A value that the guest never has, and the hosts that get it.

    The guest has a placeholder, in the environment variable of the secret's name. The gateway puts
    the value in its place in requests over TLS to ``hosts``, which are names or ``*.name``, and
    refuses requests that carry it anywhere else.
    """

    __slots__ = ("hosts", "value")

    def __init__(self, value: str, hosts: Iterable[str]) -> None:
        # Not shown, whatever it is.
        if not isinstance(value, str):
            raise ValidationError("the value of a secret is not a string; is the variable set?")
        if isinstance(hosts, str) or not isinstance(hosts, Iterable):
            raise ValidationError(f"the hosts of a secret are {hosts!r}, not a list of names")
        self.value = value
        self.hosts = tuple(hosts)

    def __repr__(self) -> str:
        return f"Secret(value='***', hosts={list(self.hosts)!r})"


def checked_secrets(field: str, given: Any) -> dict[str, Secret]:
    """Returns secrets by name, when all are legal."""
    if not isinstance(given, Mapping):
        raise ValidationError(f"{field}: not a mapping of names to secrets")
    for name, secret in given.items():
        if not isinstance(name, str) or not isinstance(secret, Secret):
            raise ValidationError(f"{field}.{name}: not a Secret with a value and its hosts")
        _native.check_secret(f"{field}.{name}", name, secret.value, list(secret.hosts))
    return dict(given)
