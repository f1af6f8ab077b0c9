"""OpenAI's computer tool: a model works in a browser in a microVM, by pictures, mouse and keyboard.

    pip install smolvm openai
    python computer_use_browser.py 'What is the heading of this page?' --start-url https://example.com

OPENAI_API_KEY holds the key, OPENAI_COMPUTER_MODEL names the model. The browser reaches the domain
of the start URL and those of --allow, and nothing else, whatever the model does: the gateway
outside of the microVM sees to that.
"""

import argparse
import base64
import os
import sys
from urllib.parse import urlsplit

from openai import OpenAI, OpenAIError

from smolvm import BrowserSession, BrowserSessionConfig, SmolVMError

WIDTH, HEIGHT = 1280, 720


class Stopped(Exception):
    """The task was given up."""


def tool_of(model: str) -> dict:
    """Returns the computer tool as the model knows it."""
    if model.startswith("computer-use-preview"):
        size = {"display_width": WIDTH, "display_height": HEIGHT}
        return {"type": "computer_use_preview", "environment": "browser", **size}
    return {"type": "computer"}


def data_url(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode()


def describe(action) -> str:
    """Returns an action on one line."""
    given = action.model_dump(exclude={"type"}, exclude_none=True)
    return f"{action.type} {' '.join(f'{name}={value!r}' for name, value in given.items())}".strip()


def perform(computer, action) -> None:
    """Does what the model asks for."""
    keys = getattr(action, "keys", None) or ()
    match action.type:
        case "click":
            computer.click(action.x, action.y, action.button, keys)
        case "double_click":
            computer.double_click(action.x, action.y, keys=keys)
        case "drag":
            computer.drag([(point.x, point.y) for point in action.path], keys=keys)
        case "keypress":
            computer.keypress(keys)
        case "move":
            computer.mouse_move(action.x, action.y, keys)
        case "scroll":
            computer.scroll(action.x, action.y, action.scroll_x, action.scroll_y, keys)
        case "type":
            computer.type(action.text)
        case "wait":
            computer.wait(2)
        case "screenshot":
            pass  # Every answer has one.
        case unknown:
            raise SmolVMError(f"there is no action {unknown!r}")


def answer_dialogs(computer) -> list[str]:
    """Closes the dialogs that the page shows, which are in no picture. Returns what they said."""
    said = []
    while dialog := computer.dialog():
        # An alert can only be accepted; nothing else is agreed to in the user's name.
        computer.answer_dialog(accept=dialog.kind == "alert")
        said.append(f"The page showed a dialog ({dialog.kind}), now closed: {dialog.message}")
        if len(said) == 10:
            raise Stopped("the page shows one dialog after the other")
    return said


def take(computer, actions) -> list[str]:
    """Performs actions until one fails. Returns what the model has to be told besides a picture."""
    notes = []
    for action in actions:
        print(f"  {describe(action)}")
        try:
            perform(computer, action)
        except SmolVMError as error:
            # The model sees where that left the page, and can try something else.
            notes.append(f"{action.type} failed: {error}")
            print(f"  {notes[-1]}")
            break
        finally:
            notes += answer_dialogs(computer)
    return notes


def acknowledged(call, allowed: list[str]) -> list[dict]:
    """Returns the call's safety checks, if the user has said beforehand that each may be passed."""
    checks = call.pending_safety_checks or []
    for check in checks:
        if check.code not in allowed:
            raise Stopped(f"safety check {check.code}: {check.message}")
    return [check.model_dump(include={"id", "code", "message"}) for check in checks]


def answer(computer, call, allowed: list[str]) -> list[dict]:
    """Does what a call asks for, and returns the items that answer it."""
    checks = acknowledged(call, allowed)
    # Models that ask for one action at a time have it in `action`.
    notes = take(computer, call.actions or [call.action])
    image = {"type": "computer_screenshot", "image_url": data_url(computer.screenshot())}
    output = {"type": "computer_call_output", "call_id": call.call_id, "output": image}
    if checks:
        output["acknowledged_safety_checks"] = checks
    messages = [{"role": "user", "content": note} for note in notes]
    return [output, *messages]


def work(client: OpenAI, computer, model: str, task: str, max_steps: int, allowed: list[str]) -> str:
    """Has the model work on a task in a browser. Returns its answer."""
    asking = {"model": model, "tools": [tool_of(model)], "truncation": "auto"}
    picture = {"type": "input_image", "image_url": data_url(computer.screenshot()), "detail": "auto"}
    content = [{"type": "input_text", "text": task}, picture]
    response = client.responses.create(input=[{"role": "user", "content": content}], **asking)
    for step in range(1, max_steps + 1):
        calls = [item for item in response.output if item.type == "computer_call"]
        if not calls:
            return response.output_text
        print(f"step {step}: {computer.current_url()}")
        answers = [item for call in calls for item in answer(computer, call, allowed)]
        response = client.responses.create(
            input=answers, previous_response_id=response.id, **asking
        )
    if any(item.type == "computer_call" for item in response.output):
        raise Stopped(f"not done after {max_steps} steps")
    return response.output_text


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Has a model do a task in a browser in a microVM.")
    parser.add_argument("task")
    parser.add_argument("--start-url", help="page to begin with")
    parser.add_argument(
        "--allow", action="append", default=[], metavar="DOMAIN", help="may be visited, too"
    )
    parser.add_argument("--max-steps", type=int, default=30)
    parser.add_argument(
        "--acknowledge", action="append", default=[], metavar="CODE",
        help="safety check that may be passed; at any other the task is given up",
    )  # fmt: skip
    parser.add_argument("--model", default=os.environ.get("OPENAI_COMPUTER_MODEL", "gpt-5.4"))
    parser.add_argument("--live", action="store_true", help="let people watch")
    given = parser.parse_args()
    if given.start_url and (host := urlsplit(given.start_url).hostname):
        given.allow += [host, f"*.{host}"]
    if not given.allow:
        parser.error("say what may be visited, by --start-url or --allow")
    return given


def main() -> None:
    given = arguments()
    config = BrowserSessionConfig(
        mode="live" if given.live else "headless",
        viewport={"width": WIDTH, "height": HEIGHT},
        allowed_domains=given.allow,
    )
    # The client asks again, later each time, when the service is busy or cannot be reached.
    client = OpenAI(max_retries=5)
    with BrowserSession(config) as session:
        if session.live_url:
            print(f"Watch: {session.live_url}")
        computer = session.computer
        if given.start_url:
            computer.goto(given.start_url)
        text = work(client, computer, given.model, given.task, given.max_steps, given.acknowledge)
        print(text)


if __name__ == "__main__":
    try:
        main()
    except (Stopped, OpenAIError, SmolVMError) as error:
        sys.exit(f"error: {error}")
