"""What people do with a browser, done with a session by real clients.

A web application on this host's loopback is what the guest's browser visits; Playwright drives it,
and another Chromium, of this host, looks at the live view. All share one session.
"""

from __future__ import annotations

import asyncio
import io
import os
import re
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import pytest
from PIL import Image
from playwright.async_api import async_playwright
from playwright.sync_api import Browser, Dialog, Error, Page, TimeoutError, sync_playwright
from web_app import BACKGROUND, DOWNLOAD, RECTANGLES, RTL, SCRIPTS, WebApp, served
from websocket_client import WebSocket

from smolvm import AsyncBrowserSession, BrowserSession, BrowserSessionConfig, BrowserSessionState

T = TypeVar("T")
Colour = tuple[int, int, int]

WIDTH, HEIGHT = 1440, 900

#: What a page may take in an emulated guest, while other tests keep the processors busy.
PATIENCE_SECONDS = 180

#: Chromium of this host: `cargo xtask packages` installs it.
HOST_CHROMIUM = "/usr/bin/chromium"

#: What the display has above the page: tabs and address.
TOOLBAR_ROWS = 87

#: By how much each channel may be off in the live view, whose pictures are compressed.
LIVE_TOLERANCE = 24


@pytest.fixture(scope="module")
def app() -> Iterator[WebApp]:
    with served() as app:
        yield app


@pytest.fixture(scope="module")
def session(app: WebApp) -> Iterator[BrowserSession]:
    """The session that tests share; it reaches the application and nothing else."""
    config = BrowserSessionConfig(
        mode="live", viewport={"width": WIDTH, "height": HEIGHT}, allowed_domains=[app.rule]
    )
    with BrowserSession(config) as session:
        yield session


@pytest.fixture
def browser(session: BrowserSession) -> Browser:
    browser: Browser = session.connect_playwright()
    return browser


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A tab of its own; the tabs that a test leaves are closed."""
    (context,) = browser.contexts
    before = list(context.pages)
    page = context.new_page()
    page.set_default_timeout(PATIENCE_SECONDS * 1000)
    yield page
    for left in context.pages:
        if left not in before:
            left.close()


def eventually(description: str, look: Callable[[], T | None]) -> T:
    """Returns what ``look`` finds, once it finds something."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        found = look()
        if found:
            return found
        time.sleep(0.2)
    raise AssertionError(f"never came: {description}")


def apart(work: Callable[[], T]) -> T:
    """Runs what needs a thread without Playwright's event loop."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(work).result(PATIENCE_SECONDS)


def picture(content: bytes) -> Image.Image:
    return Image.open(io.BytesIO(content)).convert("RGB")


def rectangle_points() -> dict[tuple[int, int], Colour]:
    """Which colour /colours has where: each rectangle's corners and centre, and between them."""
    points = {(720, 200): BACKGROUND, (720, 700): BACKGROUND, (101, 40): BACKGROUND}
    for colour, (left, top, width, height) in RECTANGLES.items():
        right, bottom = left + width - 1, top + height - 1
        for point in [(left, top), (right, top), (left, bottom), (right, bottom)]:
            points[point] = colour
        points[left + width // 2, top + height // 2] = colour
    return points


def is_close(one: Any, other: Colour, tolerance: int) -> bool:
    return all(abs(a - b) <= tolerance for a, b in zip(one, other))


def test_links_redirects_history_and_missing_pages(page: Page, app: WebApp) -> None:
    answer = page.goto(app.url)
    assert answer is not None
    assert (answer.status, page.title()) == (200, "start")
    page.get_by_role("link", name="the second page").click()
    page.wait_for_url("**/second")
    assert page.get_by_role("heading").inner_text() == "Second"
    page.go_back()
    assert (page.url, page.title()) == (f"{app.url}/", "start")
    page.go_forward()
    assert page.title() == "second"
    moved = page.goto(f"{app.url}/moved")
    assert moved is not None
    assert (moved.status, page.url) == (200, f"{app.url}/second")
    redirected = moved.request.redirected_from
    assert redirected is not None
    assert redirected.url == f"{app.url}/moved"
    missing = page.goto(f"{app.url}/missing")
    assert missing is not None
    assert (missing.status, page.title()) == (404, "not here")
    # A name that the session may not ask for.
    denied = page.goto("http://nobody.invalid/")
    assert denied is not None
    assert denied.status == 403


def test_page_that_the_policy_denies_is_not_reached(page: Page, app: WebApp) -> None:
    page.goto(app.url)
    with served() as other:
        with pytest.raises(Error, match="ERR_"):
            page.goto(other.url)
        assert not other.agents
    assert app.agents


def test_form_arrives_as_it_was_filled_in(page: Page, app: WebApp) -> None:
    page.goto(f"{app.url}/form")
    page.get_by_label("Name").fill("Zoë 世界 😀")
    page.get_by_label("Notes").press_sequentially("one two")
    page.get_by_label("Notes").press("Enter")
    page.get_by_label("Notes").press_sequentially("three")
    page.get_by_label("Colour").select_option("green")
    page.get_by_label("Fast").check()
    page.get_by_label("Slow").check()
    page.get_by_label("Slow").uncheck()
    page.get_by_label("Large").check()
    page.get_by_role("button", name="Send").click()
    page.wait_for_url("**/submitted")
    assert page.get_by_role("heading").inner_text() == "Thank you"
    assert app.received.fields == {
        "name": ["Zoë 世界 😀"],
        "notes": ["one two\r\nthree"],
        "colour": ["green"],
        "fast": ["yes"],
        "size": ["l"],
    }


def test_clicks_reach_the_page_and_snapshots_describe_it(page: Page, app: WebApp) -> None:
    page.goto(f"{app.url}/counter")
    page.get_by_role("button", name="press").click()
    page.get_by_role("button").dblclick()
    assert page.locator("body").aria_snapshot() == '- button "3 times"'
    page.goto(app.url)
    snapshot = page.locator("body").aria_snapshot()
    assert '- heading "Start" [level=1]' in snapshot
    assert '- link "the second page":\n  - /url: /second' in snapshot


def test_download_arrives_with_its_bytes(
    session: BrowserSession, page: Page, app: WebApp
) -> None:
    page.goto(app.url)
    with page.expect_download() as download:
        page.get_by_role("link", name="report").click()
    assert download.value.suggested_filename == "report.bin"
    # The event tells of its beginning.
    (copy,) = eventually("the download", lambda: session.downloads)
    assert copy == session.artifacts_dir / "downloads" / "report.bin"
    assert copy.read_bytes() == DOWNLOAD


def test_files_of_the_host_are_uploaded(page: Page, app: WebApp, tmp_path: Path) -> None:
    small, large = tmp_path / "größe.txt", tmp_path / "large.bin"
    small.write_text("small")
    large.write_bytes(os.urandom(3 << 20))
    page.goto(f"{app.url}/form")
    page.get_by_label("Files").set_input_files([small, large])
    page.get_by_role("button", name="Send").click()
    page.wait_for_url("**/submitted")
    assert app.received.files == {"größe.txt": b"small", "large.bin": large.read_bytes()}


def test_dialogs_are_answered(page: Page, app: WebApp) -> None:
    page.goto(app.url)
    seen = []

    def answer(dialog: Dialog) -> None:
        seen.append((dialog.type, dialog.message, dialog.default_value))
        if dialog.message == "no?":
            dialog.dismiss()
        else:
            dialog.accept("mine" if dialog.type == "prompt" else None)

    page.on("dialog", answer)
    answers = "[alert('hello'), confirm('yes?'), confirm('no?'), prompt('what?', 'yours')]"
    assert page.evaluate(answers) == [None, True, False, "mine"]
    assert seen == [
        ("alert", "hello", ""),
        ("confirm", "yes?", ""),
        ("confirm", "no?", ""),
        ("prompt", "what?", "yours"),
    ]


def test_tabs_and_windows_that_a_page_opens(page: Page, app: WebApp) -> None:
    page.goto(f"{app.url}/popups")
    with page.expect_popup() as tab:
        page.get_by_role("link", name="another tab").click()
    with page.expect_popup() as window:
        page.get_by_role("button", name="window").click()
    for opened in (tab.value, window.value):
        opened.wait_for_url("**/second")
        assert opened.title() == "second"
        opened.close()
    assert page.title() == "popups"
    assert page.evaluate("[innerWidth, innerHeight]") == [WIDTH, HEIGHT]


def test_frames_are_driven_as_their_page_is(page: Page, app: WebApp) -> None:
    page.goto(f"{app.url}/frames")
    outer = page.frame_locator("iframe[name=outer]")
    outer.get_by_role("button").click()
    assert outer.get_by_role("button").inner_text() == "1 times"
    assert page.frame_locator("iframe[name=inner]").locator("p").inner_text() == "written here"
    assert {frame.name for frame in page.frames} == {"", "outer", "inner"}


def test_websocket_carries_text_and_bytes(page: Page, app: WebApp) -> None:
    page.goto(app.url)
    script = """async () => {
        const socket = new WebSocket(`ws://${location.host}/echo`);
        socket.binaryType = 'arraybuffer';
        const answers = [];
        await new Promise((done, failed) => {
            socket.onerror = failed;
            socket.onopen = () => { socket.send('grüße'); socket.send(new Uint8Array(70000)); };
            socket.onmessage = ({data}) => {
                answers.push(data.byteLength ?? data);
                if (answers.length == 2) socket.close();
            };
            socket.onclose = done;
        });
        return answers;
    }"""
    assert page.evaluate(script) == ["grüße", 70000]


def test_cookies_and_storage_are_kept_by_the_page(page: Page, app: WebApp) -> None:
    page.goto(app.url)
    page.evaluate("document.cookie = 'taste=sweet'; localStorage.setItem('kept', 'ü')")
    page.goto(f"{app.url}/second")
    assert page.evaluate("[document.cookie, localStorage.getItem('kept')]") == ["taste=sweet", "ü"]
    (cookie,) = page.context.cookies(app.url)
    assert (cookie.get("name"), cookie.get("value")) == ("taste", "sweet")
    page.context.clear_cookies()
    assert page.evaluate("document.cookie") == ""


#: Draws each letter alone; returns a number that stands for the picture, and how many of its pixels
#: are ink, and have a colour.
DRAW = """letters => letters.map(letter => {
    const canvas = new OffscreenCanvas(96, 96);
    const paper = canvas.getContext('2d', {willReadFrequently: true});
    paper.fillStyle = 'white';
    paper.fillRect(0, 0, 96, 96);
    paper.fillStyle = 'black';
    paper.font = '48px sans-serif';
    paper.fillText(letter, 20, 64);
    const data = paper.getImageData(0, 0, 96, 96).data;
    let digest = 0, ink = 0, coloured = 0;
    for (let i = 0; i < data.length; i += 4) {
        const [red, green, blue] = data.subarray(i, i + 3);
        digest = (Math.imul(digest, 31) + red + green + blue) | 0;
        ink += red + green + blue < 384;
        coloured += Math.max(red, green, blue) - Math.min(red, green, blue) > 64;
    }
    return [digest, ink, coloured];
})"""


def test_scripts_of_the_world_are_read_and_drawn(page: Page, app: WebApp) -> None:
    page.goto(f"{app.url}/scripts")
    assert page.title() == " ".join(SCRIPTS.values())
    for name, text in SCRIPTS.items():
        line = page.locator(f"#{name}")
        assert line.inner_text() == text
        direction = line.evaluate("element => getComputedStyle(element).direction")
        assert direction == ("rtl" if name in RTL else "ltr")

    # Two numbers that no font has a letter for are drawn as the same box.
    nothing = page.evaluate(DRAW, ["\u0378", "\u0379"])
    assert nothing[0] == nothing[1]
    assert nothing[0][1] > 0
    for name, text in SCRIPTS.items():
        letters = sorted({letter for letter in text if letter.isalpha() or name == "emoji"})
        drawn = page.evaluate(DRAW, letters)
        assert all(ink > 0 or coloured > 0 for _, ink, coloured in drawn), name
        pictures = {digest for digest, _, _ in drawn}
        assert len(pictures) == len(letters), name
        assert nothing[0][0] not in pictures, name
        assert all((coloured > 100) == (name == "emoji") for _, _, coloured in drawn), name


def test_screenshots_show_the_page_pixel_by_pixel(
    session: BrowserSession, page: Page, app: WebApp, tmp_path: Path
) -> None:
    page.goto(f"{app.url}/colours")
    page.bring_to_front()
    by_session = picture(session.screenshot(tmp_path / "page.png", full_page=False).read_bytes())
    by_playwright = picture(page.screenshot())
    for image in (by_session, by_playwright):
        assert image.size == (WIDTH, HEIGHT)
        assert {at: image.getpixel(at) for at in rectangle_points()} == rectangle_points()
    assert by_session.tobytes() == by_playwright.tobytes()
    jpeg = Image.open(session.screenshot(tmp_path / "page.jpg", full_page=False))
    assert (jpeg.format, jpeg.size) == ("JPEG", (WIDTH, HEIGHT))
    assert is_close(jpeg.getpixel((720, 450)), (128, 0, 128), 8)


def test_full_page_is_longer_than_the_window(
    session: BrowserSession, page: Page, app: WebApp, tmp_path: Path
) -> None:
    page.goto(f"{app.url}/tall")
    page.bring_to_front()
    whole = picture(session.screenshot(tmp_path / "tall.png").read_bytes())
    assert whole.size[1] == 3000
    assert (whole.getpixel((10, 2899)), whole.getpixel((10, 2900))) == ((255,) * 3, (0, 0, 255))
    assert page.evaluate("[innerWidth, innerHeight, scrollY]") == [WIDTH, HEIGHT, 0]


def test_webgl_draws_in_software(page: Page, app: WebApp) -> None:
    page.goto(app.url)
    script = """kind => {
        const gl = document.createElement('canvas').getContext(kind);
        gl.clearColor(1, 0.5, 0, 1);
        gl.clear(gl.COLOR_BUFFER_BIT);
        const pixel = new Uint8Array(4);
        gl.readPixels(10, 10, 1, 1, gl.RGBA, gl.UNSIGNED_BYTE, pixel);
        return Array.from(pixel);
    }"""
    for kind in ("webgl", "webgl2"):
        red, green, blue, alpha = page.evaluate(script, kind)
        assert (red, blue, alpha) == (255, 0, 255)
        assert green in (127, 128)


def test_sound_and_video_play(session: BrowserSession, page: Page, app: WebApp) -> None:
    filming = session.vm.run(
        "ffmpeg -loglevel error -y -f lavfi -i color=c=red:s=64x64:r=10:d=1 -pix_fmt yuv420p"
        " /tmp/red.mp4"
    )
    assert filming.ok, filming.stderr
    app.files["/red.mp4"] = ("video/mp4", session.vm.files.read("/tmp/red.mp4"))
    page.goto(app.url)
    play = """async ([kind, source]) => {
        const media = document.createElement(kind);
        media.muted = true;
        document.body.append(media);
        await new Promise((ended, failed) => {
            media.onended = ended;
            media.onerror = () => failed(media.error.message);
            media.src = source;
            media.play().catch(failed);
        });
        const canvas = new OffscreenCanvas(1, 1).getContext('2d');
        if (kind == 'video') canvas.drawImage(media, 0, 0, 1, 1);
        return [media.duration, Array.from(canvas.getImageData(0, 0, 1, 1).data)];
    }"""
    duration, pixel = page.evaluate(play, ["video", "/red.mp4"])
    assert duration == pytest.approx(1, abs=0.2)
    assert is_close(pixel, (255, 0, 0), 16)
    duration, _ = page.evaluate(play, ["audio", "/tone.wav"])
    assert duration == pytest.approx(0.5, abs=0.05)


def test_page_is_printed_as_pdf(page: Page, app: WebApp) -> None:
    page.goto(f"{app.url}/scripts")
    document = page.pdf()
    assert document.startswith(b"%PDF-")
    assert b"%%EOF" in document[-16:]


def test_plain_playwright_connects_to_the_url(session: BrowserSession, app: WebApp) -> None:
    def visit() -> tuple[str, bytes]:
        with sync_playwright() as playwright:
            browser = playwright.chromium.connect_over_cdp(session.cdp_url or "", timeout=PATIENCE_SECONDS * 1000)
            # Apart from the session's own tabs, with cookies of its own.
            context = browser.new_context(viewport={"width": 800, "height": 600})
            page = context.new_page()
            page.set_default_timeout(PATIENCE_SECONDS * 1000)
            page.goto(f"{app.url}/counter")
            page.get_by_role("button").click()
            said = page.get_by_role("button").inner_text()
            image = page.screenshot()
            context.close()
            browser.close()
            return said, image

    said, image = apart(visit)
    assert said == "1 times"
    assert picture(image).size == (800, 600)
    assert session.status == BrowserSessionState.READY


def test_download_of_a_plain_playwright_arrives_too(session: BrowserSession, app: WebApp) -> None:
    def visit() -> str | None:
        with sync_playwright() as playwright:
            browser = playwright.chromium.connect_over_cdp(session.cdp_url or "", timeout=PATIENCE_SECONDS * 1000)
            page = browser.contexts[0].new_page()
            page.set_default_timeout(PATIENCE_SECONDS * 1000)
            page.goto(app.url)
            with page.expect_download() as download:
                page.get_by_role("link", name="report").click()
            failure: str | None = download.value.failure()
            page.close()
            browser.close()
            return failure

    before = session.downloads
    assert apart(visit) is None
    (copy,) = eventually(
        "the download", lambda: [path for path in session.downloads if path not in before]
    )
    assert copy.name.startswith("report") and copy.suffix == ".bin"
    assert copy.read_bytes() == DOWNLOAD


def test_event_loop_drives_the_session(session: BrowserSession, app: WebApp) -> None:
    async def visit() -> list[str]:
        handle = AsyncBrowserSession.from_id(session.session_id)
        async with async_playwright() as playwright:
            browser = await playwright.chromium.connect_over_cdp(
                handle.cdp_url or "", timeout=PATIENCE_SECONDS * 1000
            )
            (context, *_) = browser.contexts
            pages = await asyncio.gather(*(context.new_page() for _ in range(3)))
            paths = ["", "/second", "/counter"]
            titles = []
            for opened in pages:
                opened.set_default_timeout(PATIENCE_SECONDS * 1000)
            await asyncio.gather(
                *(opened.goto(app.url + path) for opened, path in zip(pages, paths))
            )
            for opened in pages:
                titles.append(await opened.title())
                await opened.close()
        await handle.close()
        return titles

    assert apart(lambda: asyncio.run(visit())) == ["start", "second", "counter"]


def test_clients_come_in_a_row_and_at_once(session: BrowserSession) -> None:
    def version(client: WebSocket) -> str:
        answer = client.call("Browser.getVersion")
        return str(answer["product"]).partition("/")[0]

    assert session.cdp_url is not None
    for _ in range(20):
        with WebSocket.of_browser(session.cdp_url) as client:
            assert version(client) == "Chrome"
    clients = [WebSocket.of_browser(session.cdp_url) for _ in range(16)]
    with ThreadPoolExecutor(len(clients)) as pool:
        assert list(pool.map(version, clients)) == ["Chrome"] * len(clients)
    for client in clients:
        client.close()
    assert session.status == BrowserSessionState.READY


def test_forms_are_not_told_to_the_makers_of_the_browser(
    session: BrowserSession, page: Page, app: WebApp
) -> None:
    page.goto(f"{app.url}/form")
    page.get_by_label("Name").press_sequentially("Zoë")
    asked = {
        event.fields["name"] for event in session.vm.network.events() if event.type == "dns"
    }
    assert "content-autofill.googleapis.com" not in asked


@pytest.fixture(scope="module")
def viewer(session: BrowserSession) -> Iterator[Browser]:
    """Chromium of this host, which may look at what comes out of the guest."""
    browser: Browser = session.connect_playwright()
    # As root it has no sandbox of its own; here it shows nothing but noVNC.
    options = ["--no-sandbox"] if os.geteuid() == 0 else []
    viewer = browser.browser_type.launch(executable_path=HOST_CHROMIUM, args=options)
    yield viewer
    viewer.close()


@pytest.fixture
def view(viewer: Browser, session: BrowserSession) -> Iterator[Page]:
    """The live view, in a window that shows it in its own size."""
    view = viewer.new_page(viewport={"width": WIDTH, "height": HEIGHT + TOOLBAR_ROWS})
    view.set_default_timeout(PATIENCE_SECONDS * 1000)
    view.goto(session.live_url or "")
    yield view
    view.close()


class Screen:
    """Where the live view has the display, and what it looks like."""

    def __init__(self, view: Page) -> None:
        box = view.locator("canvas").first.bounding_box()
        assert box is not None
        self.left, self.top = box["x"], box["y"]
        self.scale = box["width"] / WIDTH
        self.height = box["height"]
        self.image = picture(view.screenshot())

    def colour(self, x: int, y: int) -> Any:
        left, top = self.at(x, y)
        return self.image.getpixel((int(left), int(top)))

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Where a point of the guest's page is."""
        return self.left + x * self.scale, self.top + (y + TOOLBAR_ROWS) * self.scale

    def shows_rectangles(self) -> bool:
        """Whether each rectangle's centre, and what is between them, has its colour."""
        points = {(720, 200): BACKGROUND, (720, 700): BACKGROUND}
        for colour, (left, top, width, height) in RECTANGLES.items():
            points[left + width // 2, top + height // 2] = colour
        return all(is_close(self.colour(*at), points[at], LIVE_TOLERANCE) for at in points)


def screen_with_rectangles(view: Page) -> Screen:
    def look() -> Screen | None:
        if not view.locator("canvas").count():
            return None
        screen = Screen(view)
        return screen if screen.shows_rectangles() else None

    return eventually("the page's rectangles in the live view", look)


def test_live_view_shows_the_page_and_scales_with_its_window(
    view: Page, page: Page, app: WebApp
) -> None:
    page.goto(f"{app.url}/colours")
    page.bring_to_front()
    assert screen_with_rectangles(view).scale == pytest.approx(1, abs=0.01)
    view.set_viewport_size({"width": WIDTH // 2, "height": HEIGHT})
    view.wait_for_function("document.querySelector('canvas').getBoundingClientRect().width < 721")
    smaller = screen_with_rectangles(view)
    assert smaller.scale == pytest.approx(0.5, abs=0.01)
    assert smaller.height == pytest.approx((HEIGHT + TOOLBAR_ROWS) / 2, abs=2)
    # The guest's page keeps its size.
    assert page.evaluate("[innerWidth, innerHeight]") == [WIDTH, HEIGHT]
    view.reload()
    screen_with_rectangles(view)


def test_keys_and_clicks_on_the_live_view_reach_the_page(
    view: Page, page: Page, app: WebApp
) -> None:
    page.goto(f"{app.url}/colours")
    page.bring_to_front()
    screen = screen_with_rectangles(view)
    page.goto(f"{app.url}/typing")
    page.evaluate("document.activeElement.blur()")
    view.mouse.click(*screen.at(400, 315))
    clicks = eventually("the click", lambda: page.evaluate("clicks"))
    assert clicks == [[pytest.approx(400, abs=1), pytest.approx(315, abs=1), 0]]
    view.keyboard.type("Hello, World 12!")
    view.keyboard.press("ArrowLeft")
    view.keyboard.press("Backspace")
    field = page.locator("input")
    eventually("the keys", lambda: field.input_value() == "Hello, World 1!")
    # A key of another keyboard than the guest's: it gets it with the first press, which a busy
    # browser can miss. People press again.
    canvas = view.locator("canvas").first

    def has_arrived() -> bool:
        canvas.evaluate(
            """canvas => ['keydown', 'keyup'].forEach(type => canvas.dispatchEvent(
                new KeyboardEvent(type, {key: 'ü', code: 'BracketLeft', bubbles: true})))"""
        )
        try:
            page.wait_for_function("document.querySelector('input').value.includes('ü')", timeout=20_000)
        except TimeoutError:
            return False
        return True

    eventually("the other key", has_arrived)
    assert re.fullmatch("Hello, World 1ü+!", field.input_value())


@pytest.mark.parametrize(
    ("part", "wrong"),
    [
        ("path", "path=websockify%3Ftoken%3D00"),
        ("path", "path=websockify"),
        ("password", "password=0"),
    ],
    ids=["token", "no-token", "password"],
)
def test_live_view_shows_nothing_to_whoever_does_not_know_the_token(
    viewer: Browser, session: BrowserSession, part: str, wrong: str
) -> None:
    address, _, query = (session.live_url or "").partition("?")
    right = query.split("&")
    options = [wrong if option.startswith(f"{part}=") else option for option in right]
    assert options != right
    view = viewer.new_page()
    view.goto(f"{address}?{'&'.join(options)}")
    view.wait_for_selector("#noVNC_status.noVNC_open.noVNC_status_error", timeout=120_000)
    assert view.locator("html.noVNC_connected").count() == 0
    seen = picture(view.screenshot())
    pixels = {colour: count for count, colour in seen.getcolors(1 << 24) or []}
    # noVNC has some in the same pure colours, 2,500 at most; the rectangles have 20,000.
    assert sum(pixels.get(colour, 0) for colour in RECTANGLES) < 10_000
    view.close()
