"""Agentor: its own shell tool, with one microVM in place of this computer.

    pip install smolvm agentor
    python agentor_shell.py 'Run `uname -a` in the sandbox.'

OPENAI_API_KEY holds the key, OPENAI_MODEL names the model.
"""

import os
import sys

from agentor import Agentor
from agentor.runtime import SmolVMRuntime
from agentor.tools import ShellTool
from agentor.tools.shell import ShellCommandRequest

PROMPT = "Run `uname -a && python3 --version` in the sandbox."


def main() -> None:
    """Asks the agent what the command line says."""
    # memory= and disk_size= mean the same.
    runtime = SmolVMRuntime(mem_size_mib=1024, disk_size_mib=2048)

    def in_sandbox(request: ShellCommandRequest | dict[str, object]) -> str:
        # Agentor 0.1.1 hands its executor the model's arguments as a plain dict, which SmolVMRuntime does not take.
        return runtime(ShellCommandRequest.model_validate(request))

    try:
        agent = Agentor(
            name="Agent with a sandbox",
            model=os.environ.get("OPENAI_MODEL", "gpt-5"),
            tools=[ShellTool(executor=in_sandbox)],
            instructions="Run what the user asks for with the shell tool, and sum up what it printed.",
        )
        print(agent.run(" ".join(sys.argv[1:]) or PROMPT))
    finally:
        # Stops the sandbox; it is removed when this program ends.
        runtime.close()


if __name__ == "__main__":
    main()
