"""What nobody should ask for: it is refused by its name, at once, and the sandbox goes on."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from smolvm import (
    AsyncSmolVM,
    GuestFileError,
    HostError,
    SmolVM,
    SmolVMError,
    SmolVMManager,
    ValidationError,
    VMConfig,
    VMNotFoundError,
)

#: An integer that no float holds.
HUGE = 10**400


@pytest.fixture(autouse=True)
def answering(vm: SmolVM) -> Iterator[None]:
    """Whatever was asked for, the sandbox goes on."""
    yield
    assert vm.run("echo alive").output == "alive"


@pytest.fixture
def half(data_dir: Path) -> Iterator[Path]:
    """The directory of the sandbox `half`, for a test to take something away."""
    vm = SmolVM(VMConfig(vm_id="half"))
    yield data_dir / "sandboxes" / "half"
    try:
        vm.delete()
    except VMNotFoundError:
        pass


def test_megabyte_of_arguments_arrives(vm: SmolVM) -> None:
    result = vm.run(["echo", "-n", *["x" * 99] * 10_000])
    assert len(result.stdout) == 999_999


@pytest.mark.parametrize(
    "command",
    [
        ["echo", "x" * 1_000_000],
        ["echo", *["x" * 1000] * 3_000],
        ["echo", *["x" * 1000] * 20_000],
        "echo " + "x" * 1_000_000,
    ],
    ids=["one-argument", "three-megabytes", "twenty-megabytes", "one-line"],
)
def test_arguments_longer_than_linux_takes_are_refused(
    vm: SmolVM, command: str | list[str]
) -> None:
    with pytest.raises(ValidationError, match="arguments too long|takes at most"):
        vm.run(command)


@pytest.mark.parametrize("command", ["", " \n\t", "a\0b", [], [""], ["echo", "a\0b"]])
def test_command_that_is_none_is_refused(vm: SmolVM, command: str | list[str]) -> None:
    with pytest.raises(ValidationError, match="command"):
        vm.run(command)
    with pytest.raises(ValidationError, match="command"):
        vm.exec(command)
    with pytest.raises(ValidationError, match="command"):
        vm.jobs.start(command)


@pytest.mark.parametrize("command", [None, 7, b"true", [None]])
def test_command_of_another_type_is_refused(vm: SmolVM, command: object) -> None:
    with pytest.raises(TypeError, match="command must be a string or a sequence of strings"):
        vm.run(command)  # type: ignore[arg-type]


def test_time_that_is_none_is_refused_wherever_it_is_given(vm: SmolVM) -> None:
    sleep = vm.exec(["sleep", "100"])
    for seconds in (-1, -HUGE, float("nan"), float("inf")):
        with pytest.raises(ValidationError, match="timeout"):
            vm.run("true", timeout=seconds)
        with pytest.raises(ValidationError, match="timeout"):
            vm.exec("true", timeout=seconds)
        with pytest.raises(ValidationError, match="timeout"):
            sleep.wait(timeout=seconds)
        with pytest.raises(ValidationError, match="timeout"):
            vm.wait_for_ready(seconds)
        with pytest.raises(ValidationError, match="timeout"):
            vm.stop(timeout=seconds)
        with pytest.raises(ValidationError, match="boot_timeout"):
            vm.start(boot_timeout=seconds)
    for other in ("3", True):
        with pytest.raises(TypeError, match="timeout must be a number of seconds"):
            sleep.wait(timeout=other)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="timeout must be a number of seconds"):
            vm.stop(timeout=other)  # type: ignore[arg-type]
    sleep.kill()


def test_time_without_end_is_taken_wherever_it_is_given() -> None:
    for seconds in (HUGE, 1e300, 1e18):
        with SmolVM() as vm:
            vm.start(boot_timeout=seconds)
            assert vm.exec("true", timeout=seconds).wait(timeout=seconds).ok
            vm.stop(timeout=seconds)


@pytest.mark.parametrize("name", ["A=B", "", "1A", "A B", "A\0", "Ä"])
def test_illegal_name_of_a_variable_is_named(vm: SmolVM, name: str) -> None:
    with pytest.raises(ValidationError, match="environment variable"):
        vm.set_env_vars({name: "x"})
    with pytest.raises(ValidationError, match="environment variable"):
        vm.run("true", env={name: "x"})
    with pytest.raises(ValidationError, match="environment variable"):
        vm.unset_env_vars([name])
    with pytest.raises(ValidationError, match="env_vars"):
        VMConfig(env_vars={name: "x"})


def test_variable_that_is_not_set_is_named(vm: SmolVM) -> None:
    unset: dict[str, str] = {"API_KEY": os.getenv("SMOLVM_TEST_NEVER_SET")}  # type: ignore[dict-item]
    with pytest.raises(ValidationError, match="env_vars.*API_KEY is None; is the variable set"):
        vm.set_env_vars(unset)
    with pytest.raises(ValidationError, match="env.*API_KEY is None; is the variable set"):
        vm.run("true", env=unset)
    with pytest.raises(ValidationError, match=r"env_vars\.API_KEY.*is the variable set"):
        VMConfig(env_vars=unset)
    assert vm.list_env_vars() == {}


@pytest.mark.parametrize("variables", [{"A": 7}, {7: "A"}, [("A", "B")], "A=B", None])
def test_variables_that_are_no_mapping_of_strings_are_refused(
    vm: SmolVM, variables: object
) -> None:
    with pytest.raises(ValidationError, match="env_vars"):
        vm.set_env_vars(variables)  # type: ignore[arg-type]


@pytest.mark.parametrize("value", ["a\0b", "x" * 200_000])
def test_value_that_no_variable_can_have_is_refused(vm: SmolVM, value: str) -> None:
    with pytest.raises(ValidationError, match="KEY"):
        vm.set_env_vars({"KEY": value})
    with pytest.raises(ValidationError):
        vm.run("true", env={"KEY": value})


@pytest.mark.parametrize(
    "vm_id", ["../x", "a/b", "/", ".", "..", "a.b", ".new-x", "a\0b", "", "A", "-a", "x" * 65]
)
def test_name_that_is_none_is_refused(vm_id: str) -> None:
    for use in (SmolVM.from_id, AsyncSmolVM.from_id, SmolVMManager().get, SmolVMManager().delete):
        with pytest.raises(ValidationError, match="vm_id: invalid sandbox name"):
            use(vm_id)
    with pytest.raises(ValidationError, match="vm_id"):
        VMConfig(vm_id=vm_id)


@pytest.mark.parametrize("vm_id", [None, 7, b"name"])
def test_name_of_another_type_neither_finds_nor_makes_a_sandbox(vm_id: object) -> None:
    before = SmolVM.list()
    for use in (SmolVM.from_id, AsyncSmolVM.from_id, SmolVMManager().get, SmolVMManager().delete):
        with pytest.raises(ValidationError, match="vm_id"):
            use(vm_id)  # type: ignore[arg-type]
    assert SmolVM.list() == before


def test_deleted_sandbox_is_not_found_by_any_handle() -> None:
    vm = SmolVM(VMConfig(vm_id="deleted"))
    other = SmolVM.from_id("deleted")
    vm.delete()
    with pytest.raises(VMNotFoundError):
        SmolVM.from_id("deleted")
    for use in (other.start, other.stop, other.pause, other.resume, other.delete, other.refresh):
        with pytest.raises(VMNotFoundError):
            use()
    other.close()
    assert repr(other) == "SmolVM(vm_id='deleted', status='deleted')"


@pytest.mark.parametrize("missing", ["state.json", "spec.json"])
def test_half_deleted_sandbox_names_what_is_missing_and_can_be_deleted(
    half: Path, missing: str
) -> None:
    (half / missing).unlink()
    vm = SmolVM.from_id("half")
    for use in (vm.start, vm.stop, lambda: vm.run("true"), lambda: vm.info, lambda: vm.status):
        with pytest.raises(HostError, match=missing):
            use()
    assert repr(vm) == "SmolVM(vm_id='half', status='unknown')"
    assert "half" not in [info.vm_id for info in SmolVM.list()]
    vm.delete()
    assert not half.exists()


def test_sandbox_without_its_disk_does_not_start_and_can_be_deleted(half: Path) -> None:
    (half / "overlay.img").unlink()
    with pytest.raises(SmolVMError, match="overlay"):
        SmolVM.from_id("half").start()
    SmolVM.from_id("half").delete()
    assert not half.exists()


@pytest.mark.parametrize("is_running", [False, True])
def test_processes_that_delete_at_once_leave_nothing(data_dir: Path, is_running: bool) -> None:
    vm = SmolVM(VMConfig(vm_id="contested"))
    if is_running:
        vm.start()
    script = (
        "import sys\n"
        "from smolvm import SmolVM, VMNotFoundError\n"
        "vm = SmolVM.from_id('contested')\n"
        "print('ready', flush=True)\n"
        "sys.stdin.readline()\n"
        "try:\n"
        "    vm.delete()\n"
        "except VMNotFoundError:\n"
        "    pass\n"
    )
    command = [sys.executable, "-c", script]
    pipe = subprocess.PIPE
    processes = [
        subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True)
        for _ in range(4)
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    ends = [process.communicate(timeout=60) for process in processes]
    assert [process.returncode for process in processes] == [0] * 4, ends
    assert [path.name for path in (data_dir / "sandboxes").glob("*contested*")] == []
    with pytest.raises(VMNotFoundError):
        vm.refresh()


def test_only_files_and_directories_are_copied_and_nothing_waits(
    vm: SmolVM, tmp_path: Path
) -> None:
    os.mkfifo(tmp_path / "fifo")
    vm.run("mkdir -p /tmp/bad && mkfifo /tmp/bad/fifo")
    copies: list[tuple[str, Callable[[], object]]] = []
    for path in (tmp_path / "fifo", Path("/dev/zero")):
        copies += [
            ("regular file", partial(vm.upload_file, path, "/tmp/bad/copy")),
            ("neither a file", partial(vm.files.upload, path, "/tmp/bad/copy")),
        ]
    for guest in ("/tmp/bad/fifo", "/dev/zero"):
        copies += [
            ("regular file", partial(vm.download_file, guest, tmp_path / "copy")),
            ("neither a file", partial(vm.files.download, guest, tmp_path / "copy")),
            ("regular file", partial(vm.files.read, guest)),
        ]
    copies.append(("regular file", partial(vm.upload_file, tmp_path, "/tmp/bad/copy")))
    for complaint, copy in copies:
        begun = time.monotonic()
        with pytest.raises(ValidationError, match=complaint):
            copy()
        assert time.monotonic() - begun < 10
    assert os.listdir(tmp_path) == ["fifo"]
    assert [entry.name for entry in vm.files.list("/tmp/bad")] == ["fifo"]
    vm.files.remove("/tmp/bad", recursive=True)


def test_directory_is_no_file_to_copy_from_or_onto(vm: SmolVM, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for remote in ("/tmp", "/tmp/new/"):
        with pytest.raises(GuestFileError, match="is a directory"):
            vm.upload_file(tmp_path / "file", remote)
    with pytest.raises(GuestFileError, match="is a directory"):
        vm.download_file("/tmp", tmp_path / "copy")
    with pytest.raises(ValidationError, match="is a directory"):
        vm.download_file("/etc/hostname", tmp_path)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        vm.upload_file(tmp_path / "nowhere", "/tmp/x")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        vm.download_file("/etc/hostname", tmp_path / "nowhere" / "x")
    assert os.listdir(tmp_path) == ["file"]


def test_disk_that_is_full_keeps_what_it_had(tmp_path: Path) -> None:
    with (tmp_path / "large").open("wb") as large:
        large.truncate(200 << 20)
    with SmolVM(disk_size_mib=64) as vm:
        vm.files.write("/srv/kept", "kept")
        with pytest.raises(GuestFileError, match="no space left"):
            vm.upload_file(tmp_path / "large", "/srv/large")
        with pytest.raises(GuestFileError, match="no space left"):
            vm.upload_file(tmp_path / "large", "/srv/kept")
        assert [entry.name for entry in vm.files.list("/srv")] == ["kept"]
        assert vm.run("cat /srv/kept; echo more > /srv/more").output == "kept"


@pytest.mark.parametrize("port", [0, -1, 65536, 10**30, True, "80", 80.0])
def test_port_that_is_none_is_named(vm: SmolVM, port: object) -> None:
    with pytest.raises(ValidationError, match="guest_port"):
        vm.expose_local(port)  # type: ignore[arg-type]
    with pytest.raises(ValidationError, match="host_port"):
        vm.expose_local(80, port)  # type: ignore[arg-type]


def test_port_that_is_not_exposed_is_named(vm: SmolVM) -> None:
    with pytest.raises(ValidationError, match="port 9 is not exposed"):
        vm.unexpose_local(9, 9)


def test_user_that_does_not_exist_is_named(vm: SmolVM) -> None:
    with pytest.raises(ValidationError, match="nobody-here"):
        vm.run("true", user="nobody-here")
