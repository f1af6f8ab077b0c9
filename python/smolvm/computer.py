"""Mouse and keyboard at the page of a browser session, as ``session.computer``.

    picture = session.computer.screenshot()
    session.computer.click(640, 360)
    session.computer.type("hello\\n")

Everything is in CSS pixels of the viewport, which the picture has as pixels, and goes to the page
that was used last. Of an asynchronous session, every method is awaited.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from smolvm import _native, checks
from smolvm.exceptions import ValidationError
from smolvm.record import Record

__all__ = ["AsyncComputer", "Computer", "PageDialog"]

#: Keys by their names, of which one may name several: ``"ctrl+s"``.
Keys = str | Sequence[str]

#: A point as ``(x, y)`` or ``{"x": x, "y": y}``.
PathPoint = Sequence[float] | Mapping[str, float]


class PageDialog(Record):
    """A dialog that a page shows and waits for: ``alert``, ``confirm``, ``prompt`` or
    ``beforeunload``."""

    kind: str
    message: str
    default_text: str = ""


def _keys(keys: Keys) -> list[str]:
    return [keys] if isinstance(keys, str) else checks.texts("keys", keys)


def _point(x: float, y: float) -> tuple[float, float]:
    return checks.number("x", x), checks.number("y", y)


def _path_point(name: str, point: Any) -> tuple[float, float]:
    if isinstance(point, Mapping) and set(point) >= {"x", "y"}:
        point = point["x"], point["y"]
    elif isinstance(point, (str, bytes)) or not isinstance(point, Sequence) or len(point) != 2:
        raise ValidationError(f"{name}: {point!r} is no point; it must be (x, y)")
    return checks.number(f"{name}.x", point[0]), checks.number(f"{name}.y", point[1])


def _path(path: Iterable[PathPoint]) -> list[tuple[float, float]]:
    if isinstance(path, (str, bytes)) or not isinstance(path, Iterable):
        raise ValidationError(f"path: {path!r} is not a list of points")
    return [_path_point(f"path.{index}", point) for index, point in enumerate(path)]


def _dialog(parts: tuple[str, str, str] | None) -> PageDialog | None:
    return None if parts is None else PageDialog(*parts)


class ComputerHandle:
    """What both kinds of handle share: the actions, to be waited for."""

    def __init__(self, native: _native.Computer) -> None:
        self._native = native

    def _screenshot(self) -> _native.Operation[bytes]:
        return self._native.screenshot()

    def _click(
        self, x: float, y: float, button: str, keys: Keys, count: int
    ) -> _native.Operation[None]:
        button = checks.text("button", button)
        return self._native.click(_point(x, y), button, _keys(keys), count)

    def _mouse_move(self, x: float, y: float, keys: Keys) -> _native.Operation[None]:
        return self._native.move_to(_point(x, y), _keys(keys))

    def _mouse_down(self, button: str, keys: Keys) -> _native.Operation[None]:
        return self._native.press(checks.text("button", button), _keys(keys))

    def _mouse_up(self, button: str, keys: Keys) -> _native.Operation[None]:
        return self._native.release(checks.text("button", button), _keys(keys))

    def _drag(
        self, path: Iterable[PathPoint], button: str, keys: Keys
    ) -> _native.Operation[None]:
        return self._native.drag(_path(path), checks.text("button", button), _keys(keys))

    def _scroll(
        self, x: float, y: float, delta_x: float, delta_y: float, keys: Keys
    ) -> _native.Operation[None]:
        delta = checks.number("delta_x", delta_x), checks.number("delta_y", delta_y)
        return self._native.scroll(_point(x, y), delta, _keys(keys))

    def _type(self, text: str) -> _native.Operation[None]:
        return self._native.type_text(checks.text("text", text))

    def _press_keys(self, keys: Keys, seconds: float) -> _native.Operation[None]:
        return self._native.press_keys(_keys(keys), checks.number("seconds", seconds))

    def _wait(self, seconds: float) -> _native.Operation[None]:
        return self._native.wait(checks.number("seconds", seconds))

    def _goto(self, url: str) -> _native.Operation[None]:
        return self._native.goto(checks.text("url", url))

    def _answer_dialog(self, accept: bool, text: str | None) -> _native.Operation[None]:
        accept = checks.flag("accept", accept)
        return self._native.answer_dialog(accept, checks.text_or_none("text", text))


class Computer(ComputerHandle):
    """Mouse and keyboard at the page that was used last.

    An action returns when the page has taken it; the page may go on to load another page or to
    scroll. ``keys`` are held meanwhile, as in ``keys=["CTRL"]``. An action that makes the page
    show a dialog returns, and those that follow raise a :class:`SmolVMError` until
    :meth:`answer_dialog`. A point outside the viewport, an unknown key or button raise a
    :class:`ValidationError`.
    """

    def screenshot(self) -> bytes:
        """Returns a picture of what the page's window shows, as PNG in the viewport's size."""
        return self._screenshot().wait()

    def click(self, x: float, y: float, button: str = "left", keys: Keys = ()) -> None:
        """Clicks with the button ``left``, ``middle`` (or ``wheel``), ``right``, ``back`` or
        ``forward``."""
        self._click(x, y, button, keys, 1).wait()

    def double_click(self, x: float, y: float, button: str = "left", keys: Keys = ()) -> None:
        """Clicks twice in a row."""
        self._click(x, y, button, keys, 2).wait()

    def triple_click(self, x: float, y: float, button: str = "left", keys: Keys = ()) -> None:
        """Clicks three times in a row."""
        self._click(x, y, button, keys, 3).wait()

    def mouse_move(self, x: float, y: float, keys: Keys = ()) -> None:
        """Moves the pointer; with a button left down by :meth:`mouse_down`, this drags."""
        self._mouse_move(x, y, keys).wait()

    def mouse_down(self, button: str = "left", keys: Keys = ()) -> None:
        """Presses a button where the pointer is, and leaves it down."""
        self._mouse_down(button, keys).wait()

    def mouse_up(self, button: str = "left", keys: Keys = ()) -> None:
        """Lets go of a button where the pointer is."""
        self._mouse_up(button, keys).wait()

    def drag(self, path: Iterable[PathPoint], button: str = "left", keys: Keys = ()) -> None:
        """Drags from the first point of ``path`` through all others to its last.

        A point is ``(x, y)`` or ``{"x": x, "y": y}``.
        """
        self._drag(path, button, keys).wait()

    def scroll(
        self, x: float, y: float, delta_x: float = 0, delta_y: float = 0, keys: Keys = ()
    ) -> None:
        """Turns the wheel at a point, by so many pixels right and down."""
        self._scroll(x, y, delta_x, delta_y, keys).wait()

    def type(self, text: str) -> None:
        """Types where the focus is; a line break is the Enter key."""
        self._type(text).wait()

    def keypress(self, keys: Keys) -> None:
        """Presses keys together and lets go of them: ``["CTRL", "A"]``, or ``"ctrl+a"``."""
        self._press_keys(keys, 0).wait()

    def hold_key(self, keys: Keys, seconds: float) -> None:
        """Presses keys together for a time."""
        self._press_keys(keys, seconds).wait()

    def wait(self, seconds: float = 1) -> None:
        """Does nothing for a time."""
        self._wait(seconds).wait()

    def cursor_position(self) -> tuple[float, float]:
        """Returns where this handle moved the pointer to last."""
        return self._native.pointer().wait()

    def current_url(self) -> str:
        """Returns the address of the page."""
        return self._native.current_url().wait()

    def goto(self, url: str) -> None:
        """Goes to an address and waits until its document is there."""
        self._goto(url).wait()

    def dialog(self) -> PageDialog | None:
        """Returns the dialog that the page shows."""
        return _dialog(self._native.dialog().wait())

    def answer_dialog(self, accept: bool, text: str | None = None) -> None:
        """Accepts or dismisses the dialog; ``text`` goes into the field of a prompt."""
        self._answer_dialog(accept, text).wait()


class AsyncComputer(ComputerHandle):
    """A :class:`Computer` whose methods are awaited."""

    async def screenshot(self) -> bytes:
        """Returns a picture of the viewport; see :meth:`Computer.screenshot`."""
        return await self._screenshot()

    async def click(self, x: float, y: float, button: str = "left", keys: Keys = ()) -> None:
        """Clicks; see :meth:`Computer.click`."""
        await self._click(x, y, button, keys, 1)

    async def double_click(
        self, x: float, y: float, button: str = "left", keys: Keys = ()
    ) -> None:
        """Clicks twice in a row."""
        await self._click(x, y, button, keys, 2)

    async def triple_click(
        self, x: float, y: float, button: str = "left", keys: Keys = ()
    ) -> None:
        """Clicks three times in a row."""
        await self._click(x, y, button, keys, 3)

    async def mouse_move(self, x: float, y: float, keys: Keys = ()) -> None:
        """Moves the pointer; see :meth:`Computer.mouse_move`."""
        await self._mouse_move(x, y, keys)

    async def mouse_down(self, button: str = "left", keys: Keys = ()) -> None:
        """Presses a button and leaves it down."""
        await self._mouse_down(button, keys)

    async def mouse_up(self, button: str = "left", keys: Keys = ()) -> None:
        """Lets go of a button."""
        await self._mouse_up(button, keys)

    async def drag(
        self, path: Iterable[PathPoint], button: str = "left", keys: Keys = ()
    ) -> None:
        """Drags along a path; see :meth:`Computer.drag`."""
        await self._drag(path, button, keys)

    async def scroll(
        self, x: float, y: float, delta_x: float = 0, delta_y: float = 0, keys: Keys = ()
    ) -> None:
        """Turns the wheel; see :meth:`Computer.scroll`."""
        await self._scroll(x, y, delta_x, delta_y, keys)

    async def type(self, text: str) -> None:
        """Types where the focus is; see :meth:`Computer.type`."""
        await self._type(text)

    async def keypress(self, keys: Keys) -> None:
        """Presses keys together; see :meth:`Computer.keypress`."""
        await self._press_keys(keys, 0)

    async def hold_key(self, keys: Keys, seconds: float) -> None:
        """Presses keys together for a time."""
        await self._press_keys(keys, seconds)

    async def wait(self, seconds: float = 1) -> None:
        """Does nothing for a time."""
        await self._wait(seconds)

    async def cursor_position(self) -> tuple[float, float]:
        """Returns where this handle moved the pointer to last."""
        return await self._native.pointer()

    async def current_url(self) -> str:
        """Returns the address of the page."""
        return await self._native.current_url()

    async def goto(self, url: str) -> None:
        """Goes to an address; see :meth:`Computer.goto`."""
        await self._goto(url)

    async def dialog(self) -> PageDialog | None:
        """Returns the dialog that the page shows."""
        return _dialog(await self._native.dialog())

    async def answer_dialog(self, accept: bool, text: str | None = None) -> None:
        """Accepts or dismisses the dialog; see :meth:`Computer.answer_dialog`."""
        await self._answer_dialog(accept, text)
