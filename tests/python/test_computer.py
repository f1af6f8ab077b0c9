"""Mouse and keyboard of a browser session: each action is asserted by what the page received."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import png
import pytest

from smolvm import (
    AsyncBrowserSession,
    BrowserSession,
    BrowserSessionConfig,
    BrowserSessionNotFoundError,
    SmolVMError,
    ValidationError,
)
from smolvm.computer import Computer, PageDialog

WIDTH, HEIGHT = 800, 600

#: A page answers within seconds; an emulated guest, on a busy host, within many.
PATIENCE_SECONDS = 60

#: The page keeps what it received in `seen`. Its parts are at the points below.
PAGE = r"""<!doctype html><title>first</title>
<style>
body { margin: 0; width: 1600px; height: 3000px; background: white }
body > * { position: absolute; left: 0; width: 200px; height: 40px; margin: 0; box-sizing: border-box }
</style>
<div id=red style="top: 0; background: rgb(255, 0, 0)"></div>
<input id=field style="top: 50px">
<select id=list style="top: 100px"><option>one<option>two<option>three</select>
<a id=link style="top: 150px" href="http://localhost:8000/second">another site</a>
<a id=tab style="top: 200px" href="/tab" target=_blank>a tab</a>
<button id=ask style="top: 250px" onclick="seen.push({kind: 'answer', data: prompt('name?', 'nobody')})">ask</button>
<div id=thing draggable=true style="top: 300px; background: rgb(0, 0, 255)"></div>
<div id=place style="top: 350px; background: rgb(0, 255, 0)"></div>
<p id=words style="top: 400px">three short words</p>
<textarea id=area style="top: 450px"></textarea>
<button id=pop style="top: 500px" onclick="window.open('/greeting')">greeting</button>
<script>
const seen = []
const kinds = ['mousedown', 'mouseup', 'mousemove', 'click', 'dblclick', 'contextmenu', 'auxclick', 'wheel',
               'keydown', 'keyup', 'input', 'change', 'dragstart', 'drop', 'dragend']
for (const kind of kinds) document.addEventListener(kind, event => seen.push({
  kind, at: event.target.id, x: event.clientX, y: event.clientY, button: event.button, buttons: event.buttons,
  detail: event.detail, key: event.key, code: event.code, repeat: event.repeat, data: event.data,
  held: ['alt', 'ctrl', 'meta', 'shift'].filter(name => event[name + 'Key']),
}), true)
document.addEventListener('contextmenu', event => event.preventDefault())
place.addEventListener('dragover', event => event.preventDefault())
function reset() {
  for (const input of [field, area]) input.value = ''
  list.value = 'one'
  field.onkeydown = null
  document.activeElement.blur()
  getSelection().removeAllRanges()
  scrollTo(0, 0)
  seen.splice(0)
}
</script>
"""

RED, FIELD, LIST, LINK, TAB = (20, 20), (20, 70), (20, 120), (20, 160), (20, 210)
ASK, THING, PLACE, WORDS, AREA, POP = (20, 270), (20, 320), (20, 370), (20, 408), (20, 470), (20, 520)
NOTHING = (500, 300)

SERVER = """
import http.server
PAGES = {
    '/': %r,
    '/second': '<title>second</title>',
    '/tab': '<title>tab</title><body style="background: rgb(0, 200, 0)" onclick="window.close()">',
    '/greeting': '<title>greeting</title><script>alert("hello")</script>',
}
class Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header('Content-Type', 'text/html; charset=utf-8')
        self.end_headers()
        self.wfile.write(PAGES.get(self.path, '').encode())
server = http.server.ThreadingHTTPServer(('127.0.0.1', 8000), Page)
print('up', flush=True)
server.serve_forever()
""" % PAGE

URL = "http://127.0.0.1:8000/"

Seen = Callable[..., list[dict[str, Any]]]


@pytest.fixture(scope="module")
def session() -> Iterator[BrowserSession]:
    """A headless session with the page's server in its guest."""
    config = BrowserSessionConfig(viewport={"width": WIDTH, "height": HEIGHT})
    with BrowserSession(config) as started:
        job = started.vm.jobs.start(["python3", "-c", SERVER], name="pages")
        with job.attach() as attached:
            assert next(attached).data == b"up\n"
        yield started


@pytest.fixture(scope="module")
def client(session: BrowserSession) -> Any:
    """The first page, by Playwright."""
    page = session.connect_playwright().contexts[0].pages[0]
    # Without a listener, Playwright answers all dialogs.
    page.context.on("dialog", lambda _dialog: None)
    return page


@pytest.fixture
def computer(session: BrowserSession, client: Any) -> Computer:
    """Mouse and keyboard at the page, as it is when it was loaded."""
    if client.url == URL and session.computer.current_url() == URL:
        # Much faster than to load it.
        client.evaluate("reset()")
    else:
        session.computer.goto(URL)
    return session.computer


@pytest.fixture
def seen(client: Any, computer: Computer) -> Seen:
    """Returns what the page has received of some kinds since it was asked last, in order."""

    def take(*kinds: str) -> list[dict[str, Any]]:
        events: list[dict[str, Any]] = client.evaluate("seen.splice(0)")
        return [event for event in events if event["kind"] in kinds]

    return take


def soon(find: Callable[[], object], expected: object) -> None:
    """Asserts that a page comes to something, which it does in its own time."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while (found := find()) != expected and time.monotonic() < deadline:
        pass
    assert found == expected


def pick(events: list[dict[str, Any]], *names: str) -> list[Any]:
    """Returns some properties of events; of one alone, not as lists."""
    return [
        event[names[0]] if len(names) == 1 else [event[name] for name in names] for event in events
    ]


def test_screenshot_is_the_viewport_as_drawn(computer: Computer) -> None:
    picture = png.decode(computer.screenshot())
    assert (picture.width, picture.height) == (WIDTH, HEIGHT)
    assert picture.pixel(*RED) == (255, 0, 0)
    assert picture.pixel(*THING) == (0, 0, 255)
    assert picture.pixel(*PLACE) == (0, 255, 0)
    assert picture.pixel(*NOTHING) == (255, 255, 255)


@pytest.mark.parametrize(
    ("button", "number", "kind"),
    [
        ("left", 0, "click"),
        ("middle", 1, "auxclick"),
        ("wheel", 1, "auxclick"),
        ("right", 2, "contextmenu"),
    ],
)
def test_click_of_a_button(
    computer: Computer, seen: Seen, button: str, number: int, kind: str
) -> None:
    computer.click(*RED, button)
    events = seen("mousedown", "mouseup", kind)
    assert {event["kind"] for event in events} == {"mousedown", "mouseup", kind}
    assert {(event["at"], event["x"], event["y"]) for event in events} == {("red", *RED)}
    assert set(pick(events, "button")) == {number}


def test_click_with_keys_held(computer: Computer, seen: Seen) -> None:
    computer.click(*RED, keys=["SHIFT", "Control_L"])
    (click,) = seen("click")
    assert click["held"] == ["ctrl", "shift"]
    computer.click(*RED)
    assert pick(seen("click"), "held") == [[]]


def test_clicks_in_a_row(computer: Computer, client: Any, seen: Seen) -> None:
    computer.double_click(*RED)
    assert pick(seen("click", "dblclick"), "kind", "detail") == [
        ["click", 1],
        ["click", 2],
        ["dblclick", 2],
    ]
    computer.triple_click(*WORDS)
    assert pick(seen("click"), "detail") == [1, 2, 3]
    assert client.evaluate("String(getSelection()).trim()") == "three short words"


def test_pointer_moves_and_is_known(computer: Computer, seen: Seen) -> None:
    computer.mouse_move(30, 21)
    (moved,) = seen("mousemove")
    assert (moved["at"], moved["x"], moved["y"], moved["buttons"]) == ("red", 30, 21, 0)
    assert computer.cursor_position() == (30, 21)


def test_button_stays_down_between_calls(computer: Computer, seen: Seen) -> None:
    computer.mouse_move(*RED)
    computer.mouse_down()
    computer.mouse_move(*NOTHING)
    computer.mouse_up()
    events = seen("mousedown", "mousemove", "mouseup")
    assert pick(events, "kind", "buttons")[1] == ["mousedown", 1]
    assert [event["x"] for event in events if event["buttons"] == 1][-1] == NOTHING[0]
    assert (events[-1]["kind"], events[-1]["x"], events[-1]["buttons"]) == ("mouseup", NOTHING[0], 0)


@pytest.mark.parametrize("form", ["pairs", "mappings", "single steps"])
def test_drag_and_drop(computer: Computer, seen: Seen, form: str) -> None:
    if form == "pairs":
        computer.drag([THING, PLACE])
    elif form == "mappings":
        # As a model's API has them, on a way around.
        computer.drag([{"x": x, "y": y} for x, y in (THING, NOTHING, PLACE)])
    else:
        computer.mouse_move(*THING)
        computer.mouse_down()
        computer.mouse_move(*NOTHING)
        computer.mouse_move(*PLACE)
        computer.mouse_up()
    expected = [["dragstart", "thing"], ["drop", "place"], ["dragend", "thing"]]
    assert pick(seen("dragstart", "drop", "dragend"), "kind", "at") == expected


def test_drag_selects_words(computer: Computer, client: Any) -> None:
    computer.drag([(1, WORDS[1]), (190, WORDS[1])])
    assert client.evaluate("String(getSelection()).trim()") == "three short words"


def test_scroll(computer: Computer, client: Any, seen: Seen) -> None:
    where = "[scrollX, scrollY]"
    computer.scroll(*NOTHING, delta_y=300)
    assert pick(seen("wheel"), "x", "y") == [list(NOTHING)]
    # The next picture shows it.
    assert png.decode(computer.screenshot()).pixel(THING[0], THING[1] - 300) == (0, 0, 255)
    soon(lambda: client.evaluate(where), [0, 300])
    computer.scroll(*NOTHING, delta_x=150, delta_y=-200)
    soon(lambda: client.evaluate(where), [150, 100])


def test_text_is_typed_by_keys_and_the_rest_put_in(
    computer: Computer, client: Any, seen: Seen
) -> None:
    computer.click(*AREA)
    text = "Hi, you?\nGrüße 世界 👋🏽\r\nend"
    computer.type(text)
    assert client.evaluate("area.value") == text.replace("\r\n", "\n")
    events = seen("keydown", "input")
    assert pick(events[:4], "kind", "key", "held") == [
        ["keydown", "H", ["shift"]],
        ["input", None, []],
        ["keydown", "i", []],
        ["input", None, []],
    ]
    assert pick(events[:1], "code") == ["KeyH"]
    assert [event["key"] for event in events if event["key"] == "Enter"] == ["Enter"] * 2
    assert "世界" in pick(events, "data")


@pytest.mark.parametrize(
    ("keys", "key", "code", "held"),
    [
        (["ENTER"], "Enter", "Enter", []),
        (["ArrowLeft"], "ArrowLeft", "ArrowLeft", []),
        ("Page_Down", "PageDown", "PageDown", []),
        (["CTRL", "SHIFT", "K"], "K", "KeyK", ["ctrl", "shift"]),
        ("alt+F5", "F5", "F5", ["alt"]),
        (["CMD", "a"], "a", "KeyA", ["meta"]),
        ("A", "A", "KeyA", ["shift"]),
        ("é", "é", "", []),
    ],
)
def test_keypress(
    computer: Computer, seen: Seen, keys: list[str] | str, key: str, code: str, held: list[str]
) -> None:
    computer.keypress(keys)
    events = seen("keydown", "keyup")
    assert pick(events, "key", "code", "held").count([key, code, held]) == 2
    down = [event["code"] for event in events if event["kind"] == "keydown"]
    up = [event["code"] for event in events if event["kind"] == "keyup"]
    assert down == up[::-1]


def test_shortcuts_edit_text(computer: Computer, client: Any) -> None:
    computer.click(*FIELD)
    computer.type("one")
    computer.keypress(["CTRL", "A"])
    computer.keypress("ctrl+c")
    computer.keypress("End")
    computer.keypress("ctrl+v")
    assert client.evaluate("field.value") == "oneone"
    computer.keypress("shift+Home")
    computer.keypress("BackSpace")
    assert client.evaluate("field.value") == ""


def test_held_key_repeats(computer: Computer, client: Any, seen: Seen) -> None:
    computer.click(*FIELD)
    begin = time.monotonic()
    computer.hold_key("x", 3)
    assert time.monotonic() - begin >= 3
    down = pick(seen("keydown"), "repeat")
    assert down[0] is False
    assert set(down[1:]) == {True}
    assert client.evaluate("field.value") == "x" * len(down)


def test_keys_choose_in_a_list(computer: Computer, client: Any, seen: Seen) -> None:
    computer.click(*LIST)
    computer.keypress("Down")
    computer.keypress("ENTER")
    assert client.evaluate("list.value") == "two"
    assert pick(seen("change"), "at") == ["list"]


def test_link_leads_to_another_site_and_buttons_back_and_forward(computer: Computer) -> None:
    computer.click(*LINK)
    soon(computer.current_url, "http://localhost:8000/second")
    computer.click(*NOTHING, "back")
    soon(computer.current_url, URL)
    computer.click(*NOTHING, "forward")
    soon(computer.current_url, "http://localhost:8000/second")


def test_next_action_goes_to_the_tab_that_was_opened(computer: Computer) -> None:
    computer.click(*TAB)
    soon(computer.current_url, f"{URL}tab")
    soon(lambda: png.decode(computer.screenshot()).pixel(*NOTHING), (0, 200, 0))
    # It closes itself.
    computer.click(*NOTHING)
    soon(computer.current_url, URL)
    assert png.decode(computer.screenshot()).pixel(*RED) == (255, 0, 0)


def test_dialog_is_told_and_answered(computer: Computer, client: Any, seen: Seen) -> None:
    assert computer.dialog() is None
    computer.click(*ASK)
    assert computer.dialog() == PageDialog("prompt", "name?", "nobody")
    with pytest.raises(SmolVMError, match=r'shows a dialog \(prompt\).*: "name\?"'):
        computer.screenshot()
    with pytest.raises(SmolVMError, match="shows a dialog"):
        computer.type("x")
    assert computer.current_url() == URL
    computer.answer_dialog(True, "me")
    assert computer.dialog() is None
    assert pick(seen("answer"), "data") == ["me"]
    computer.click(*ASK)
    computer.answer_dialog(False)
    assert pick(seen("answer"), "data") == [None]
    with pytest.raises(SmolVMError, match="No dialog is showing"):
        computer.answer_dialog(True)
    # What a dialog interrupts is not done to its end.
    client.evaluate("() => { field.onkeydown = event => { if (event.key === 'b') alert('b') } }")
    computer.click(*FIELD)
    with pytest.raises(SmolVMError, match='shows a dialog .*"b"'):
        computer.type("abc")
    computer.answer_dialog(True)
    events = seen("keydown", "input")
    assert pick(events, "kind", "key", "data")[:3] == [
        ["keydown", "a", None],
        ["input", None, "a"],
        ["keydown", "b", None],
    ]
    assert "c" not in pick(events, "key")


def test_tab_that_greets_with_a_dialog(computer: Computer) -> None:
    computer.click(*POP)
    soon(computer.dialog, PageDialog("alert", "hello"))
    computer.answer_dialog(True)
    assert computer.current_url() == f"{URL}greeting"
    assert png.decode(computer.screenshot()).width == WIDTH
    # It closes itself.
    computer.goto(f"{URL}tab")
    computer.click(*NOTHING)
    soon(computer.current_url, URL)


def test_dialog_that_opened_before_anybody_looked(
    session: BrowserSession, computer: Computer, client: Any
) -> None:
    with client.context.expect_event("dialog"):
        client.evaluate("setTimeout(() => alert('hi'), 0)")
    late = BrowserSession.from_id(session.session_id).computer
    assert late.dialog() == PageDialog("alert", "hi")
    late.answer_dialog(True)
    assert late.dialog() is None

    with client.context.expect_event("dialog"):
        client.evaluate("() => { window.open('/greeting') }")
    assert late.dialog() == PageDialog("alert", "hello")
    with pytest.raises(SmolVMError, match='shows a dialog .*"hello"'):
        late.click(*NOTHING)
    late.answer_dialog(True)
    assert late.dialog() is None
    assert late.current_url() == f"{URL}greeting"
    late.goto(f"{URL}tab")
    late.click(*NOTHING)
    soon(computer.current_url, URL)


def test_goto_says_why_a_page_is_not_there(computer: Computer) -> None:
    with pytest.raises(SmolVMError, match="load the page: net::ERR_CONNECTION_REFUSED"):
        computer.goto("http://127.0.0.1:8999/")
    computer.goto(f"{URL}second#here")
    assert computer.current_url() == f"{URL}second#here"


def test_wait_takes_its_time(computer: Computer) -> None:
    begin = time.monotonic()
    computer.wait(0.5)
    assert 0.5 <= time.monotonic() - begin < 10


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda it: it.click(800, 0), r"^\(800, 0\) is outside the viewport; x must be 0 to 799, y"),
        (lambda it: it.mouse_move(0, -1), r"y 0 to 599$"),
        (lambda it: it.scroll(0, 600, 0, 1), "outside the viewport"),
        (lambda it: it.click(float("nan"), 0), "outside the viewport"),
        (lambda it: it.click(10**400, 0), "outside the viewport"),
        (lambda it: it.click("1", 0), "^x: '1' is not a number$"),
        (lambda it: it.click(True, 0), "^x: True is not a number$"),
        (lambda it: it.click(1, 1, "top"), '"top" is none of left, middle'),
        (lambda it: it.click(1, 1, keys=["CTRK"]), 'key "CTRK" is unknown; a key is one character'),
        (lambda it: it.click(1, 1, keys=[1]), "^keys.0: 1 is not a string$"),
        (lambda it: it.keypress([]), "^keys is empty"),
        (lambda it: it.keypress("ctrl+"), 'key "ctrl\\+" is unknown'),
        (lambda it: it.keypress(["a"] * 11), "more than 10 keys"),
        (lambda it: it.drag([]), "^path has 0 points; it must have 2 to 1000$"),
        (lambda it: it.drag([(1, 1), (1, 600)]), r"^\(1, 600\) is outside the viewport"),
        (lambda it: it.drag([(1, 1), 2]), "^path.1: 2 is no point"),
        (lambda it: it.drag("ab"), "^path: 'ab' is not a list of points$"),
        (lambda it: it.scroll(1, 1, 0, float("inf")), "^delta_y is inf"),
        (lambda it: it.type("\x1b"), "control character 0x1b"),
        (lambda it: it.type("x" * 10_001), "at most 10000 are typed at once"),
        (lambda it: it.hold_key("x", 101), "^seconds is 101; it must be 0 to 100$"),
        (lambda it: it.wait(-1), "^seconds is -1"),
        (lambda it: it.goto(None), "^url: None is not a string$"),
    ],
)
def test_what_cannot_be_done_says_what_can(
    session: BrowserSession, act: Callable[[Any], None], message: str
) -> None:
    with pytest.raises(ValidationError, match=message):
        act(session.computer)


def test_event_loop_uses_the_page(session: BrowserSession, computer: Computer, seen: Seen) -> None:
    async def main() -> tuple[float, float]:
        handle = AsyncBrowserSession.from_id(session.session_id)
        await handle.computer.click(*FIELD)
        await handle.computer.type("hello")
        await handle.computer.drag([THING, PLACE])
        picture = png.decode(await handle.computer.screenshot())
        assert picture.pixel(*THING) == (0, 0, 255)
        assert await handle.computer.current_url() == URL
        assert await handle.computer.dialog() is None
        return await handle.computer.cursor_position()

    # Playwright's own loop runs in this thread.
    outcome: list[tuple[float, float]] = []
    thread = threading.Thread(target=lambda: outcome.append(asyncio.run(main())))
    thread.start()
    thread.join()
    assert outcome == [PLACE]
    assert pick(seen("input", "drop"), "at") == ["field"] * 5 + ["place"]
    # Another handle is another hand.
    assert computer.cursor_position() != PLACE


def test_page_that_never_answers_ends_the_wait_not_the_session(
    session: BrowserSession, computer: Computer, client: Any
) -> None:
    client.evaluate("setTimeout(() => { for (;;); }, 0)")
    begin = time.monotonic()
    with pytest.raises(SmolVMError, match="the page did not answer within"):
        computer.click(*RED)
    assert time.monotonic() - begin < 150
    # Another site is another process.
    computer.goto("http://localhost:8000/")
    assert png.decode(computer.screenshot()).pixel(*RED) == (255, 0, 0)


def test_session_that_does_not_run_has_no_page() -> None:
    session = BrowserSession()
    with pytest.raises(SmolVMError):
        session.computer.screenshot()
    session.stop()
    with pytest.raises(BrowserSessionNotFoundError):
        session.computer.click(1, 1)


def test_live_session_takes_the_same_actions() -> None:
    config = BrowserSessionConfig(mode="live", viewport={"width": WIDTH, "height": HEIGHT})
    with BrowserSession(config) as session:
        job = session.vm.jobs.start(["python3", "-c", SERVER], name="pages")
        with job.attach() as attached:
            assert next(attached).data == b"up\n"
        computer = session.computer
        computer.goto(URL)
        page = session.connect_playwright().contexts[0].pages[0]
        picture = png.decode(computer.screenshot())
        assert (picture.width, picture.height) == (WIDTH, HEIGHT)
        assert picture.pixel(*RED) == (255, 0, 0)
        computer.click(*FIELD)
        computer.type("Grüße\n")
        assert page.evaluate("field.value") == "Grüße"
        computer.drag([THING, PLACE])
        assert page.evaluate("seen.filter(event => event.kind === 'drop').length") == 1
        computer.scroll(*NOTHING, delta_y=200)
        soon(lambda: page.evaluate("scrollY"), 200)
        computer.scroll(*NOTHING, delta_y=-200)
        soon(lambda: page.evaluate("scrollY"), 0)
        computer.click(*TAB)
        soon(computer.current_url, f"{URL}tab")
