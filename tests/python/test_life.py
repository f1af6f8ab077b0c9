"""From creation to deletion, and what is left of a sandbox whose process ends."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest

from smolvm import (
    SmolVM,
    SmolVMError,
    SmolVMManager,
    VMAlreadyExistsError,
    VMConfig,
    VMNotFoundError,
    VMState,
)

Python = Callable[[str], "subprocess.CompletedProcess[str]"]


def names() -> list[str]:
    """Returns the names of all sandboxes, after what is dead has been removed."""
    return [info.vm_id for info in SmolVM.list()]


def test_constructing_creates_and_running_starts() -> None:
    vm = SmolVM(mem_size_mib=256, disk_size_mib=512)
    assert vm.status == VMState.CREATED
    assert repr(vm) == f"SmolVM(vm_id='{vm.vm_id}', status='created')"
    assert vm.run("echo started").output == "started"
    assert vm.info.status == VMState.RUNNING
    vm.delete()
    with pytest.raises(VMNotFoundError):
        vm.run("true")


def test_variables_of_the_configuration_reach_the_guest() -> None:
    with SmolVM(VMConfig(env_vars={"API_KEY": "secret"}, mem_size_mib=256)) as vm:
        assert vm.run("echo $API_KEY").output == "secret"


def test_body_s_exception_is_not_hidden() -> None:
    with pytest.raises(RuntimeError, match="from the body"), SmolVM() as vm:
        vm.delete()
        raise RuntimeError("from the body")


def test_name_that_is_taken_is_refused() -> None:
    vm = SmolVM(VMConfig(vm_id="taken"))
    try:
        with pytest.raises(VMAlreadyExistsError):
            SmolVM(VMConfig(vm_id="taken"))
    finally:
        vm.delete()


@pytest.mark.parametrize("vm_id", ["../x", "a/b", ""])
def test_illegal_name_is_refused(vm_id: str) -> None:
    with pytest.raises(ValueError, match="name"):
        SmolVM.from_id(vm_id)


def test_sandbox_that_was_let_go_outlives_its_process(python: Python) -> None:
    done = python(
        "from smolvm import SmolVM\n"
        "vm = SmolVM()\n"
        "vm.run('echo kept > /root/note')\n"
        "vm.close()\n"
        "print(vm.vm_id)"
    )
    assert done.returncode == 0, done.stderr
    vm = SmolVM.from_id(done.stdout.strip())
    assert vm.run("cat /root/note").output == "kept"
    vm.delete()
    vm.close()


@pytest.mark.parametrize(
    "script",
    [
        "vm = SmolVM()",
        "vm = SmolVM().start()",
        "vm = SmolVM().start(); vm.stop(); vm.close()",
        "vm = SmolVM().start(); sys.exit(3)",
        "vm = SmolVM().start(); raise RuntimeError",
        "vm = SmolVM().start(); os._exit(0)",
        "vm = SmolVM(); os.kill(os.getpid(), signal.SIGKILL)",
        "vm = SmolVM().start(); vm.pause()",
        "vm = SmolVM().start(); vm.pause(); os.kill(os.getpid(), signal.SIGKILL)",
        "vm = SmolVM().start(); vm.stop(); os.kill(os.getpid(), signal.SIGKILL)",
        "vm = SmolVM(); process = vm.exec('sleep 1000')",
        "vm = SmolVM(); process = vm.exec('sleep 1000'); os.kill(os.getpid(), signal.SIGKILL)",
        "vm = SmolVM(); vm.jobs.start('sleep 1000')",
        "vm = SmolVM(); vm.exec('yes'); vm.exec(['cat'], stdin=True)",
        "vm = SmolVM().start(); threading.Thread(target=vm.run, args=('sleep 1000',), "
        "daemon=True).start()",
        "asyncio.run(AsyncSmolVM.create())",
    ],
)
def test_ended_process_leaves_nothing(python: Python, script: str) -> None:
    before = names()
    python(
        "import asyncio, os, signal, sys, threading\n"
        f"from smolvm import AsyncSmolVM, SmolVM\n{script}"
    )
    # The supervisor of a process that died without a word notices that, and takes a moment.
    deadline = time.monotonic() + 20
    while names() != before and time.monotonic() < deadline:
        SmolVMManager().reconcile()
    assert names() == before


def test_child_of_a_fork_leaves_the_sandbox_alone(python: Python) -> None:
    done = python(
        "import multiprocessing\n"
        "from smolvm import SmolVM\n"
        "vm = SmolVM().start()\n"
        "def child():\n"
        "    assert SmolVM.from_id(vm.vm_id).run('echo child').output == 'child'\n"
        "process = multiprocessing.get_context('fork').Process(target=child)\n"
        "process.start(); process.join(60)\n"
        "assert process.exitcode == 0, process.exitcode\n"
        "print(vm.run('echo parent').output)"
    )
    assert done.stdout == "parent\n", done.stderr


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_sandbox_of_a_child_ends_with_the_child(
    tmp_path: Path, python: Python, method: str
) -> None:
    before = names()
    # A child of multiprocessing ends without what the interpreter does at exit.
    program = tmp_path / "program.py"
    program.write_text(
        "import multiprocessing, time\n"
        "from smolvm import SmolVM\n"
        "def child(queue):\n"
        "    queue.put(SmolVM().start().run('echo child').output)\n"
        "if __name__ == '__main__':\n"
        "    own = SmolVM().start()\n"
        f"    context = multiprocessing.get_context({method!r})\n"
        "    queue = context.Queue()\n"
        "    process = context.Process(target=child, args=(queue,))\n"
        "    process.start()\n"
        "    print(queue.get(timeout=90))\n"
        "    process.join(60)\n"
        "    deadline = time.monotonic() + 20\n"
        f"    expected = sorted([*{before!r}, own.vm_id])\n"
        "    others = lambda: sorted(known.vm_id for known in SmolVM.list()) != expected\n"
        "    while others() and time.monotonic() < deadline:\n"
        "        pass\n"
        "    print(others(), process.exitcode)\n"
    )
    done = subprocess.run(
        [sys.executable, program], capture_output=True, text=True, timeout=150, check=False
    )
    assert done.stdout == "child\nFalse 0\n", done.stderr
    assert names() == before


def test_interrupt_ends_a_wait(tmp_path: Path) -> None:
    # Whoever runs the tests in the background may have had the signal ignored.
    script = (
        "import signal\n"
        "from smolvm import SmolVM\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "with SmolVM() as vm:\n"
        "    print('running', flush=True)\n"
        "    vm.run('sleep 60', timeout=60)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "running\n"
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)
    assert "KeyboardInterrupt" in errors


def test_commands_of_the_package_run() -> None:
    programs = Path(sys.executable).parent
    for command in (["smolvm", "list"], ["smolvm", "cleanup"], ["smolvm-cleanup", "--dry-run"]):
        done = subprocess.run(
            [programs / command[0], *command[1:], "--json"],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["ok"], done.stdout


def test_import_takes_no_third_party_package(python: Python) -> None:
    done = python(
        "import sys, sysconfig\n"
        "import smolvm\n"
        "third = [n for n, m in sys.modules.items() if 'site-packages' in "
        "(getattr(m, '__file__', None) or '') and not n.startswith('smolvm')]\n"
        "print([n for n in third if not n.startswith('_')])"
    )
    assert done.stdout == "[]\n", done.stderr


def test_import_leaves_slow_modules_for_later(python: Python) -> None:
    slow = (
        *("asyncio", "dataclasses", "inspect", "logging"),
        *("ssl", "subprocess", "tempfile", "threading"),
    )
    done = python(f"import sys, smolvm; print([n for n in {slow!r} if n in sys.modules])")
    assert done.stdout == "[]\n", done.stderr


def test_stopped_sandbox_stays_as_long_as_its_creator(python: Python) -> None:
    done = python(
        "from smolvm import SmolVM\n"
        "vm = SmolVM()\n"
        "vm.run('echo kept > /root/note')\n"
        "vm.stop(); vm.close()\n"
        "assert vm.vm_id in [known.vm_id for known in SmolVM.list()]\n"
        "print(SmolVM.from_id(vm.vm_id).run('cat /root/note').output)"
    )
    assert done.stdout == "kept\n", done.stderr


def test_child_of_a_fork_does_not_keep_the_sandbox_of_a_killed_parent(python: Python) -> None:
    before = names()
    done = python(
        "import os, signal, time\n"
        "from smolvm import SmolVM\n"
        "vm = SmolVM().start()\n"
        "if os.fork() == 0:\n"
        "    os.setsid()\n"
        "    for stream in (0, 1, 2): os.close(stream)\n"
        "    time.sleep(60)\n"
        "    os._exit(0)\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert done.returncode == -signal.SIGKILL
    deadline = time.monotonic() + 20
    while names() != before and time.monotonic() < deadline:
        SmolVMManager().reconcile()
    assert names() == before


def test_paused_sandbox_refuses_commands_and_start_resumes_it() -> None:
    with SmolVM() as vm:
        vm.run("echo kept > /dev/shm/note")
        vm.pause()
        assert vm.status == VMState.PAUSED
        with pytest.raises(SmolVMError, match="paused"):
            vm.run("true")
        vm.start()
        assert vm.run("cat /dev/shm/note").output == "kept"
        with pytest.raises(SmolVMError, match="not paused"):
            vm.resume()


def test_exposed_port_answers_until_it_is_closed() -> None:
    with SmolVM() as vm:
        vm.run(
            "mkdir /srv/www; cd /srv/www; echo from the guest > note; "
            "setsid python3 -m http.server 8000 --bind 127.0.0.1 >/dev/null 2>&1 & "
            "until python3 -c 'import socket; socket.create_connection((\"127.0.0.1\", 8000))'; "
            "do sleep 0.1; done 2>/dev/null"
        )
        port = vm.expose_local(8000)
        assert vm.expose_local(8000) == port
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/note", timeout=30) as answer:
            assert answer.read() == b"from the guest\n"
        vm.unexpose_local(port, 8000)
        with pytest.raises(OSError):
            urllib.request.urlopen(f"http://127.0.0.1:{port}/note", timeout=5)
        with pytest.raises(ValueError, match="guest_port"):
            vm.expose_local(0)


def test_lifetime_ends_a_sandbox_whose_creator_was_killed(python: Python) -> None:
    before = names()
    done = python(
        "import os, signal\n"
        "from smolvm import SmolVM\n"
        "vm = SmolVM(max_lifetime=6).start()\n"
        "vm.close()\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert done.returncode == -signal.SIGKILL
    assert names() != before, "it was let go, so it lives on"
    deadline = time.monotonic() + 30
    while names() != before and time.monotonic() < deadline:
        time.sleep(0.1)
    assert names() == before


def test_end_of_the_interpreter_waits_for_awaited_results(python: Python) -> None:
    script = (
        "import asyncio, sys\n"
        "from smolvm import AsyncSmolVM\n"
        "async def main():\n"
        "    vm = AsyncSmolVM.from_id(sys.argv[1])\n"
        "    await asyncio.gather(*(vm.run(['true']) for _ in range(8)))\n"
        "asyncio.run(main())\n"
    )
    with SmolVM() as vm:
        vm.start()
        ends = [python(script.replace("sys.argv[1]", repr(vm.vm_id))) for _ in range(25)]
    assert [end.returncode for end in ends] == [0] * 25, [end.stderr for end in ends]
