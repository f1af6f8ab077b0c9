"""The data of the API: what is asked for, and what comes back."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import Any

from smolvm import _native, checks
from smolvm.browser_config import (
    BrowserSessionConfig,
    BrowserSessionInfo,
    BrowserSessionState,
    BrowserViewport,
)
from smolvm.exceptions import ValidationError
from smolvm.network import NetworkEvent, NetworkPolicy, internet_policy
from smolvm.record import Record
from smolvm.secrets import Secret, checked_secrets
from smolvm.unavailable import SnapshotArtifacts, SnapshotInfo

__all__ = [
    "BrowserSessionConfig",
    "BrowserSessionInfo",
    "BrowserSessionState",
    "BrowserViewport",
    "CommandResult",
    "FileInfo",
    "GuestOS",
    "NetworkConfig",
    "NetworkEvent",
    "NetworkPolicy",
    "PortForward",
    "ProcessExit",
    "Secret",
    "SnapshotArtifacts",
    "SnapshotInfo",
    "VMConfig",
    "VMInfo",
    "VMState",
]


class _Name(str, Enum):
    """An enumeration whose members are their names."""

    def __str__(self) -> str:
        return str(self.value)


class VMState(_Name):
    """Where a sandbox is in its life."""

    CREATED = "created"
    STARTING = "starting"
    RUNNING = "running"
    PAUSED = "paused"
    STOPPING = "stopping"
    STOPPED = "stopped"
    ERROR = "error"


class GuestOS(_Name):
    """Systems that guests can run; :class:`ImageError` says which of them there are."""

    ALPINE = "alpine"
    DEBIAN = "debian"
    UBUNTU = "ubuntu"


class CommandResult(Record):
    """How a command ended, and what it wrote."""

    exit_code: int
    stdout: str
    stderr: str
    #: ``exited``, ``signalled``, ``out_of_memory`` or ``killed``.
    exit_reason: str = "exited"
    duration_ms: int = 0

    @property
    def ok(self) -> bool:
        """Whether the exit code is 0."""
        return self.exit_code == 0

    @property
    def output(self) -> str:
        """What the command wrote to its standard output, without white space around it."""
        return self.stdout.strip()


class ProcessExit(Record):
    """How a running command ended."""

    #: ``exited``, ``signalled``, ``timed_out``, ``out_of_memory``, ``killed``,
    #: ``sandbox_stopped`` or ``guest_died``.
    reason: str
    #: The command's own for ``exited``, 128 + the signal for ``signalled``, 124 for
    #: ``timed_out``, 137 for ``out_of_memory`` and ``killed``, 125 when the sandbox went away.
    exit_code: int
    #: The signal of ``signalled``.
    signal: int | None = None
    duration_ms: int = 0
    #: Why the guest died, of ``guest_died``.
    message: str | None = None
    #: The last lines of a dead guest's console.
    console_tail: list[str] = []

    @property
    def ok(self) -> bool:
        """Whether it exited by itself, with exit code 0."""
        return self.reason == "exited" and self.exit_code == 0


class JobStatus(Record):
    """How a job is."""

    name: str
    #: The command's process ID in the guest.
    pid: int
    #: How it ended; ``None`` while it runs.
    exit: ProcessExit | None
    #: The place of the oldest byte of output that is kept.
    oldest_byte: int
    #: Bytes of output so far, of both outputs together.
    written_bytes: int


class JobOutput(Record):
    """A piece of what a job wrote, or word of what is not kept any more."""

    #: ``stdout``, ``stderr`` or ``lost``.
    stream: str
    #: What it wrote; nothing of ``lost``.
    data: bytes
    #: How many bytes ``lost`` stands for.
    lost_bytes: int
    #: The place after it: whoever attaches with this cursor gets what follows.
    cursor: int


class FileInfo(Record):
    """What a file of the guest is."""

    #: Its name in its directory; ``None`` for one that was asked for by its path.
    name: str | None
    #: ``file``, ``directory``, ``symlink`` or ``other``.
    kind: str
    size: int
    mode: int
    uid: int
    gid: int
    modified_unix_ns: int
    #: What a symbolic link points to.
    target: str | None


class NetworkConfig(Record):
    """Addresses of a guest on the link to its gateway, which all sandboxes have alike.

    They are absent where its network is off. The host reaches it through its agent.
    """

    guest_ip: str | None = None
    gateway_ip: str | None = None
    netmask: str | None = None
    tap_device: str | None = None
    guest_mac: str | None = None
    ssh_host_port: int | None = None


class PortForward(Record):
    """A port of the guest, reachable on one of the host's loopback address."""

    host_port: int
    guest_port: int
    host_address: str = "127.0.0.1"


_ALIASES = {"memory": "mem_size_mib", "disk_size": "disk_size_mib", "guest_os": "os"}


class VMConfig(Record):
    """A sandbox as asked for.

    Everything is optional. ``memory``, ``disk_size`` and ``guest_os`` are other names of
    ``mem_size_mib``, ``disk_size_mib`` and ``os``. Unknown names are ignored with a warning; a value that is not legal raises
    a :class:`ValidationError` that names it. ``port_forwards`` are exposed whenever the sandbox
    runs, whoever started it. ``network`` is a :class:`NetworkPolicy`, its fields or its mode;
    ``internet_settings`` are its older spelling, with ``mode``, ``allowed_cidrs`` and
    ``allowed_domains``. ``networks`` are names of private networks, whose members reach each other
    by their ``vm_id``. ``network_rate_limit_mbps`` holds for each direction. ``secrets`` are
    each a :class:`Secret` by its name. ``http_rules`` say which requests hosts take, as in
    ``GET,POST api.example.com/v1/*``.
    """

    vm_id: str | None = None
    vcpu_count: int = 2
    mem_size_mib: int = 512
    disk_size_mib: int | None = None
    os: str | None = None
    kernel_path: Path | None = None
    rootfs_path: Path | None = None
    initrd_path: Path | None = None
    extra_drives: list[Path] = []
    boot_args: str = "console=ttyS0 reboot=k panic=1 pci=off"
    ssh_capable: bool = False
    backend: str | None = None
    disk_mode: str = "isolated"
    retain_disk_on_delete: bool = False
    env_vars: dict[str, str] = {}
    labels: dict[str, str] = {}
    idle_timeout: float | None = None
    max_lifetime: float | None = None
    max_processes: int | None = None
    cold: bool = False
    network: NetworkPolicy | None = None
    internet_settings: dict[str, Any] | None = None
    networks: list[str] = []
    network_rate_limit_mbps: int | None = None
    secrets: dict[str, Secret] = {}
    http_rules: list[str] = []
    port_forwards: list[PortForward] = []

    def __init__(self, **given: Any) -> None:
        values = dict(self._defaults)
        for name, value in given.items():
            name = _ALIASES.get(name, name)
            if name not in values:
                warnings.warn(f"VMConfig has no {name!r}; it is ignored", stacklevel=2)
                continue
            values[name] = value
        for name, value in values.items():
            values[name] = _CHECKS[name](name, value)
        self._fill(**values)
        _native.check_vm_sizes(self.vcpu_count, self.mem_size_mib, self.disk_size_mib)
        _native.check_vm_times(self.idle_timeout, self.max_lifetime)
        if self.network is not None and self.internet_settings is not None:
            raise ValidationError("give either network or internet_settings, not both")

    @property
    def memory(self) -> int:
        """Memory in MiB."""
        return self.mem_size_mib

    @property
    def disk_size(self) -> int | None:
        """Size of the writable disk in MiB."""
        return self.disk_size_mib


def _name(name: str, value: Any) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str):
        raise ValidationError(f"{name}: {value!r} is not a string")
    _native.check_vm_id(value)
    return value


def _path(name: str, value: Any) -> Path | None:
    if value is None:
        return None
    path = Path(os.fspath(value))
    if not path.exists():
        raise ValidationError(f"{name}: Path does not exist: {path}")
    if not path.is_file():
        raise ValidationError(f"{name}: Path is not a file: {path}")
    return path.absolute()


def _paths(name: str, value: Sequence[Any]) -> list[Path]:
    paths = (_path(f"{name}.{index}", path) for index, path in enumerate(value))
    return [path for path in paths if path is not None]


def _choice(*choices: str | None) -> Any:
    def check(name: str, value: Any) -> str | None:
        if value not in choices:
            names = ", ".join(repr(choice) for choice in choices if choice)
            raise ValidationError(f"{name}: {value!r} is none of {names}")
        return None if value is None else str(value)

    return check


def _seconds(name: str, value: Any) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValidationError(f"{name}: {value!r} is not a number of seconds")
    return value


def _backend(name: str, value: Any) -> str | None:
    if value is None:
        return None
    backend = checks.text(name, value)
    _native.check_backend(backend)
    return backend


def _rate(name: str, value: Any) -> int | None:
    if value is None:
        return None
    if checks.whole(name, value) < 1:
        raise ValidationError(f"{name}: {value} is less than 1")
    return int(value)


def _network(_name: str, value: Any) -> NetworkPolicy | None:
    return None if value is None else NetworkPolicy.of(value)


def _networks(name: str, value: Any) -> list[str]:
    return _native.check_networks(name, checks.texts(name, value))


def _http_rules(name: str, value: Any) -> list[str]:
    rules = checks.texts(name, value)
    _native.check_http_rules(name, rules)
    return rules


def _internet_settings(_name: str, value: Any) -> dict[str, Any] | None:
    if value is None:
        return None
    internet_policy(value)
    return dict(value)


def _port_forwards(name: str, value: Any) -> list[PortForward]:
    ports: list[PortForward] = []
    for index, given in enumerate(value):
        at = f"{name}.{index}"
        try:
            port = given if isinstance(given, PortForward) else PortForward(**given)
        except TypeError:
            raise ValidationError(
                f"{at}: {given!r} has no host_port and guest_port, or something else"
            ) from None
        for side in ("host_port", "guest_port"):
            checks.whole(f"{at}.{side}", getattr(port, side))
        checks.text(f"{at}.host_address", port.host_address)
        ports.append(port)
    _native.check_port_forwards(native_ports(ports))
    return ports


def native_ports(ports: Sequence[PortForward]) -> list[tuple[str, int, int]]:
    """Returns forwards as the extension module takes them."""
    return [(port.host_address, port.host_port, port.guest_port) for port in ports]


_CHECKS: dict[str, Any] = {
    "vm_id": _name,
    "os": checks.text_or_none,
    "boot_args": checks.text,
    "ssh_capable": checks.flag,
    "retain_disk_on_delete": checks.flag,
    "backend": _backend,
    "idle_timeout": _seconds,
    "max_lifetime": _seconds,
    "network": _network,
    "internet_settings": _internet_settings,
    "networks": _networks,
    "network_rate_limit_mbps": _rate,
    "secrets": checked_secrets,
    "http_rules": _http_rules,
    "port_forwards": _port_forwards,
    "vcpu_count": checks.whole,
    "mem_size_mib": checks.whole,
    "disk_size_mib": checks.whole_or_none,
    "kernel_path": _path,
    "rootfs_path": _path,
    "initrd_path": _path,
    "extra_drives": _paths,
    "disk_mode": _choice("isolated", "shared"),
    "env_vars": checks.env_vars,
    "labels": checks.text_map,
    "max_processes": checks.whole_or_none,
    "cold": checks.flag,
}


class VMInfo(Record):
    """What is known of a sandbox."""

    vm_id: str
    status: VMState
    config: VMConfig
    network: NetworkConfig | None = None
    pid: int | None = None
    control_socket_path: Path | None = None
    #: Why it is in its state, where that is not plain.
    reason: str | None = None
    #: What runs it, such as ``qemu (software emulation)``.
    engine: str | None = None
    disk_used_bytes: int = 0
    created_unix_ms: int = 0

    @property
    def labels(self) -> dict[str, str]:
        """What its owner has written on it."""
        return self.config.labels
