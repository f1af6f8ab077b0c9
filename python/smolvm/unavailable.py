"""Names of the API that this version does not have yet: importing them works, using them says so."""

from __future__ import annotations

from typing import Any

from smolvm.exceptions import SmolVMError


def unavailable(name: str) -> type[Any]:
    """Returns a class of this name that cannot be instantiated."""

    def refuse(self: object, *_args: object, **_keywords: object) -> None:
        raise SmolVMError(f"{name} is not available in this version of smolvm")

    return type(name, (), {"__init__": refuse, "__doc__": "Not available in this version."})


BrowserSession = unavailable("BrowserSession")
BrowserSessionConfig = unavailable("BrowserSessionConfig")
BrowserSessionInfo = unavailable("BrowserSessionInfo")
BrowserSessionState = unavailable("BrowserSessionState")
BrowserViewport = unavailable("BrowserViewport")
SnapshotArtifacts = unavailable("SnapshotArtifacts")
SnapshotInfo = unavailable("SnapshotInfo")
