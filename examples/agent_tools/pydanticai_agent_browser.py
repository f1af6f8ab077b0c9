"""PydanticAI: an agent drives a browser in a microVM by the command line of agent-browser.

    pip install smolvm pydantic-ai
    npm install -g agent-browser
    python pydanticai_agent_browser.py 'Open https://example.com and follow its link.'

The agent has one tool, which runs commands on this host: give it a task you would give a person
at your terminal. PYDANTIC_AI_MODEL names the model; the provider's own variables hold the key.
"""

import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from pydantic_ai import Agent, RunContext

TASK = """Open https://example.com and take a snapshot. Then follow the first link, take another
snapshot, and save a screenshot of that page as page.png."""

INSTRUCTIONS = """You work in a web browser, by commands that you run with run_host_bash.

Think about the whole task and plan your commands before you run the first one. Then:

1. Read `agent-browser --help`.
2. Start a browser by `smolvm browser start --live --json`, once. The tool's answer ends with its
   session_id and cdp_port.
3. Give every command the port: `agent-browser --cdp PORT open URL`.
4. Look at a page by `agent-browser --cdp PORT snapshot -i --json` before you choose anything on
   it. Elements have names such as @e1 there: `agent-browser --cdp PORT click @e1`. After a page
   has changed, look again: names are new.
5. Save the last page by `agent-browser --cdp PORT screenshot FILE`.
6. Stop the browser by `smolvm browser stop SESSION_ID`.

Run one command at a time, without pipes. In the end, say in a sentence or two what you have found,
and then the lines `title: ...`, `url: ...`, `screenshot_path: ...` and `session_id: ...`."""


@dataclass
class Browser:
    """A session that the agent has started."""

    session_id: str
    cdp_url: str
    live_url: str | None

    @property
    def cdp_port(self) -> int:
        port = urlsplit(self.cdp_url).port
        if port is None:
            raise ValueError(f"no port in {self.cdp_url!r}")
        return port


@dataclass
class HostShell:
    """What the tool knows of a conversation: the sessions that were started in it."""

    browsers: list[Browser] = field(default_factory=list)


def started_browser(output: str) -> Browser:
    """Reads what `smolvm browser start --json` prints."""
    data = json.loads(output)["data"]
    return Browser(data["session_id"], data["cdp_url"], data.get("live_url"))


def run_host_bash(ctx: RunContext[HostShell], command: str, timeout: int = 300) -> str:
    """Run a shell command on the host.

    Args:
        ctx: The conversation.
        command: Shell command to run, by a login shell.
        timeout: Seconds after which the command is killed.
    """
    try:
        done = subprocess.run(
            ["bash", "-lc", command],
            capture_output=True, text=True, timeout=timeout, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return f"error: the command was killed after {timeout} seconds"
    sections = [
        f"exit_code: {done.returncode}",
        f"stdout:\n{done.stdout.strip() or '<empty>'}",
        f"stderr:\n{done.stderr.strip() or '<empty>'}",
    ]
    if "smolvm browser start" in command and "--json" in command and done.returncode == 0:
        try:
            browser = started_browser(done.stdout)
            sections.append(
                f"parsed_browser_session:\nsession_id: {browser.session_id}\n"
                f"cdp_port: {browser.cdp_port}\nlive_url: {browser.live_url or '<none>'}"
            )
            ctx.deps.browsers.append(browser)
        except (ValueError, KeyError, TypeError) as error:
            sections.append(f"the session cannot be read from the output: {error!r}")
    return "\n".join(sections)


# The model is looked up when the agent first runs, so importing this needs no key.
agent = Agent(
    os.environ.get("PYDANTIC_AI_MODEL", "openai:gpt-5.4"),
    defer_model_check=True,
    deps_type=HostShell,
    instructions=INSTRUCTIONS,
)
agent.tool(docstring_format="google", require_parameter_descriptions=True)(run_host_bash)


def stop(browser: Browser) -> None:
    """Stops a session that the agent may have stopped already."""
    command = ["smolvm", "browser", "stop", browser.session_id]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    if done.returncode != 0 and "not found" not in done.stderr:
        print(done.stderr.strip(), file=sys.stderr)


def main() -> None:
    """Gives the agent the task that the command line says."""
    shell = HostShell()
    try:
        print(agent.run_sync(" ".join(sys.argv[1:]) or TASK, deps=shell).output)
    finally:
        # Also what the agent has forgotten about.
        for browser in shell.browsers:
            stop(browser)


if __name__ == "__main__":
    main()
