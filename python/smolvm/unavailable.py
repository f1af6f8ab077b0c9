"""Names of the API that this version does not have yet: importing them works, using them says so."""

from __future__ import annotations

from typing import Any

from smolvm.exceptions import SmolVMError


def unavailable(name: str, remedy: str = "") -> type[Any]:
    """Returns a class of this name that cannot be instantiated, which says what to do instead."""

    def refuse(self: object, *_args: object, **_keywords: object) -> None:
        message = f"{name} is not available in this version of smolvm"
        raise SmolVMError(f"{message}; {remedy}" if remedy else message)

    return type(name, (), {"__init__": refuse, "__doc__": "Not available in this version."})


SnapshotArtifacts = unavailable("SnapshotArtifacts")
SnapshotInfo = unavailable("SnapshotInfo")
