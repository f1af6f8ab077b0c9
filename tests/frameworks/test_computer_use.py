"""OpenAI's computer tool: the whole loop, with a model that follows a script."""

from __future__ import annotations

import base64
import runpy
from typing import Any
from urllib.parse import quote

import png
import pytest
from conftest import EXAMPLES, Run
from model import Busy, Json, Model, message, response
from openai import OpenAI

from smolvm import SmolVM

PROGRAM = EXAMPLES / "computer_use_browser.py"

WIDTH, HEIGHT = 1280, 720

#: A browser's start and what it is asked to do, in an emulated guest on a busy host.
SECONDS = 600

#: A page that turns red by a click, blue by a word, green by a drag; and one link that must not lead anywhere.
PAGE = """<body style='margin: 0; height: 3000px'>
<button style='position: absolute; width: 200px; height: 40px' onclick='paint("red")'>red</button>
<input style='position: absolute; top: 50px; width: 200px; height: 40px' onchange='value == "blue" && paint("blue")'>
<a style='position: absolute; top: 100px' href='http://elsewhere.test/'>away from here</a>
<button style='position: absolute; top: 150px; width: 200px; height: 40px' onclick='confirm("sure?") || paint("lime")'>
</button><script>function paint(color) { document.body.style.background = color }</script>"""

RED, FIELD, LINK, SURE, EMPTY = (20, 20), (20, 70), (20, 110), (20, 170), (600, 400)


def click(at: tuple[int, int]) -> Json:
    return {"type": "click", "button": "left", "x": at[0], "y": at[1]}


def computer_call(name: str, *actions: Json, checks: tuple[Json, ...] = (), is_batch: bool = True) -> Json:
    """Returns a call with many actions, or with one as older models make it."""
    asked = {"actions": list(actions)} if is_batch else {"action": actions[0]}
    call = {"type": "computer_call", "id": f"cu_{name}", "call_id": name, "status": "completed"}
    return {**call, "pending_safety_checks": list(checks), **asked}


class Script:
    """Answers each request by the next items, and keeps what it was asked."""

    def __init__(self, *items: Json, busy: int = 0) -> None:
        self.items = list(items)
        self.requests: list[Json] = []
        self.busy = busy
        #: Names that the browser had looked up before the last answer, and whether it might.
        self.lookups: set[tuple[str, bool | None]] = set()

    def __call__(self, request: Json) -> tuple[Json, None]:
        if self.busy:
            self.busy -= 1
            raise Busy
        self.requests.append(request)
        number = len(self.requests)
        if number == len(self.items):
            (sandbox,) = SmolVM.list()
            events = SmolVM.from_id(sandbox.vm_id).network.events()
            self.lookups = {(event.fields["name"], event.is_allowed) for event in events if event.type == "dns"}
        assert request.get("previous_response_id") == (f"resp_{number - 1}" if number > 1 else None)
        return response(self.items[number - 1], name=f"resp_{number}"), None


def picture_in(item: Json) -> png.Picture:
    """Decodes the picture of an answer, or of the first message."""
    url = item["output"]["image_url"] if "output" in item else item["content"][1]["image_url"]
    head, _, content = url.partition(",")
    assert head == "data:image/png;base64"
    picture = png.decode(base64.b64decode(content))
    assert (picture.width, picture.height) == (WIDTH, HEIGHT)
    return picture


@pytest.mark.timeout(SECONDS + 60)
def test_model_works_in_the_browser_until_it_is_done(run: Run, model: Model) -> None:
    check = {"id": "cu_sc_1", "code": "irrelevant_domain", "message": "Is this page meant?"}
    script = Script(
        computer_call("look", {"type": "screenshot"}),
        computer_call("batch", click(RED), {"type": "wait"}, {"type": "move", "x": 9, "y": 9}),
        computer_call("one", click(FIELD), checks=(check,), is_batch=False),
        computer_call("type", {"type": "type", "text": "blue"}, {"type": "keypress", "keys": ["ENTER"]}),
        computer_call("wrong", {"type": "double_click", "x": WIDTH, "y": 1}, click(RED)),
        computer_call("dialog", click(SURE)),
        computer_call("away", click(LINK), {"type": "wait"}),
        message("All done."),
        busy=2,
    )
    model.answers["/v1/responses"] = script
    options = ["--start-url", f"data:text/html,{quote(PAGE)}", "--allow", "example.com"]
    options += ["--acknowledge", "irrelevant_domain"]
    done = run(PROGRAM, "Paint the page.", *options, seconds=SECONDS)

    assert done.stdout.splitlines()[-1] == "All done."
    first, look, batch, one, typed, wrong, dialog, away = [request["input"] for request in script.requests]
    assert first[0]["content"][0] == {"type": "input_text", "text": "Paint the page."}
    assert script.requests[0]["tools"] == [{"type": "computer"}]
    assert picture_in(first[0]).pixel(*EMPTY) == (255, 255, 255)
    answers: list[Any] = [look, batch, one, typed, wrong, dialog, away]
    assert [items[0]["call_id"] for items in answers] == ["look", "batch", "one", "type", "wrong", "dialog", "away"]
    assert {items[0]["type"] for items in answers} == {"computer_call_output"}
    assert picture_in(look[0]).pixel(*EMPTY) == (255, 255, 255)
    assert picture_in(batch[0]).pixel(*EMPTY) == (255, 0, 0)
    assert one[0]["acknowledged_safety_checks"] == [check]
    assert "acknowledged_safety_checks" not in batch[0]
    assert picture_in(typed[0]).pixel(*EMPTY) == (0, 0, 255)
    # The second action of the call was not performed.
    assert "(1280, 1) is outside the viewport" in wrong[1]["content"]
    assert picture_in(wrong[0]).pixel(*EMPTY) == (0, 0, 255)
    # Nothing is confirmed in the user's name.
    assert dialog[1]["content"].endswith("dialog (confirm), now closed: sure?")
    assert picture_in(dialog[0]).pixel(*EMPTY) == (0, 255, 0)
    assert picture_in(away[0]).pixel(*EMPTY) != (0, 255, 0)
    assert ("elsewhere.test", False) in script.lookups
    assert "step 7: data:text/html," in done.stdout


class Blank:
    """Stands where a session's computer would: what these tests are about ends before it matters."""

    def __init__(self) -> None:
        self.clicks: list[tuple[int, int]] = []

    def screenshot(self) -> bytes:
        return b"a picture"

    def current_url(self) -> str:
        return "about:blank"

    def dialog(self) -> None:
        return None

    def click(self, x: int, y: int, *_: object) -> None:
        self.clicks.append((x, y))


def work(model: Model, computer: Blank, *, max_steps: int = 9, allowed: tuple[str, ...] = ()) -> str:
    """Calls the example's loop."""
    client = OpenAI(api_key="none", base_url=model.url, max_retries=0)
    program = runpy.run_path(str(PROGRAM))
    answer: str = program["work"](client, computer, "gpt", "Do it.", max_steps, list(allowed))
    return answer


def test_task_that_takes_too_many_steps_is_given_up(model: Model) -> None:
    computer = Blank()
    calls = [computer_call(str(number), click((number, 0))) for number in range(9)]
    model.answers["/v1/responses"] = Script(*calls)
    with pytest.raises(Exception, match="not done after 3 steps"):
        work(model, computer, max_steps=3)
    assert computer.clicks == [(0, 0), (1, 0), (2, 0)]


def test_safety_check_that_was_not_allowed_ends_the_task_before_the_action(model: Model) -> None:
    computer = Blank()
    check = {"id": "cu_sc_1", "code": "malicious_instructions", "message": "Somebody else asks."}
    call = computer_call("click", click(RED), checks=(check,))
    model.answers["/v1/responses"] = Script(call, message("not reached"), message("nor this"))
    with pytest.raises(Exception, match="safety check malicious_instructions: Somebody else asks."):
        work(model, computer, allowed=("irrelevant_domain",))
    assert computer.clicks == []


def test_task_needs_something_to_visit(run: Run, model: Model) -> None:
    with pytest.raises(AssertionError, match="say what may be visited"):
        run(PROGRAM, "Do something.")
