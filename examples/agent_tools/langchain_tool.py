"""LangChain: every call of the tool runs in a microVM of its own.

    pip install smolvm langchain langchain-openai
    python langchain_tool.py 'Run `uname -a` in the sandbox.'

OPENAI_API_KEY holds the key, OPENAI_MODEL names the model. `run_in_smolvm` is as good for a graph of LangGraph's.
"""

import os
import sys

from langchain.agents import create_agent
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI

from smolvm import SmolVM

PROMPT = "Run `uname -a && python3 --version` in the sandbox."


@tool
def run_in_smolvm(command: str, timeout: int = 30) -> str:
    """Run a shell command in a fresh sandbox that is gone afterwards.

    Args:
        command: Shell command to run in the guest.
        timeout: Seconds after which the command is killed.
    """
    with SmolVM() as vm:
        result = vm.run(command, timeout=timeout)
    return f"exit code {result.exit_code}\n{result.stdout}{result.stderr}"


def main() -> None:
    """Asks the agent what the command line says."""
    model = ChatOpenAI(model=os.environ.get("OPENAI_MODEL", "gpt-4.1"))
    agent = create_agent(
        model,
        [run_in_smolvm],
        system_prompt="Run what the user asks for with run_in_smolvm, once, and sum up what it printed.",
    )
    question = {"role": "user", "content": " ".join(sys.argv[1:]) or PROMPT}
    print(agent.invoke({"messages": [question]})["messages"][-1].content)


if __name__ == "__main__":
    main()
