"""Commands and files of a running guest."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from pathlib import Path

import pytest

from smolvm import AsyncSmolVM, OperationTimeoutError, SmolVM, SmolVMError
from smolvm.exceptions import GuestFileError, GuestFileNotFoundError


def test_command_gives_its_outputs_and_exit_code(vm: SmolVM) -> None:
    result = vm.run("echo out; echo err >&2; exit 3")
    assert (result.stdout, result.stderr, result.exit_code) == ("out\n", "err\n", 3)
    assert not result.ok
    assert result.exit_reason == "exited"


def test_default_image_has_python(vm: SmolVM) -> None:
    assert vm.run("uname -a && python3 --version").ok


def test_timeout_ends_the_command_and_keeps_what_it_wrote(vm: SmolVM) -> None:
    begun = time.monotonic()
    with pytest.raises(OperationTimeoutError) as caught:
        vm.run("echo marker > /tmp/t; while :; do echo x; sleep 0.2; done", timeout=2)
    assert time.monotonic() - begun < 6
    assert caught.value.stdout.startswith("x\n")
    assert vm.run("pgrep -f 'while :; do echo [x]'").exit_code == 1


@pytest.mark.parametrize("timeout", [0, -1, float("nan")])
def test_timeout_that_is_no_time_is_refused(vm: SmolVM, timeout: float) -> None:
    with pytest.raises(ValueError, match="timeout"):
        vm.run("true", timeout=timeout)


@pytest.mark.parametrize("timeout", [True, "1", None])
def test_timeout_that_is_no_number_is_refused(vm: SmolVM, timeout: object) -> None:
    with pytest.raises(TypeError, match="timeout"):
        vm.run("true", timeout=timeout)  # type: ignore[arg-type]


@pytest.mark.parametrize("timeout", [20.5, 10**400, 1e300])
def test_long_timeouts_are_taken(vm: SmolVM, timeout: float) -> None:
    assert vm.run("true", timeout=timeout).ok


@pytest.mark.parametrize("command", ["", " \n", "a\0b"])
def test_command_that_is_none_is_refused(vm: SmolVM, command: str) -> None:
    with pytest.raises(ValueError, match="command"):
        vm.run(command)


def test_ten_megabytes_of_error_output_arrive_whole(vm: SmolVM) -> None:
    result = vm.run("head -c 10000000 /dev/zero >&2", timeout=120)
    assert (result.exit_code, len(result.stderr)) == (0, 10_000_000)


def test_variables_reach_login_shells_only(vm: SmolVM) -> None:
    assert vm.set_env_vars({"GREETING": "it's"}) == ["GREETING"]
    assert vm.run("echo $GREETING").output == "it's"
    assert vm.run("echo $GREETING", shell="raw").output == ""
    assert vm.unset_env_vars(["GREETING"]) == {"GREETING": "it's"}
    assert vm.list_env_vars() == {}


def test_file_comes_back_as_it_went(vm: SmolVM, tmp_path: Path) -> None:
    content = os.urandom(3_000_000)
    (tmp_path / "up").write_bytes(content)
    vm.upload_file(tmp_path / "up", "/tmp/there/file")
    assert vm.files.stat("/tmp/there/file").size == len(content)
    vm.download_file("/tmp/there/file", tmp_path / "down")
    assert (tmp_path / "down").read_bytes() == content


def test_only_regular_files_are_uploaded(vm: SmolVM, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path, tmp_path / "fifo"):
        with pytest.raises(ValueError, match="not a regular file"):
            vm.upload_file(path, "/tmp/x")
    with pytest.raises(FileNotFoundError):
        vm.upload_file(tmp_path / "missing", "/tmp/x")


def test_upload_onto_a_directory_is_refused(vm: SmolVM, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(GuestFileError):
        vm.upload_file(tmp_path / "file", "/tmp")


def test_failed_download_leaves_nothing(vm: SmolVM, tmp_path: Path) -> None:
    with pytest.raises(GuestFileNotFoundError):
        vm.download_file("/missing", tmp_path / "down")
    assert list(tmp_path.iterdir()) == []


def test_files_are_made_listed_and_removed(vm: SmolVM) -> None:
    vm.files.mkdir("/tmp/made/deep", parents=True)
    vm.files.write("/tmp/made/text", "grüße")
    assert vm.files.read_text("/tmp/made/text") == "grüße"
    assert [entry.name for entry in vm.files.list("/tmp/made")] == ["deep", "text"]
    vm.files.remove("/tmp/made", recursive=True)
    assert not vm.files.exists("/tmp/made")


def test_threads_share_one_handle(vm: SmolVM) -> None:
    outputs: list[str] = []
    threads = [
        threading.Thread(target=lambda n=n: outputs.append(vm.run(f"echo {n}").output))
        for n in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(outputs) == ["0", "1", "2", "3"]


def test_synchronous_calls_work_inside_an_event_loop(vm: SmolVM) -> None:
    async def inside() -> str:
        return vm.run("echo inside").output

    assert asyncio.run(inside()) == "inside"


def test_awaited_commands_run_side_by_side(vm: SmolVM) -> None:
    async def three() -> list[str]:
        handle = AsyncSmolVM.from_id(vm.vm_id)
        results = await asyncio.gather(*(handle.run(f"sleep 1; echo {n}") for n in range(3)))
        return [result.output for result in results]

    assert asyncio.run(three()) == ["0", "1", "2"]


def test_cancelling_an_awaited_command_kills_it(vm: SmolVM) -> None:
    async def cancelled() -> None:
        handle = AsyncSmolVM.from_id(vm.vm_id)
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(handle.run("exec sleep 4321", timeout=60), 3)

    asyncio.run(cancelled())
    assert vm.run("timeout 10 sh -c 'while pgrep -f [s]leep.4321; do sleep 0.1; done'").ok


def test_awaited_failure_is_raised(vm: SmolVM) -> None:
    async def failing() -> None:
        await AsyncSmolVM.from_id(vm.vm_id).files.read("/missing")

    with pytest.raises(SmolVMError, match="/missing"):
        asyncio.run(failing())
