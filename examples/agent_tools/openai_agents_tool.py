"""OpenAI Agents SDK: every call of the tool runs in a microVM of its own.

    pip install smolvm openai-agents
    python openai_agents_tool.py 'Run `uname -a` in the sandbox.'

OPENAI_API_KEY holds the key, OPENAI_DEFAULT_MODEL names the model.
"""

import asyncio
import os
import sys

from agents import Agent, Runner, function_tool

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


agent = Agent(
    name="Assistant with a sandbox",
    model=os.environ.get("OPENAI_DEFAULT_MODEL", "gpt-4.1"),
    instructions="Run what the user asks for with run_in_smolvm, once, and sum up what it printed.",
    tools=[function_tool(run_in_smolvm)],
)


async def main() -> None:
    """Asks the agent what the command line says."""
    result = await Runner.run(agent, " ".join(sys.argv[1:]) or PROMPT)
    print(result.final_output)


if __name__ == "__main__":
    asyncio.run(main())
