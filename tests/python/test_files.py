"""``vm.files``: whole directories, moves, and what a guest refuses."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from smolvm import AsyncSmolVM, GuestFileError, GuestFileNotFoundError, SmolVM


def tree(root: Path) -> dict[str, object]:
    """What is below a directory: contents, modes and targets of links."""
    found: dict[str, object] = {}
    for path in sorted(root.rglob("*")):
        name = str(path.relative_to(root))
        if path.is_symlink():
            found[name] = os.readlink(path)
        elif path.is_dir():
            found[name] = "directory"
        else:
            found[name] = (path.read_bytes(), path.stat().st_mode & 0o777)
    return found


@pytest.fixture
def source(tmp_path: Path) -> Path:
    root = tmp_path / "source"
    (root / "deep" / "er").mkdir(parents=True)
    (root / "empty").mkdir()
    (root / "deep" / "er" / "grüße.txt").write_text("hallo")
    (root / "tool").write_text("#!/bin/sh\necho tool\n")
    (root / "tool").chmod(0o755)
    (root / "link").symlink_to("deep/er")
    (root / "dangling").symlink_to("nowhere")
    (root / "big").write_bytes(os.urandom(3_000_000))
    return root


def test_directory_comes_back_as_it_went(vm: SmolVM, source: Path, tmp_path: Path) -> None:
    vm.files.upload(source, "/tmp/tree")
    assert vm.run("/tmp/tree/tool && cat /tmp/tree/link/*").stdout == "tool\nhallo"
    vm.files.download("/tmp/tree", tmp_path / "back")
    assert tree(tmp_path / "back") == tree(source)
    vm.files.remove("/tmp/tree", recursive=True)


def test_directory_into_an_existing_one_keeps_its_name(
    vm: SmolVM, source: Path, tmp_path: Path
) -> None:
    vm.files.mkdir("/tmp/into")
    vm.files.upload(source, "/tmp/into")
    assert vm.files.exists("/tmp/into/source/tool")
    (tmp_path / "back").mkdir()
    vm.files.download("/tmp/into/source", tmp_path / "back")
    assert tree(tmp_path / "back" / "source") == tree(source)
    vm.files.remove("/tmp/into", recursive=True)


def test_move_renames_and_replaces_only_when_told(vm: SmolVM) -> None:
    vm.files.write("/tmp/moves/a", "a")
    vm.files.write("/tmp/moves/b", "b")
    with pytest.raises(GuestFileError, match="/tmp/moves/b|exists"):
        vm.files.move("/tmp/moves/a", "/tmp/moves/b")
    assert vm.files.read_text("/tmp/moves/b") == "b"
    vm.files.move("/tmp/moves/a", "/tmp/moves/b", overwrite=True)
    assert vm.files.read_text("/tmp/moves/b") == "a"
    assert not vm.files.exists("/tmp/moves/a")
    vm.files.move("/tmp/moves", "/tmp/moved")
    assert vm.files.exists("/tmp/moved/b")
    with pytest.raises(GuestFileNotFoundError):
        vm.files.move("/tmp/moves", "/tmp/elsewhere")


def test_exists_says_no_where_there_can_be_nothing(vm: SmolVM) -> None:
    vm.run("ln -sfn /nowhere /tmp/dangling")
    assert not vm.files.exists("/tmp/dangling")
    assert vm.files.stat("/tmp/dangling", follow_symlinks=False).target == "/nowhere"
    assert not vm.files.exists("/etc/passwd/below")
    assert vm.files.exists("/")


def test_what_is_not_empty_stays(vm: SmolVM) -> None:
    vm.files.write("/tmp/full/file", b"")
    with pytest.raises(GuestFileError):
        vm.files.remove("/tmp/full")
    vm.files.remove("/tmp/full", recursive=True)
    with pytest.raises(GuestFileNotFoundError):
        vm.files.remove("/tmp/full")


def test_directory_is_made_once(vm: SmolVM) -> None:
    vm.files.mkdir("/tmp/once", mode=0o700)
    assert vm.files.stat("/tmp/once").mode & 0o777 == 0o700
    with pytest.raises(GuestFileError):
        vm.files.mkdir("/tmp/once")
    with pytest.raises(GuestFileNotFoundError):
        vm.files.mkdir("/tmp/a/b/c")


def test_full_disk_is_an_error_and_not_half_a_file(vm: SmolVM, tmp_path: Path) -> None:
    (tmp_path / "big").write_bytes(bytes(8_000_000))
    vm.run("mkdir -p /mnt/small && mount -t tmpfs -o size=2m none /mnt/small")
    try:
        with pytest.raises(GuestFileError, match="space|NoSpace"):
            vm.upload_file(tmp_path / "big", "/mnt/small/big")
        with pytest.raises(GuestFileError, match="space|NoSpace"):
            vm.files.write("/mnt/small/text", bytes(4_000_000))
        assert [entry.name for entry in vm.files.list("/mnt/small")] == []
    finally:
        vm.run("umount /mnt/small")


@pytest.mark.parametrize("path", ["relative", "", "/tmp/a\0b"])
def test_path_that_is_not_one_is_refused(vm: SmolVM, path: str) -> None:
    with pytest.raises((GuestFileError, ValueError)):
        vm.files.read(path)
    assert vm.run("true").ok


def test_reading_stops_where_it_is_told(vm: SmolVM) -> None:
    vm.files.write("/tmp/long", bytes(1000))
    assert len(vm.files.read("/tmp/long", max_bytes=1000)) == 1000
    with pytest.raises(ValueError, match="999 bytes"):
        vm.files.read("/tmp/long", max_bytes=999)


def test_awaited_files_do_the_same(vm: SmolVM, source: Path, tmp_path: Path) -> None:
    async def main() -> list[str | None]:
        files = AsyncSmolVM.from_id(vm.vm_id).files
        await files.upload(source, "/tmp/awaited")
        await files.move("/tmp/awaited/tool", "/tmp/awaited/other")
        names = [entry.name for entry in await files.list("/tmp/awaited")]
        await files.download("/tmp/awaited", tmp_path / "back")
        await files.remove("/tmp/awaited", recursive=True)
        assert not await files.exists("/tmp/awaited")
        return names

    expected = ["big", "dangling", "deep", "empty", "link", "other"]
    assert asyncio.run(main()) == expected
    assert sorted(os.listdir(tmp_path / "back")) == expected


@pytest.mark.timeout(900)
def test_two_gigabytes_take_little_memory_on_their_way(vm: SmolVM, tmp_path: Path) -> None:
    size = 2 << 30
    vm.run(f"truncate -s {size} /root/large")
    target = tmp_path / "large"
    script = f"""
import resource
from smolvm import SmolVM
vm = SmolVM.from_id({vm.vm_id!r})
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
vm.download_file("/root/large", {str(target)!r})
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    supervisor = supervisor_of(vm)
    before = peak_memory(supervisor)
    command = [sys.executable, "-c", script]
    result = subprocess.run(command, capture_output=True, text=True, timeout=840, check=False)
    try:
        assert result.returncode == 0, result.stderr
        assert target.stat().st_size == size
        assert int(result.stdout) < 32 * 1024  # KiB: getrusage(2)
        assert peak_memory(supervisor) - before < 8 * 1024
    finally:
        target.unlink(missing_ok=True)
        vm.run("rm /root/large")


def test_large_upload_takes_little_memory(
    vm: SmolVM, python: Callable[[str], CompletedProcess[str]], tmp_path: Path
) -> None:
    source = tmp_path / "large"
    with source.open("wb") as large:
        large.truncate(200 << 20)
    script = f"""
import resource
from smolvm import SmolVM
vm = SmolVM.from_id({vm.vm_id!r})
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
vm.upload_file({str(source)!r}, "/root/large")
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    supervisor = supervisor_of(vm)
    before = peak_memory(supervisor)
    result = python(script)
    assert result.returncode == 0, result.stderr
    assert vm.files.stat("/root/large").size == 200 << 20
    assert int(result.stdout) < 32 * 1024  # KiB: getrusage(2)
    assert peak_memory(supervisor) - before < 8 * 1024
    vm.run("rm /root/large")


def supervisor_of(vm: SmolVM) -> int:
    """The process that the sandbox's machine is a child of."""
    return status_field(vm.info.pid, "PPid")


def peak_memory(process: int) -> int:
    """The most memory that a process has had, in KiB (proc_pid_status(5))."""
    return status_field(process, "VmHWM")


def status_field(process: int | None, name: str) -> int:
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    (line,) = (line for line in lines if line.startswith(f"{name}:"))
    return int(line.split()[1])
