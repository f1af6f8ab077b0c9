"""What both kinds of handle on a sandbox share: everything that does not wait."""

from __future__ import annotations

import os as _os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from smolvm import _native
from smolvm.exceptions import SmolVMError, ValidationError, VMNotFoundError
from smolvm.files import PathLike
from smolvm.network import NetworkPolicy, internet_policy
from smolvm.secrets import Secret
from smolvm.types import NetworkConfig, PortForward, VMConfig, VMInfo, VMState, native_ports

__all__ = ["BUNDLED", "Handle", "check_ports", "native_spec", "vm_info", "warn"]

#: Where the programs are that travel with this package.
BUNDLED = _os.path.join(_os.path.dirname(_os.path.abspath(__file__)), "_bundled")


class Handle:
    """What both kinds of handle share: everything that does not wait."""

    _native: _native.Sandbox
    _is_creator: bool
    _ssh_user: str = "root"
    _ssh_key_path: PathLike | None = None

    def __init__(
        self,
        config: VMConfig | None = None,
        *,
        vm_id: str | None = None,
        data_dir: PathLike | None = None,
        socket_dir: PathLike | None = None,
        backend: str | None = None,
        os: str | None = None,
        mem_size_mib: int | None = None,
        memory: int | None = None,
        disk_size_mib: int | None = None,
        disk_size: int | None = None,
        vcpu_count: int | None = None,
        env_vars: Mapping[str, str] | None = None,
        labels: Mapping[str, str] | None = None,
        idle_timeout: float | None = None,
        max_lifetime: float | None = None,
        max_processes: int | None = None,
        cold: bool | None = None,
        port_forwards: Sequence[PortForward | Mapping[str, Any]] | None = None,
        network: NetworkPolicy | Mapping[str, Any] | str | None = None,
        internet_settings: Mapping[str, Any] | None = None,
        networks: Sequence[str] | None = None,
        network_rate_limit_mbps: int | None = None,
        secrets: Mapping[str, Secret] | None = None,
        http_rules: Sequence[str] | None = None,
        ssh_user: str = "root",
        ssh_key_path: PathLike | None = None,
    ) -> None:
        self._ssh_user = ssh_user
        self._ssh_key_path = ssh_key_path
        chosen: dict[str, Any] = {
            "os": None if os is None else str(os),
            "mem_size_mib": _one_of("mem_size_mib", mem_size_mib, "memory", memory),
            "disk_size_mib": _one_of("disk_size_mib", disk_size_mib, "disk_size", disk_size),
            "vcpu_count": vcpu_count,
            "env_vars": env_vars,
            "labels": labels,
            "idle_timeout": idle_timeout,
            "max_lifetime": max_lifetime,
            "max_processes": max_processes,
            "cold": cold,
            "port_forwards": port_forwards,
            "network": network,
            "internet_settings": internet_settings,
            "networks": networks,
            "network_rate_limit_mbps": network_rate_limit_mbps,
            "secrets": secrets,
            "http_rules": http_rules,
        }
        chosen = {name: value for name, value in chosen.items() if value is not None}
        if config is not None and vm_id is not None:
            raise ValidationError("give either config or vm_id, not both")
        if chosen and (config is not None or vm_id is not None):
            names = ", ".join(chosen)
            raise ValidationError(f"{names}: only for a new sandbox without config and vm_id")
        if vm_id is not None:
            self._open(vm_id, data_dir)
            return
        if config is None:
            config = VMConfig(**{"vcpu_count": 1, **chosen})
        spec = native_spec(config, backend)
        self._native = _native.create(spec, data_dir, BUNDLED).wait().take()
        self._is_creator = True

    def _open(self, vm_id: str, data_dir: PathLike | None) -> None:
        self._native = _native.open(vm_id, data_dir, BUNDLED)
        self._is_creator = False

    @property
    def vm_id(self) -> str:
        """The sandbox's name."""
        return self._native.vm_id

    @property
    def data_dir(self) -> Path:
        """The directory that holds the sandbox."""
        return Path(self._native.data_dir)

    @property
    def status(self) -> VMState:
        """Where the sandbox is in its life."""
        return VMState(self._native.info()["status"])

    @property
    def labels(self) -> dict[str, str]:
        """What its owner has written on it."""
        return dict(self._native.info()["labels"])

    def get_ip(self) -> str:
        """Guests have no address that the host reaches: it goes through their agent."""
        raise SmolVMError(
            f"VM '{self.vm_id}' has no IP address that the host reaches; use expose_local"
        )

    def can_run_commands(self) -> bool:
        """Whether the sandbox takes commands: every image does, through the agent."""
        return True

    def __repr__(self) -> str:
        try:
            status = str(self.status)
        except VMNotFoundError:
            status = "deleted"
        except SmolVMError:
            status = "unknown"
        return f"{type(self).__name__}(vm_id={self.vm_id!r}, status={status!r})"


def warn(vm_id: str, failure: SmolVMError) -> None:
    import logging

    logging.getLogger("smolvm").warning("VM '%s' not cleaned up: %s", vm_id, failure)


def check_ports(guest_port: int, host_port: int | None) -> None:
    for name, port in (("guest_port", guest_port), ("host_port", host_port)):
        if port is None and name == "host_port":
            continue
        if not isinstance(port, int) or isinstance(port, bool):
            raise ValidationError(f"{name}: {port!r} is not a whole number")
        if not 1 <= port <= 65535:
            raise ValidationError(f"{name} is {port}; it must be 1 to 65535")


def _one_of(name: str, value: int | None, alias: str, other: int | None) -> int | None:
    if value is not None and other is not None and value != other:
        raise ValidationError(f"{name} and {alias} are the same setting; give one of them")
    return other if value is None else value


def _network(config: VMConfig) -> _native._Policy | None:
    policy = config.network
    if config.internet_settings is not None:
        policy = internet_policy(config.internet_settings)
    return None if policy is None else (policy.mode, list(policy.allow), list(policy.deny))


def native_spec(config: VMConfig, backend: str | None) -> _native.Spec:
    is_custom = config.kernel_path is not None or config.rootfs_path is not None
    return {
        "vm_id": config.vm_id,
        "image": config.os,
        "backend": backend or config.backend,
        "vcpus": config.vcpu_count,
        "memory": config.mem_size_mib,
        "disk": config.disk_size_mib,
        "labels": config.labels,
        "idle_timeout": config.idle_timeout,
        "max_lifetime": config.max_lifetime,
        "max_processes": config.max_processes,
        "cold": config.cold,
        "kernel_path": config.kernel_path,
        "rootfs_path": config.rootfs_path,
        "initrd_path": config.initrd_path,
        "extra_drives": list(config.extra_drives),
        "boot_args": config.boot_args if is_custom else None,
        "is_shared": config.disk_mode == "shared",
        "keeps_disk": config.retain_disk_on_delete,
        "port_forwards": native_ports(config.port_forwards),
        "network": _network(config),
        "networks": config.networks,
        "network_rate_mbps": config.network_rate_limit_mbps,
        "secrets": [
            (name, secret.value, list(secret.hosts)) for name, secret in config.secrets.items()
        ],
        "http_rules": config.http_rules,
        "env_vars": config.env_vars,
    }


def vm_info(known: _native.Info) -> VMInfo:
    """Makes a :class:`VMInfo` of what the extension module knows."""
    config = VMConfig(
        vm_id=known["vm_id"],
        vcpu_count=known["vcpus"],
        mem_size_mib=known["memory"],
        disk_size_mib=known["disk"],
        os=known["image"],
        labels=known["labels"],
        idle_timeout=known["idle_timeout"],
        max_lifetime=known["max_lifetime"],
        max_processes=known["max_processes"],
        cold=known["cold"],
        port_forwards=[PortForward(host, guest) for host, guest in known["port_forwards"]],
        network=NetworkPolicy(*known["network"]),
        networks=known["networks"],
        network_rate_limit_mbps=known["network_rate_mbps"],
        http_rules=known["http_rules"],
    )
    return VMInfo(
        vm_id=known["vm_id"],
        status=VMState(known["status"]),
        config=config,
        network=NetworkConfig(**known["addresses"] or {}),
        pid=known["pid"],
        reason=known["reason"],
        engine=known["engine"],
        disk_used_bytes=known["disk_used_bytes"],
        created_unix_ms=known["created_unix_ms"],
    )
