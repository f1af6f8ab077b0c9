"""Commands that run while the host reads from them and writes to them."""

from __future__ import annotations

import asyncio
import gc
import signal
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from smolvm import (
    AsyncSmolVM,
    CommandOverError,
    OperationTimeoutError,
    SmolVM,
    SmolVMError,
)


def until(condition: Callable[[], bool], patience: float = 20) -> bool:
    """Returns whether something comes true, asking the guest again and again."""
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        if condition():
            return True
    return False


def is_running(vm: SmolVM, name: str) -> bool:
    return vm.run(["pgrep", "-x", name]).exit_code == 0


def test_lines_arrive_while_the_command_runs(vm: SmolVM) -> None:
    with vm.exec("echo one; read line; echo two $line", stdin=True, text=True) as process:
        assert process.stdout.readline() == "one\n"
        assert process.poll() is None
        assert process.returncode is None
        process.stdin.write("more\n")
        assert list(process.stdout) == ["two more\n"]
        end = process.wait(timeout=20)
        assert (end.reason, end.exit_code, end.ok) == ("exited", 0, True)
        assert process.poll() == end


def test_outputs_are_bytes_unless_text_is_asked_for(vm: SmolVM) -> None:
    process = vm.exec("printf 'a\\377\\n'; printf 'e' >&2; exit 3")
    assert process.stdout.read() == b"a\xff\n"
    assert process.stderr.read() == b"e"
    assert process.stderr.read() == b""
    assert process.wait().exit_code == 3


def test_text_never_ends_inside_a_character(vm: SmolVM) -> None:
    script = "for i in 1 2 3 4; do printf '\\303'; sleep 0.1; printf '\\251\\342\\202'; sleep 0.1; printf '\\254'; done"
    process = vm.exec(script, text=True)
    pieces = list(process.stdout.chunks(4))
    assert "".join(pieces) == "é€" * 4
    assert len(pieces) > 1


def test_text_cut_off_inside_a_character_still_arrives(vm: SmolVM) -> None:
    process = vm.exec("printf 'a\\342\\202'", text=True)
    assert process.stdout.read() == "a\ufffd"


def test_last_line_needs_no_end(vm: SmolVM) -> None:
    process = vm.exec("printf 'one\\n\\ntwo'", text=True)
    assert list(process.stdout) == ["one\n", "\n", "two"]


def test_arguments_are_taken_as_they_are(vm: SmolVM) -> None:
    process = vm.exec(["printf", "%s|", "a b", "$HOME", "'", "", "é"], text=True)
    assert process.communicate() == ("a b|$HOME|'||é|", "")
    assert vm.run(["echo", "$HOME"]).stdout == "$HOME\n"


@pytest.mark.parametrize("command", ["", " ", [], [""], "a\0", ["a", "b\0"]])
def test_command_that_is_none_is_refused(vm: SmolVM, command: str | list[str]) -> None:
    with pytest.raises(ValueError, match="command"):
        vm.exec(command)


@pytest.mark.parametrize("command", [b"true", None, 7, ["a", 7]])
def test_command_of_another_type_is_refused(vm: SmolVM, command: object) -> None:
    with pytest.raises(TypeError, match="command"):
        vm.exec(command)  # type: ignore[call-overload]


def test_program_that_is_missing_is_named(vm: SmolVM) -> None:
    with pytest.raises(SmolVMError, match="no-such-program"):
        vm.exec(["no-such-program"])


def test_directory_variables_and_user_are_the_commands_own(vm: SmolVM) -> None:
    line = 'pwd; echo "$COLOUR"; id -u'
    result = vm.run(line, cwd="/usr/share", env={"COLOUR": "blue green"}, user="1000")
    assert result.stdout == "/usr/share\nblue green\n1000\n"
    assert vm.run('pwd; echo "$COLOUR"; id -u').stdout == "/root\n\n0\n"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("cwd", "relative"),
        ("env", {"A": "b\0"}),
        ("memory", 0),
        ("cpus", 0.0),
        ("cpus", float("nan")),
        ("max_processes", 0),
        ("terminal", (0, 80)),
        ("timeout", 0),
    ],
)
def test_option_that_is_not_legal_is_named(vm: SmolVM, field: str, value: object) -> None:
    with pytest.raises(ValueError, match=field):
        vm.exec("true", **{field: value})  # type: ignore[call-overload]


def test_unknown_option_is_refused(vm: SmolVM) -> None:
    with pytest.raises(TypeError, match="colour"):
        vm.exec("true", colour="red")  # type: ignore[call-overload]


def test_input_goes_to_the_command_until_it_is_closed(vm: SmolVM) -> None:
    process = vm.exec(["wc", "-c"], stdin=True, text=True)
    for _ in range(8):
        process.stdin.write(b"x" * 100_000)
    process.stdin.close()
    assert process.stdout.read().strip() == "800000"
    assert process.wait().ok


def test_without_input_the_command_reads_nothing(vm: SmolVM) -> None:
    assert vm.exec(["cat"]).communicate() == (b"", b"")


def test_communicate_moves_more_than_any_buffer_both_ways(vm: SmolVM) -> None:
    data = bytes(range(256)) * 16 * 1024
    process = vm.exec("tee /dev/stderr", stdin=True)
    stdout, stderr = process.communicate(data, timeout=120)
    assert (stdout == data, stderr == data) == (True, True)


def test_communicate_gives_up_in_time(vm: SmolVM) -> None:
    process = vm.exec(["sleep", "300"])
    with pytest.raises(OperationTimeoutError):
        process.communicate(timeout=0.3)
    assert process.poll() is None
    process.kill()
    assert process.wait().reason == "killed"


def test_writing_to_a_command_that_is_over_is_an_error(vm: SmolVM) -> None:
    process = vm.exec("exit 0", stdin=True)
    process.wait()
    with pytest.raises(CommandOverError):
        process.stdin.write("x")
    with pytest.raises(BrokenPipeError):
        process.stdin.write("x")
    process.stdin.close()
    process.send_signal(signal.SIGTERM)
    process.kill()


def test_output_that_nobody_reads_holds_the_command(vm: SmolVM) -> None:
    line = "dd if=/dev/zero bs=64k count=200 2>/dev/null; echo done > /tmp/held"
    vm.run("rm -f /tmp/held")
    process = vm.exec(line)
    with pytest.raises(OperationTimeoutError, match="output to be read"):
        process.wait(timeout=3)
    assert not vm.files.exists("/tmp/held")
    assert len(process.stdout.read()) == 200 * 65536
    assert process.wait().ok
    assert vm.files.exists("/tmp/held")


def test_discarded_output_holds_nothing(vm: SmolVM) -> None:
    process = vm.exec("dd if=/dev/zero bs=64k count=200 2>/dev/null; echo end >&2", text=True)
    process.stdout.discard()
    assert process.wait(timeout=60).ok
    assert process.stdout.read() == ""
    assert process.stderr.read() == "end\n"


def test_both_outputs_come_in_one_stream(vm: SmolVM) -> None:
    line = "for i in 1 2 3; do echo o$i; echo e$i >&2; done; head -c 3000000 /dev/zero >&2"
    collected = {"stdout": b"", "stderr": b""}
    for name, piece in vm.exec(line).output():
        collected[name] += piece
    assert collected["stdout"] == b"o1\no2\no3\n"
    assert collected["stderr"] == b"e1\ne2\ne3\n" + bytes(3_000_000)


def test_long_lines_come_in_pieces(vm: SmolVM) -> None:
    process = vm.exec("head -c 2500000 /dev/zero; echo; echo short")
    lines = list(process.stdout)
    assert b"".join(lines) == bytes(2_500_000) + b"\nshort\n"
    assert lines[-1] == b"short\n"
    assert max(map(len, lines)) <= 1024 * 1024


def test_signals_reach_the_command(vm: SmolVM) -> None:
    line = "trap 'echo caught; exit 7' USR1; echo ready; while :; do sleep 0.05; done"
    process = vm.exec(line, text=True)
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGUSR1)
    assert process.stdout.readline() == "caught\n"
    assert process.wait(timeout=20).exit_code == 7


def test_signal_that_ends_the_command_is_the_reason(vm: SmolVM) -> None:
    process = vm.exec(["sleep", "300"])
    process.terminate()
    end = process.wait(timeout=20)
    assert (end.reason, end.signal, end.exit_code) == ("signalled", 15, 143)


@pytest.mark.parametrize("number", [0, 65, -9])
def test_number_that_is_no_signal_is_refused(vm: SmolVM, number: int) -> None:
    with vm.exec(["sleep", "300"]) as process, pytest.raises(ValueError, match="signal"):
        process.send_signal(number)


def test_killing_takes_everything_the_command_started(vm: SmolVM) -> None:
    process = vm.exec("cp /bin/sleep /tmp/kidling; setsid /tmp/kidling 300 & echo up; wait", text=True)
    assert process.stdout.readline() == "up\n"
    assert until(lambda: is_running(vm, "kidling"))
    process.kill()
    assert process.wait(timeout=20).reason == "killed"
    assert until(lambda: not is_running(vm, "kidling"))


def test_command_that_does_not_read_can_still_be_killed(vm: SmolVM) -> None:
    process = vm.exec(["sleep", "300"], stdin=True)
    failures: list[BaseException] = []

    def write() -> None:
        try:
            process.stdin.write(bytes(64 * 1024 * 1024))
        except SmolVMError as error:
            failures.append(error)

    writer = threading.Thread(target=write)
    writer.start()
    writer.join(timeout=1)
    assert writer.is_alive()
    process.kill()
    assert process.wait(timeout=20).reason == "killed"
    writer.join(timeout=20)
    assert [type(failure) for failure in failures] == [CommandOverError]


def test_its_own_timeout_ends_the_command(vm: SmolVM) -> None:
    process = vm.exec("echo begun; sleep 300", timeout=1, text=True)
    end = process.wait(timeout=20)
    assert (end.reason, end.exit_code) == ("timed_out", 124)
    assert process.stdout.read() == "begun\n"


def test_command_goes_when_nothing_holds_on_to_it(vm: SmolVM) -> None:
    vm.run("cp /bin/sleep /tmp/orphan")
    output = vm.exec(["/tmp/orphan", "300"]).stdout
    gc.collect()
    assert is_running(vm, "orphan")
    del output
    gc.collect()
    assert until(lambda: not is_running(vm, "orphan"))


def test_leaving_the_block_kills(vm: SmolVM) -> None:
    with vm.exec("while :; do echo line; done") as process:
        assert process.stdout.readline() == b"line\n"
    assert process.wait().reason == "killed"


def test_terminal_has_its_size_and_can_be_resized(vm: SmolVM) -> None:
    line = "trap 'stty size; exit' WINCH; test -t 0 && stty size; while :; do sleep 0.05; done"
    process = vm.exec(line, terminal=(30, 100), text=True)
    assert process.stdout.readline() == "30 100\r\n"
    process.resize(40, 120)
    assert process.stdout.readline() == "40 120\r\n"
    assert process.wait(timeout=20).ok


def test_terminal_takes_keys(vm: SmolVM) -> None:
    process = vm.exec(["sh"], terminal=True, text=True)
    process.stdin.write("stty -echo; echo $((6 * 7))\n")
    assert any("42" in line for line in process.stdout)
    process.stdin.write("sh -c 'echo begun; exec sleep 300'\n")
    assert any("begun" in line for line in process.stdout)
    process.stdin.write("\x03")
    process.stdin.write("exit 5\n")
    process.stdout.discard()
    assert process.wait(timeout=20).exit_code == 5


def test_memory_limit_ends_the_command(vm: SmolVM) -> None:
    line = "head -c 200m /dev/zero | tail"
    end = vm.exec(line, memory=64).wait(timeout=60)
    assert (end.reason, end.exit_code) == ("out_of_memory", 137)
    assert vm.run("head -c 20m /dev/zero | tail -c 1 | wc -c", memory=128).output == "1"


def test_process_limit_stops_forks(vm: SmolVM) -> None:
    line = "for i in 1 2 3 4 5 6 7 8; do sleep 1 & done; wait"
    result = vm.run(line, shell="raw", max_processes=4)
    assert "fork" in result.stderr.lower()
    assert not vm.run(line, shell="raw", max_processes=40).stderr


def test_cpu_limit_slows_the_command(vm: SmolVM) -> None:
    line = "i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done"
    whole = vm.run(line, timeout=60).duration_ms
    part = vm.run(line, timeout=60, cpus=0.2).duration_ms
    assert part > 2 * whole


def test_many_threads_use_one_process(vm: SmolVM) -> None:
    process = vm.exec(["cat"], stdin=True)
    read: list[bytes] = []
    reader = threading.Thread(target=lambda: read.extend(process.stdout))
    reader.start()
    writers = [
        threading.Thread(target=process.stdin.write, args=(f"{number:07}\n" * 1000,))
        for number in range(4)
    ]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(timeout=30)
    process.stdin.close()
    reader.join(timeout=30)
    assert sorted(read) == sorted(f"{number:07}\n".encode() for number in range(4) for _ in range(1000))


def test_event_loop_goes_on_while_commands_run(vm: SmolVM) -> None:
    async def main() -> tuple[list[str], str, int]:
        sandbox = AsyncSmolVM.from_id(vm.vm_id)
        process = await sandbox.exec("while read l; do echo got $l; done", stdin=True, text=True)
        await process.stdin.write("a\nb\n")
        await process.stdin.close()
        lines = [line async for line in process.stdout]
        ticks = 0
        async with await sandbox.exec(["sleep", "300"]) as sleeper:
            waiting = asyncio.ensure_future(sleeper.wait())
            while ticks < 20:
                await asyncio.sleep(0.01)
                ticks += 1
            assert not waiting.done()
            await sleeper.terminate()
            end = await waiting
        return lines, end.reason, (await process.wait()).exit_code

    assert asyncio.run(main()) == (["got a\n", "got b\n"], "signalled", 0)


def test_cancelled_read_loses_nothing(vm: SmolVM) -> None:
    async def main() -> list[str]:
        sandbox = AsyncSmolVM.from_id(vm.vm_id)
        line = "read a; echo one; echo two"
        process = await sandbox.exec(line, stdin=True, text=True)
        for _ in range(3):
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(process.stdout.readline(), 0.05)
        await process.stdin.write("\n")
        both: list[str] = []
        async for _, piece in process.output():
            both.append(piece)
        return "".join(both).splitlines()

    assert asyncio.run(main()) == ["one", "two"]


@pytest.fixture
def interrupts() -> Iterator[None]:
    """Takes interrupts as a program on a terminal does, also where a runner ignores them."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interrupts")
def test_interrupt_ends_the_wait_and_not_the_command(vm: SmolVM) -> None:
    process = vm.exec(["sleep", "300"])
    timer = threading.Timer(0.3, signal.raise_signal, (signal.SIGINT,))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        pytest.fail(f"the wait went on to the end: {process.wait(timeout=60)}")
    assert process.poll() is None
    process.kill()


def test_stopping_the_sandbox_is_a_reason_of_its_own() -> None:
    with SmolVM() as vm:
        process = vm.exec("echo up; sleep 300", text=True)
        assert process.stdout.readline() == "up\n"
        vm.stop(timeout=0)
        end = process.wait(timeout=30)
        assert (end.reason, end.exit_code) == ("sandbox_stopped", 125)
