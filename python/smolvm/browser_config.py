"""The data of browser sessions: what is asked for, and what is known."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from datetime import datetime
from enum import Enum
from pathlib import Path
from typing import Any

from smolvm import _native, checks
from smolvm.exceptions import ValidationError
from smolvm.record import Record

__all__ = [
    "BrowserSessionConfig",
    "BrowserSessionInfo",
    "BrowserSessionState",
    "BrowserViewport",
]


class BrowserSessionState(str, Enum):
    """Where a browser session is in its life."""

    CREATED = "created"
    STARTING = "starting"
    READY = "ready"
    STOPPING = "stopping"
    ERROR = "error"

    def __str__(self) -> str:
        return str(self.value)


class BrowserViewport(Record):
    """The size of the page, in pixels."""

    width: int
    height: int


_ALIASES = {
    "memory": "mem_size_mib",
    "disk_size": "disk_size_mib",
    "vcpus": "vcpu_count",
}


class BrowserSessionConfig(Record):
    """A browser session as asked for.

    ``mode`` is ``headless``, or ``live`` for a display that people can watch and use.
    ``profile_mode`` is ``ephemeral``, or ``persistent`` for a profile that is kept under its
    ``profile_id``. The session ends after ``timeout_minutes``, whoever uses it. ``viewport`` is
    the size of the page, as a :class:`BrowserViewport` or a mapping. ``allowed_domains`` are the
    only names that pages may come from, as in ``example.com`` or ``*.example.com``; ``None`` is
    the whole public internet. ``memory``, ``disk_size`` and ``vcpus`` are other names of
    ``mem_size_mib``, ``disk_size_mib`` and ``vcpu_count``. Unknown names are ignored with a
    warning; a value that is not legal raises a :class:`ValidationError` that names it.
    """

    session_id: str | None = None
    backend: str = "auto"
    browser: str = "chromium"
    mode: str = "headless"
    profile_mode: str = "ephemeral"
    profile_id: str | None = None
    timeout_minutes: int = 30
    viewport_width: int = 1280
    viewport_height: int = 720
    viewport: BrowserViewport | None = None
    record_video: bool = False
    allow_downloads: bool = True
    network_policy_id: str | None = None
    env_vars: dict[str, str] = {}
    mem_size_mib: int = 2048
    disk_size_mib: int = 4096
    vcpu_count: int = 2
    allowed_domains: list[str] | None = None

    def __init__(self, **given: Any) -> None:
        values = dict(self._defaults)
        # What is not given follows the other spelling of the same size.
        values.update(viewport_width=None, viewport_height=None)
        for name, value in given.items():
            name = _ALIASES.get(name, name)
            if name not in values:
                message = f"BrowserSessionConfig has no {name!r}; it is ignored"
                warnings.warn(message, stacklevel=2)
                continue
            values[name] = value
        for name, value in values.items():
            values[name] = _CHECKS[name](name, value)
        width, height = _native.check_browser(native_browser(values))
        values.update(viewport_width=width, viewport_height=height)
        values["viewport"] = BrowserViewport(width, height)
        self._fill(**values)


def _viewport(name: str, value: Any) -> BrowserViewport | None:
    if value is None or isinstance(value, BrowserViewport):
        return value
    if not isinstance(value, Mapping) or set(value) != {"width", "height"}:
        raise ValidationError("viewport must be a mapping with width/height values")
    sizes = {side: checks.whole(f"{name}.{side}", value[side]) for side in ("width", "height")}
    return BrowserViewport(**sizes)


def _texts_or_none(name: str, value: Any) -> list[str] | None:
    return None if value is None else checks.texts(name, value)


_CHECKS: dict[str, Any] = {
    "session_id": checks.text_or_none,
    "backend": checks.text,
    "browser": checks.text,
    "mode": checks.text,
    "profile_mode": checks.text,
    "profile_id": checks.text_or_none,
    "timeout_minutes": checks.whole,
    "viewport_width": checks.whole_or_none,
    "viewport_height": checks.whole_or_none,
    "viewport": _viewport,
    "record_video": checks.flag,
    "allow_downloads": checks.flag,
    "network_policy_id": checks.text_or_none,
    "env_vars": checks.env_vars,
    "mem_size_mib": checks.whole,
    "disk_size_mib": checks.whole,
    "vcpu_count": checks.whole,
    "allowed_domains": _texts_or_none,
}


def native_browser(values: Mapping[str, Any]) -> _native.Browser:
    """Returns a session as the extension module takes it."""
    viewport = values["viewport"]
    return {
        "session_id": values["session_id"],
        # "auto" leaves the choice to the environment, as it does for every sandbox.
        "backend": None if values["backend"] == "auto" else values["backend"],
        "browser": values["browser"],
        "mode": values["mode"],
        "profile_mode": values["profile_mode"],
        "profile_id": values["profile_id"],
        "timeout_minutes": values["timeout_minutes"],
        "viewport_width": values["viewport_width"],
        "viewport_height": values["viewport_height"],
        "viewport": None if viewport is None else (viewport.width, viewport.height),
        "record_video": values["record_video"],
        "allow_downloads": values["allow_downloads"],
        "network_policy_id": values["network_policy_id"],
        "env_vars": values["env_vars"],
        "memory": values["mem_size_mib"],
        "disk": values["disk_size_mib"],
        "vcpus": values["vcpu_count"],
        "allowed_domains": values["allowed_domains"],
    }


class BrowserSessionInfo(Record):
    """What is known of a browser session."""

    session_id: str
    vm_id: str
    status: BrowserSessionState
    #: Where programs drive the browser; as all the URLs, only while it is ready.
    cdp_url: str | None
    #: Where people watch and use it, in live mode. Whoever has it can.
    live_url: str | None
    #: Where VNC clients find it, in live mode. Whoever has it can.
    display_url: str | None
    debug_port: int | None
    profile_id: str | None
    #: When it ends at the latest.
    expires_at: datetime
    #: Where its artifacts are, or will be.
    artifacts_dir: Path
    #: Why it is in its state, where that is not plain.
    reason: str | None = None

    @property
    def viewer_url(self) -> str | None:
        """The newer name of ``live_url``."""
        return self.live_url


def browser_info(known: _native.BrowserInfo) -> BrowserSessionInfo:
    """Makes a :class:`BrowserSessionInfo` of what the extension module knows."""
    from datetime import timezone

    return BrowserSessionInfo(
        session_id=known["session_id"],
        vm_id=known["vm_id"],
        status=BrowserSessionState(known["status"]),
        cdp_url=known["cdp_url"],
        live_url=known["viewer_url"],
        display_url=known["display_url"],
        debug_port=known["debug_port"],
        profile_id=known["profile_id"],
        expires_at=datetime.fromtimestamp(known["expires_at_unix_ms"] / 1000, timezone.utc),
        artifacts_dir=Path(known["artifacts_dir"]),
        reason=known["reason"],
    )


def browser_config(known: _native.BrowserInfo) -> BrowserSessionConfig:
    """Returns what a session was asked to be, without its environment variables."""
    width, height = known["viewport"]
    profile = known["profile_id"]
    return BrowserSessionConfig(
        session_id=known["session_id"],
        mode=known["mode"],
        profile_mode="ephemeral" if profile is None else "persistent",
        profile_id=profile,
        timeout_minutes=known["timeout_minutes"],
        viewport=BrowserViewport(width, height),
        record_video=known["record_video"],
        allow_downloads=known["allow_downloads"],
        mem_size_mib=known["memory"],
        disk_size_mib=known["disk"],
        vcpu_count=known["vcpus"],
    )
