"""PydanticAI: every call of the tool runs in a microVM of its own.

    pip install smolvm pydantic-ai
    python pydanticai_tool.py 'Run `uname -a` in the sandbox.'

PYDANTIC_AI_MODEL names the model; the provider's own variables (OPENAI_API_KEY, ...) hold the key.
"""

import os
import sys

from pydantic_ai import Agent

from smolvm import SmolVM

PROMPT = "Run `uname -a && python3 --version` in the sandbox."


def run_in_smolvm(command: str, timeout: int = 30) -> str:
    """Run a shell command in a fresh sandbox that is gone afterwards.

    Args:
        command: Shell command to run in the guest.
        timeout: Seconds after which the command is killed.
    """
    with SmolVM() as vm:
        result = vm.run(command, timeout=timeout)
    return f"exit code {result.exit_code}\n{result.stdout}{result.stderr}"


# The model is looked up when the agent first runs, so importing this needs no key.
agent = Agent(
    os.environ.get("PYDANTIC_AI_MODEL", "openai:gpt-4.1"),
    defer_model_check=True,
    instructions="Run what the user asks for with run_in_smolvm, once, and sum up what it printed.",
)
agent.tool_plain(docstring_format="google", require_parameter_descriptions=True)(run_in_smolvm)


def main() -> None:
    """Asks the agent what the command line says."""
    print(agent.run_sync(" ".join(sys.argv[1:]) or PROMPT).output)


if __name__ == "__main__":
    main()
