"""PydanticAI: a sandbox for every call of the tool, and one for all turns."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
from conftest import EXAMPLES, Run
from model import Model
from pydantic_ai.messages import ModelMessage, ModelResponse, TextPart, ToolCallPart, ToolReturnPart
from pydantic_ai.models.function import AgentInfo, FunctionModel

from smolvm import SmolVM


def load(name: str) -> ModuleType:
    """Imports an example."""
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def calls(*commands: str) -> FunctionModel:
    """Returns a model that runs each command by the first tool, and answers with all that came back."""

    def answer(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        parts = [part for message in messages for part in message.parts]
        returned = [str(part.content) for part in parts if isinstance(part, ToolReturnPart)]
        if len(returned) == len(commands):
            return ModelResponse(parts=[TextPart("".join(returned))])
        command = commands[len(returned)]
        return ModelResponse(parts=[ToolCallPart(info.function_tools[0].name, {"command": command})])

    return FunctionModel(answer)


def test_every_call_has_a_sandbox_of_its_own(data_dir: Path, guest_kernel: str) -> None:
    agent = load("pydanticai_tool").agent
    model = calls("echo mark > /root/note; cat /root/note; uname -v", "cat /root/note")
    with agent.override(model=model):
        output = agent.run_sync("go").output
    first, second = output.split("exit code ")[1:]
    assert first.splitlines() == ["0", "mark", guest_kernel]
    assert second.startswith("1\n") and "No such file" in second
    assert SmolVM.list() == []


def test_reused_sandbox_keeps_files_between_turns(data_dir: Path) -> None:
    example = load("pydanticai_reusable_tool")
    sandbox = example.Sandbox()
    try:
        with example.agent.override(model=calls("echo hello > /tmp/note.txt")):
            example.agent.run_sync("write", deps=sandbox)
        assert [info.vm_id for info in SmolVM.list()] == [sandbox.vm_id]
        with example.agent.override(model=calls("cat /tmp/note.txt", "id -u")):
            output = example.agent.run_sync("read", deps=sandbox).output
        assert output == "exit code 0\nhello\nexit code 0\n0\n"
        # The file is in the guest that the name stands for.
        assert SmolVM.from_id(sandbox.vm_id).run("cat /tmp/note.txt").output == "hello"
    finally:
        sandbox.delete()


@pytest.mark.parametrize("example", ["pydanticai_tool", "pydanticai_reusable_tool"])
def test_program_over_http(example: str, run: Run, model: Model, guest_kernel: str) -> None:
    done = run(EXAMPLES / f"{example}.py", "Please run `uname -v`.")
    assert model.outputs == [f"exit code 0\n{guest_kernel}\n"]
    assert done.stdout == f"It said: exit code 0\n{guest_kernel}\n\n"
