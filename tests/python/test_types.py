"""Configuration and exceptions: nothing here needs a sandbox."""

from __future__ import annotations

import copy
import dataclasses
import importlib
import inspect
import pickle
from pathlib import Path

import pytest

import smolvm
from smolvm import (
    CommandResult,
    PortForward,
    ProcessExit,
    SmolVM,
    SmolVMError,
    ValidationError,
    VMConfig,
    VMInfo,
    VMState,
)
from smolvm.exceptions import (
    CommandExecutionUnavailableError,
    OperationTimeoutError,
    VMNotFoundError,
)


def test_every_exported_name_exists() -> None:
    assert [name for name in smolvm.__all__ if not hasattr(smolvm, name)] == []


def test_config_takes_both_spellings() -> None:
    assert VMConfig(memory=1024).mem_size_mib == 1024
    assert VMConfig(disk_size=4096).disk_size_mib == 4096
    assert VMConfig(guest_os="debian").os == "debian"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("vm_id", "a/b"),
        ("vm_id", ".."),
        ("vcpu_count", 0),
        ("vcpu_count", True),
        ("mem_size_mib", 127),
        ("mem_size_mib", 16385),
        ("disk_size_mib", 63),
        ("disk_mode", "other"),
    ],
)
def test_illegal_value_is_named(field: str, value: object) -> None:
    with pytest.raises(ValidationError, match=field):
        VMConfig(**{field: value})


def test_config_error_is_both_kinds_of_error() -> None:
    with pytest.raises(ValueError):
        VMConfig(mem_size_mib=1)
    with pytest.raises(SmolVMError):
        VMConfig(mem_size_mib=1)


def test_unset_variable_is_named() -> None:
    with pytest.raises(ValidationError, match=r"env_vars\.API_KEY.*is the variable set"):
        VMConfig(env_vars={"API_KEY": None})


def test_illegal_variable_name_is_refused() -> None:
    with pytest.raises(ValidationError, match="env_vars"):
        VMConfig(env_vars={"A=B": "1"})


def test_missing_kernel_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="kernel_path: Path does not exist"):
        VMConfig(kernel_path=tmp_path / "missing")
    with pytest.raises(ValidationError, match="rootfs_path: Path is not a file"):
        VMConfig(rootfs_path=tmp_path)


def test_config_and_vm_id_exclude_each_other() -> None:
    with pytest.raises(ValueError, match="not both"):
        SmolVM(VMConfig(), vm_id="a")
    with pytest.raises(ValueError, match="mem_size_mib"):
        SmolVM(VMConfig(), mem_size_mib=512)


def test_timeout_error_says_what_and_how_long() -> None:
    error = OperationTimeoutError("run", 30)
    assert str(error) == "Operation 'run' timed out after 30s"
    assert error.details == {"operation": "run", "timeout_seconds": 30}


@pytest.mark.parametrize(
    "error",
    [
        VMNotFoundError("x"),
        OperationTimeoutError("run", 2),
        CommandExecutionUnavailableError("x", "reason", "remedy"),
    ],
)
def test_exceptions_survive_pickling(error: SmolVMError) -> None:
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert copy.__dict__ == error.__dict__
    assert str(copy) == str(error)


def test_values_are_compared_by_their_fields() -> None:
    assert CommandResult(0, "a", "") == CommandResult(exit_code=0, stdout="a", stderr="")
    assert CommandResult(0, "a", "") != CommandResult(0, "b", "")
    assert PortForward(1, 2) != (1, 2, "127.0.0.1")
    assert len({PortForward(1, 2), PortForward(1, 2), PortForward(2, 1)}) == 2


def test_value_shows_its_fields() -> None:
    shown = "PortForward(host_port=1, guest_port=2, host_address='127.0.0.1')"
    assert repr(PortForward(1, 2)) == shown


def test_values_do_not_change() -> None:
    result = CommandResult(0, "", "")
    with pytest.raises(dataclasses.FrozenInstanceError, match="assign to field 'exit_code'"):
        result.exit_code = 1  # type: ignore[misc]
    with pytest.raises(AttributeError, match="delete field 'stdout'"):
        del result.stdout
    assert result == CommandResult(0, "", "")


@pytest.mark.parametrize(
    ("fields", "wrong"),
    [
        ({}, "missing 2 required positional arguments: 'host_port' and 'guest_port'"),
        ({"host_port": 1, "guest_port": 2, "port": 3}, "unexpected keyword argument 'port'"),
    ],
)
def test_field_that_is_missing_or_unknown_is_named(fields: dict[str, int], wrong: str) -> None:
    with pytest.raises(TypeError, match=rf"PortForward\.__init__\(\).*{wrong}"):
        PortForward(**fields)  # type: ignore[arg-type]


def test_constructor_has_the_signature_of_the_fields() -> None:
    signature = "(host_port: 'int', guest_port: 'int', host_address: 'str' = '127.0.0.1') -> None"
    assert str(inspect.signature(PortForward)) == signature


def test_defaults_are_not_shared() -> None:
    ProcessExit("exited", 0).console_tail.append("a line")
    VMConfig().labels["owner"] = "me"
    assert ProcessExit("exited", 0).console_tail == []
    assert VMConfig().labels == {}


@pytest.mark.parametrize(
    "value",
    [
        CommandResult(0, "out", "err"),
        VMInfo("x", VMState.RUNNING, VMConfig(env_vars={"A": "1"})),
    ],
)
def test_values_survive_copying_and_pickling(value: CommandResult | VMInfo) -> None:
    assert copy.deepcopy(value) == value
    assert pickle.loads(pickle.dumps(value)) == value


def test_values_count_as_dataclasses() -> None:
    config = VMConfig(memory=1024, port_forwards=[PortForward(8080, 80)])
    port = {"host_port": 8080, "guest_port": 80, "host_address": "127.0.0.1"}
    assert config.model_dump() == dataclasses.asdict(config)
    assert config.model_dump()["port_forwards"] == [port]
    assert dataclasses.replace(config, mem_size_mib=512).port_forwards == config.port_forwards
    assert [field.name for field in dataclasses.fields(PortForward)] == list(port)


def test_later_names_say_that_they_are_missing() -> None:
    with pytest.raises(SmolVMError, match="SnapshotInfo is not available"):
        smolvm.SnapshotInfo()


def test_firecracker_s_client_says_what_to_use_instead() -> None:
    from smolvm.api import FirecrackerClient

    with pytest.raises(SmolVMError, match=r"do not run on Firecracker.*SmolVM\.info"):
        FirecrackerClient("/tmp/fc.sock")


def test_every_module_that_older_clients_import_from_has_its_names() -> None:
    names = {
        "smolvm": "SmolVM BrowserSession SmolVMManager ImageManager ImageBuilder SSH_BOOT_ARGS "
        "ImageSource LocalImage HostManager SSHClient VMConfig VMInfo VMState NetworkConfig "
        "SnapshotArtifacts SnapshotInfo CommandResult BrowserViewport BrowserSessionConfig "
        "BrowserSessionInfo BrowserSessionState GuestOS __version__",
        "smolvm.api": "FirecrackerClient",
        "smolvm.build": "ImageBuilder SSH_BOOT_ARGS OPENCLAW_BOOT_ARGS FIRECRACKER_KERNEL_URLS "
        "QEMU_KERNEL_URLS",
        "smolvm.env": "validate_env_key",
        "smolvm.exceptions": "SmolVMError BrowserSessionAlreadyExistsError "
        "BrowserSessionNotFoundError CommandExecutionUnavailableError "
        "SnapshotAlreadyExistsError SnapshotNotFoundError ValidationError VMAlreadyExistsError "
        "VMNotFoundError NetworkError HostError ImageError FirecrackerAPIError "
        "OperationTimeoutError WorkerNodeSecurityError BridgeTapOwnershipError "
        "CommandBlockedError VsockNotSupportedError",
        "smolvm.host": "HostManager",
        "smolvm.images.builder": "ImageBuilder SSH_BOOT_ARGS",
        "smolvm.types": "CommandResult GuestOS NetworkConfig VMConfig VMInfo VMState "
        "BrowserSessionConfig BrowserSessionInfo BrowserSessionState BrowserViewport "
        "SnapshotArtifacts SnapshotInfo",
        "smolvm.utils": "ensure_ssh_key",
    }
    missing = [
        f"{module}.{name}"
        for module, listed in names.items()
        for name in listed.split()
        if not hasattr(importlib.import_module(module), name)
    ]
    assert missing == []
