"""What a sandbox is told at creation: limits, labels, deadlines, ports; and finding it again."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from smolvm import (
    AsyncSmolVM,
    OperationTimeoutError,
    PortForward,
    SmolVM,
    SmolVMError,
    SmolVMManager,
    ValidationError,
    VMConfig,
    VMNotFoundError,
    VMState,
    _native,
)
from smolvm.handle import BUNDLED, native_spec


def is_gone(vm: SmolVM) -> bool:
    try:
        return vm.status is VMState.STOPPED
    except VMNotFoundError:
        return True


def gone_within(vm: SmolVM, patience: float) -> bool:
    deadline = time.monotonic() + patience
    while not is_gone(vm) and time.monotonic() < deadline:
        time.sleep(0.1)
    return is_gone(vm)


def none_within(patience: float, labels: dict[str, str]) -> bool:
    """Whether no sandbox has these labels, at once or soon."""
    deadline = time.monotonic() + patience
    while SmolVM.list(labels=labels) and time.monotonic() < deadline:
        time.sleep(0.1)
    return not SmolVM.list(labels=labels)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_labels_find_a_sandbox() -> None:
    first = SmolVM(labels={"team": "blue", "task": "1"})
    second = SmolVM(VMConfig(labels={"team": "blue", "task": "2"}))
    try:
        names = {info.vm_id for info in SmolVM.list(labels={"team": "blue"})}
        assert names == {first.vm_id, second.vm_id}
        (found,) = SmolVM.list(labels={"team": "blue", "task": "2"})
        assert found.vm_id == second.vm_id
        assert found.labels == {"team": "blue", "task": "2"}
        assert SmolVM.from_id(first.vm_id).labels == first.labels
        assert SmolVM.list(labels={"team": "red"}) == []
        assert [info.vm_id for info in AsyncSmolVM.list(labels={"task": "1"})] == [first.vm_id]
        assert {first.vm_id, second.vm_id} <= {info.vm_id for info in SmolVM.list()}
    finally:
        first.delete()
        second.delete()


def test_information_says_what_was_asked_for(vm: SmolVM) -> None:
    options = VMConfig(
        vcpu_count=2, memory=640, disk_size=1024, idle_timeout=600, max_lifetime=3600.5,
        max_processes=300, cold=True,
    )  # fmt: skip
    sandbox = SmolVM(options)
    try:
        config = sandbox.info.config
        assert (config.vcpu_count, config.memory, config.disk_size) == (2, 640, 1024)
        assert (config.idle_timeout, config.max_lifetime) == (600, 3600.5)
        assert config.max_processes == 300
        assert config.cold is True
        assert sandbox.info.pid is None
    finally:
        sandbox.delete()
    pid = vm.info.pid
    assert pid is not None
    assert b"qemu" in Path(f"/proc/{pid}/cmdline").read_bytes()
    assert asyncio.run(AsyncSmolVM.from_id(vm.vm_id).full_info()).pid == pid


def test_process_limit_holds_for_the_whole_sandbox() -> None:
    with SmolVM(max_processes=24) as vm:
        result = vm.run("for i in $(seq 64); do sleep 5 & done; jobs | wc -l", timeout=60)
        assert "fork" in (result.stderr + result.stdout).lower()
        assert vm.run("echo alive").output == "alive"


def test_idle_sandbox_ends_and_a_busy_one_does_not() -> None:
    with SmolVM(idle_timeout=3) as vm:
        vm.start()
        begun = time.monotonic()
        assert vm.run("sleep 5; echo done").output == "done"
        assert time.monotonic() - begun >= 5
        assert gone_within(vm, 30)


def test_lifetime_ends_a_sandbox_that_is_used() -> None:
    with SmolVM(max_lifetime=4) as vm:
        process = vm.exec(["sleep", "300"])
        assert process.wait(timeout=60).reason == "sandbox_stopped"
        assert gone_within(vm, 30)


@pytest.mark.parametrize("field", ["idle_timeout", "max_lifetime"])
@pytest.mark.parametrize("value", [0, -1, float("nan"), True, "1"])
def test_deadline_that_is_no_time_is_named(field: str, value: object) -> None:
    with pytest.raises(ValidationError, match=field):
        VMConfig(**{field: value})


def test_guest_that_takes_too_long_to_come_up_is_ended() -> None:
    vm = SmolVM()
    with pytest.raises(OperationTimeoutError) as caught:
        vm.start(boot_timeout=0.05)
    assert caught.value.operation == "start"
    assert caught.value.timeout_seconds == 0.05
    with pytest.raises(VMNotFoundError):
        vm.info
    assert vm.vm_id not in {info.vm_id for info in SmolVM.list()}


def test_start_that_is_given_time_takes_it() -> None:
    with SmolVM() as vm:
        assert vm.start(boot_timeout=60) is vm
        assert vm.start(60) is vm


@pytest.mark.parametrize("limit", [-1, float("nan")])
def test_time_to_start_must_be_one(limit: float) -> None:
    vm = SmolVM()
    try:
        with pytest.raises(ValueError, match="boot_timeout"):
            vm.start(boot_timeout=limit)
    finally:
        vm.delete()


def test_ports_of_the_configuration_are_exposed_whoever_starts_the_sandbox(
    python: Callable[[str], CompletedProcess[str]],
) -> None:
    port = free_port()
    ports = [{"host_port": port, "guest_port": 8080}]
    config = VMConfig(vm_id="exposing", port_forwards=ports)
    assert config.port_forwards == [PortForward(port, 8080)]
    with SmolVM(config) as vm:
        assert vm.info.config.port_forwards == [PortForward(port, 8080)]
        for is_ours in (True, False):
            if not is_ours:
                started = python("from smolvm import SmolVM; SmolVM.from_id('exposing').start()")
                assert started.returncode == 0, started.stderr
            server = vm.exec(
                ["python3", "-c", "import socket; s = socket.create_server(('127.0.0.1', 8080)); "
                 "print(flush=True); s.accept()[0].send(b'hello')"]
            )  # fmt: skip
            assert server.stdout.readline() == b"\n"
            with socket.create_connection(("127.0.0.1", port), timeout=20) as client:
                assert client.recv(16) == b"hello"
            assert server.wait(timeout=20).ok
            vm.stop()


def test_port_that_is_taken_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        vm = SmolVM(port_forwards=[PortForward(port, 80)])
        with pytest.raises(SmolVMError, match=f"port_forwards.*{port}"):
            vm.start()
        # As after any start that fails, one without a name is gone.
        with pytest.raises(VMNotFoundError):
            vm.info


@pytest.mark.parametrize(
    ("ports", "complaint"),
    [
        ([{"host_port": 1}], "port_forwards.0"),
        ([{"host_port": 1, "guest_port": 2, "colour": 3}], "port_forwards.0"),
        ([{"host_port": 0, "guest_port": 2}], r"port_forwards.0.host_port"),
        ([{"host_port": 1, "guest_port": 65536}], r"port_forwards.0.guest_port"),
        ([{"host_port": "1", "guest_port": 2}], r"port_forwards.0.host_port"),
        ([{"host_port": 1, "guest_port": 2, "host_address": "0.0.0.0"}], "host_address"),
        ([{"host_port": 1, "guest_port": 2}, {"host_port": 1, "guest_port": 3}], "twice"),
        ([{"host_port": 1, "guest_port": 2}, {"host_port": 3, "guest_port": 2}], "twice"),
        ([7], "port_forwards.0"),
    ],
)
def test_illegal_ports_are_named(ports: list[object], complaint: str) -> None:
    with pytest.raises(ValidationError, match=complaint):
        VMConfig(port_forwards=ports)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("os", 7),
        ("backend", "colour"),
        ("backend", 7),
        ("boot_args", None),
        ("ssh_capable", "yes"),
        ("retain_disk_on_delete", 1),
        ("network_rate_limit_mbps", 0),
        ("labels", {"a": 1}),
        ("labels", ["a"]),
        ("max_processes", -1),
        ("extra_drives", ["/nowhere"]),
        ("disk_mode", "half"),
    ],
)
def test_illegal_value_of_any_field_is_named(field: str, value: object) -> None:
    with pytest.raises(ValidationError, match=field) as caught:
        VMConfig(**{field: value})
    assert isinstance(caught.value, ValueError)


def test_sandboxes_are_created_side_by_side() -> None:
    async def main() -> list[str]:
        configs = [VMConfig(vcpu_count=1, labels={"many": str(index)}) for index in range(3)]
        sandboxes = await SmolVM.async_create_many(configs, concurrency=2)
        results = await asyncio.gather(*(vm.async_run("echo $((6*7))") for vm in sandboxes))
        await asyncio.gather(*(vm.async_delete() for vm in sandboxes))
        return [result.output for result in results]

    assert asyncio.run(main()) == ["42"] * 3
    assert SmolVM.list(labels={"many": "0"}) == []


def test_one_that_fails_takes_the_others_with_it() -> None:
    async def main() -> None:
        configs = [VMConfig(labels={"all": "or none"}), VMConfig(os="no-such-system")]
        await SmolVM.async_create_many(configs)

    with pytest.raises(SmolVMError, match="no-such-system"):
        asyncio.run(main())
    assert none_within(20, {"all": "or none"})


def test_sandbox_that_nobody_takes_is_not_left() -> None:
    config = VMConfig(vcpu_count=1, labels={"left": "untaken"})
    created = _native.create(native_spec(config, None), None, BUNDLED).wait()
    assert len(SmolVM.list(labels={"left": "untaken"})) == 1
    del created
    assert none_within(20, {"left": "untaken"})


@pytest.mark.parametrize("delay", [0, 0.0001, 0.001, 0.01])
def test_sandbox_that_nobody_waits_for_any_more_is_not_left(delay: float) -> None:
    labels = {"left": f"after {delay}"}

    async def main() -> None:
        creation = asyncio.create_task(AsyncSmolVM.create(labels=labels))
        await asyncio.sleep(delay)
        creation.cancel()
        # One that was quick is there to be deleted.
        with contextlib.suppress(asyncio.CancelledError):
            await (await creation).delete()

    for _ in range(5):
        asyncio.run(main())
    assert none_within(20, labels)


def test_awaited_names_of_one_sandbox(tmp_path: Path) -> None:
    async def main() -> str:
        (tmp_path / "up").write_text("text")
        async with SmolVM() as vm:
            assert vm.status is VMState.RUNNING
            await vm.async_wait_for_ssh()
            await vm.async_upload_file(tmp_path / "up", "/tmp/up")
            await vm.async_download_file("/tmp/up", tmp_path / "down")
            await vm.async_pause()
            await vm.async_resume()
            await vm.async_stop()
            await vm.async_start()
            assert (await vm.async_run(["true"])).ok
            name = vm.vm_id
        return name

    name = asyncio.run(main())
    assert (tmp_path / "down").read_text() == "text"
    with pytest.raises(VMNotFoundError):
        SmolVMManager().get(name)


def test_unknown_backend_is_named() -> None:
    with pytest.raises(ValidationError, match="colour"):
        SmolVM(backend="colour")
