"""PydanticAI: one microVM for all turns of a conversation, so that files stay between them.

    pip install smolvm pydantic-ai
    python pydanticai_reusable_tool.py 'Run `date > /tmp/note`' 'Run `cat /tmp/note`'

PYDANTIC_AI_MODEL names the model; the provider's own variables (OPENAI_API_KEY, ...) hold the key.
"""

import os
import sys
from dataclasses import dataclass

from pydantic_ai import Agent, RunContext

from smolvm import SmolVM

PROMPTS = ["Run `echo hello > /tmp/note.txt`.", "Run `cat /tmp/note.txt` and say what it holds."]


@dataclass
class Sandbox:
    """The sandbox of a conversation, by its name; made by the first call of the tool."""

    vm_id: str | None = None

    def connect(self) -> SmolVM:
        """Returns a handle on the sandbox."""
        if self.vm_id is not None:
            return SmolVM.from_id(self.vm_id)
        vm = SmolVM()
        self.vm_id = vm.vm_id
        return vm.start()

    def delete(self) -> None:
        """Deletes the sandbox, if there is one."""
        if self.vm_id is not None:
            SmolVM.from_id(self.vm_id).delete()
            self.vm_id = None


def run_in_smolvm(ctx: RunContext[Sandbox], command: str, timeout: int = 30) -> str:
    """Run a shell command in the sandbox of this conversation.

    Args:
        ctx: The conversation.
        command: Shell command to run in the guest.
        timeout: Seconds after which the command is killed.
    """
    result = ctx.deps.connect().run(command, timeout=timeout)
    return f"exit code {result.exit_code}\n{result.stdout}{result.stderr}"


# The model is looked up when the agent first runs, so importing this needs no key.
agent = Agent(
    os.environ.get("PYDANTIC_AI_MODEL", "openai:gpt-4.1"),
    defer_model_check=True,
    deps_type=Sandbox,
    instructions="You have a sandbox that keeps its files. Use run_in_smolvm for every command.",
)
agent.tool(docstring_format="google", require_parameter_descriptions=True)(run_in_smolvm)


def main() -> None:
    """Asks the agent each argument of the command line in turn."""
    sandbox = Sandbox()
    try:
        for prompt in sys.argv[1:] or PROMPTS:
            print(agent.run_sync(prompt, deps=sandbox).output)
    finally:
        sandbox.delete()


if __name__ == "__main__":
    main()
