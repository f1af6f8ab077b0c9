"""The examples for OpenAI Agents, LangChain and Agentor, as programs that a user starts."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from agentor.runtime import SmolVMRuntime
from agentor.tools.shell import ShellCommandRequest
from conftest import EXAMPLES, HERE, Run
from model import Model

from smolvm import SmolVM

PROGRAMS = sorted(path.stem for path in EXAMPLES.glob("*.py"))


def test_every_example_is_tested() -> None:
    assert PROGRAMS == [
        "agentor_shell",
        "computer_use_browser",
        "langchain_tool",
        "openai_agents_tool",
        "pydanticai_agent_browser",
        "pydanticai_reusable_tool",
        "pydanticai_tool",
    ]


@pytest.mark.parametrize("program", ["agentor_shell", "langchain_tool", "openai_agents_tool"])
def test_command_runs_in_a_guest(program: str, run: Run, model: Model, guest_kernel: str) -> None:
    done = run(EXAMPLES / f"{program}.py", "Please run `uname -v; echo mark > /root/note; cat /root/note`.")
    assert len(model.outputs) == 1
    assert model.outputs[0].splitlines()[-2:] == [guest_kernel, "mark"]
    assert done.stdout.startswith("It said: ")
    assert done.stdout.split() == f"It said: {model.outputs[0]}".split()


@pytest.mark.parametrize("program", PROGRAMS)
def test_importing_has_no_effect(program: str, data_dir: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OPENAI")}
    environment["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
    script = data_dir / "import.py"
    script.write_text(f"import sys\nsys.path.insert(0, {str(EXAMPLES)!r})\nimport {program}\n")
    command = [sys.executable, str(HERE / "loopback_only.py"), str(script)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert not (data_dir / "sandboxes").exists()


@pytest.mark.parametrize(
    "limits", [{"mem_size_mib": 384, "disk_size_mib": 1024}, {"memory": 384, "disk_size": 1024}]
)
def test_agentor_s_runtime(limits: dict[str, int], data_dir: Path) -> None:
    runtime = SmolVMRuntime(**limits)
    try:
        request = ShellCommandRequest(command="echo $KEY >> note; pwd", working_directory="/tmp", env={"KEY": 7})
        assert runtime(request) == "/tmp\n"
        assert SmolVM.from_id(runtime.vm.vm_id).run("cat /tmp/note").output == "7"
        assert runtime(ShellCommandRequest(command="echo out; echo err >&2")) == "out\nerr\n"
        memory = int(runtime(ShellCommandRequest(command="awk '/MemTotal/ { print $2 }' /proc/meminfo")))
        assert 256 < memory / 1024 < 384
        disk = int(runtime(ShellCommandRequest(command="df --output=size -m / | tail -n 1")))
        assert 768 < disk <= 1024
    finally:
        runtime.close()
    # It never deletes its sandbox, which goes when this process ends; the next test is of that.
    runtime.vm.delete()


@pytest.mark.parametrize("ending", ["", "runtime.close()", "threading.Thread(target=runtime.close).start()"])
def test_agentor_s_runtime_leaves_nothing_when_its_program_ends(ending: str, run: Run, tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        "import threading\n"
        "from agentor.runtime import SmolVMRuntime\n"
        "from agentor.tools.shell import ShellCommandRequest\n"
        "runtime = SmolVMRuntime(start=False)\n"
        "print(runtime(ShellCommandRequest(command='cat /proc/1/comm')))\n"
        f"{ending}\n"
    )
    assert run(program).stdout.strip() == "init"
