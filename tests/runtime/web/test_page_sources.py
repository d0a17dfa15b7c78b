"""Sources and regions on the preview's page, in a real Chromium."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from support.chromium import CHROMIUM, Browser
from support.contrast import CONTRAST
from support.results import FakeControl, make_result

from attri.runtime.deliver.metrics import MetricsSink
from attri.runtime.errors import UsageError
from attri.runtime.web.server import PreviewServer

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
TOKEN = "correct horse battery"
BOARD = """(({left, top, width, height}) => [left, top, width, height])(
  document.querySelector("#board").getBoundingClientRect())"""
SAID = "document.querySelector('#regions-said').textContent"


def test_sources_are_added_paused_and_removed(browser: Browser, tmp_path: Path) -> None:
    class Refusing(FakeControl):
        def change_sources(self, tables: Mapping[str, Any]) -> None:
            if "wrong" in tables:
                raise UsageError("the request: wrong.uri: nothing does not exist")
            super().change_sources(tables)

    def press(name: str) -> None:
        browser.wait_for(f"{button}('{name}')")
        browser.js(f"{button}('{name}').click()")

    preview = PreviewServer(control := Refusing("gate", "yard"), MetricsSink(control), ("127.0.0.1", 0), TOKEN)
    for source in control.states:
        preview.write(make_result(source))
    button = "(name => [...document.querySelectorAll('#changes button')].find((each) => each.ariaLabel === name))"
    said = "document.querySelector('#change-said')"
    browser.open(f"{preview.url}#token={TOKEN}".replace(" ", "%20"))
    press("Pause gate")
    browser.wait_for(f"{said}.textContent === 'gate is closed.' && {said}.className === 'good'")
    assert control.states["gate"] == "paused"
    browser.wait_for("[...document.querySelectorAll('.card .state')].some((each) => each.textContent === 'paused')")
    browser.screenshot(Path(os.environ.get("ATTRI_SHOTS", tmp_path)) / "sources.png")
    press("Resume gate")
    browser.wait_for(f"{said}.textContent === 'gate is opened.'")

    # By the keyboard, one that cannot be, and then one that can.
    browser.js("document.querySelector('#add-name').focus()")
    for name, uri in (("wrong", "nothing"), ("hall <b>", "rtsp://user:secret@host/hall")):
        browser.js("document.querySelector('#add').reset(); document.querySelector('#add-name').focus()")
        browser.type(name)
        browser.key("Tab")
        browser.type(uri)
        browser.key("Enter")
        browser.wait_for(f"{said}.textContent.includes('{name}') && {said}.textContent !== 'Sending.'")
    assert browser.js(f"{said}.textContent") == "hall <b> is added."
    browser.wait_for("document.querySelector('#add-uri').value === ''")
    assert list(control.states) == ["gate", "yard", "hall <b>"]

    # One that is removed has no card, no row and no labels to choose.
    browser.wait_for("[...document.querySelector('#scope').options].some((each) => each.value === 'gate')")
    browser.js("document.querySelector('#scope').value = 'gate'")
    press("Remove gate")
    browser.wait_for(f"{said}.textContent === 'gate is removed.'")
    browser.wait_for("![...document.querySelectorAll('.card .name')].some((each) => each.textContent === 'gate')")
    browser.wait_for("![...document.querySelector('#scope').options].some((each) => each.value === 'gate')")
    assert browser.js("document.querySelector('#scope').value") == ""
    press("Remove yard")
    browser.wait_for(f"{button}('Remove hall <b>')?.disabled")
    assert "secret" not in browser.js("document.documentElement.innerHTML")
    preview.close()


def test_sources_without_a_place_are_counted(browser: Browser) -> None:
    preview = PreviewServer(
        control := FakeControl(*(f"camera{i}" for i in range(66))), MetricsSink(control), ("127.0.0.1", 0)
    )
    for name in control.lines:
        preview.write(make_result(name))
    browser.open(preview.url)
    browser.wait_for("document.querySelector('#left-out')?.textContent.startsWith('2 more sources have no place')")
    assert browser.js("document.querySelectorAll('.card').length") == 64
    preview.close()


def test_regions_are_drawn_by_mouse_touch_and_keys(browser: Browser) -> None:
    control = FakeControl("camera0")
    preview = PreviewServer(control, MetricsSink(control), ("127.0.0.1", 0), TOKEN)

    def open_board(**screen: Any) -> Callable[[float, float], dict[str, float]]:
        browser.open(f"{preview.url}#token={TOKEN.replace(' ', '%20')}", **screen)
        browser.wait_for("document.querySelector('#regions-panel:not([hidden])')")
        return look()

    def look() -> Callable[[float, float], dict[str, float]]:
        """Scroll to the board; gives where a pixel of the frame is on the screen."""
        browser.js("document.querySelector('#board').scrollIntoView({block: 'center'})")
        browser.wait_for("document.querySelector('#board-image[src]')?.complete")
        left, top, width, height = browser.js(BOARD)
        return lambda x, y: {"x": left + x * width / 64, "y": top + y * height / 48}  # pixels of the frame

    def drag(at: Callable[[float, float], dict[str, float]], *points: tuple[float, float]) -> None:
        kinds = ["mousePressed", *["mouseMoved"] * (len(points) - 1), "mouseReleased"]
        for kind, point in zip(kinds, [*points, points[-1]], strict=True):
            browser.send("Input.dispatchMouseEvent", type=kind, button="left", buttons=1, clickCount=1, **at(*point))

    def send(button: str, said: str) -> None:
        browser.wait_for(f"!document.querySelector('#regions-{button}').disabled")
        browser.js(f"document.querySelector('#regions-{button}').click()")
        browser.wait_for(f"{SAID}.includes({said!r})")

    # The mouse draws, moves, and pulls at the corner; a click alone draws nothing.
    at = open_board()
    drag(at, (8, 8), (20, 12), (32, 24))
    drag(at, (60, 40), (61, 41))
    send("save", "from the next frame on")
    assert control.rois["camera0"] == {"region1": [8, 8, 24, 16]}
    drag(at, (20, 16), (22, 18), (24, 20))
    drag(at, (35.6, 27.6), (40, 30), (44.6, 31.6))
    send("save", "from the next frame on")
    assert control.rois["camera0"] == {"region1": [12, 12, 33, 20]}

    # Keys do all of that, and fields say it in numbers.
    browser.js("document.querySelector('#regions-add').click()")
    browser.wait_for("document.activeElement.className === 'region'")
    browser.key("ArrowRight")
    browser.key("ArrowUp")
    browser.key("ArrowDown", modifiers=8)  # Shift
    browser.js("document.querySelectorAll('#region-list input')[5].focus()")
    browser.js("document.activeElement.select()")
    browser.type("door")
    send("save", "from the next frame on")
    assert control.rois["camera0"] == {"region1": [12, 12, 33, 20], "door": [17, 11, 32, 25]}
    browser.wait_for("!document.querySelector('#regions-file-row').hidden")
    send("write", "Written to sources.toml.")
    assert control.written_rois == control.rois
    browser.wait_for("document.querySelector('#regions-file-row').hidden")

    # On a phone by a finger, which does not scroll the page; what the device refuses stays to be mended.
    open_board(width=390, height=844, phone=True)
    browser.wait_for("document.querySelectorAll('.region').length === 2")
    browser.js("document.querySelectorAll('.region').forEach((region) => region.focus())")
    browser.key("Backspace")
    browser.wait_for("document.querySelectorAll('.region').length === 1")
    at = look()  # the focus went to a button below
    scrolled = browser.js("scrollY")
    for kind, point in (("touchStart", (46, 36)), ("touchMove", (50, 40)), ("touchMove", (60, 46)), ("touchEnd", None)):
        points = [] if point is None else [at(*point)]
        browser.send("Input.dispatchTouchEvent", type=kind, touchPoints=points)
    assert browser.js("scrollY") == scrolled
    send("save", "from the next frame on")
    assert control.rois["camera0"] == {"region1": [12, 12, 33, 20], "region2": [46, 36, 14, 10]}
    browser.js("document.querySelector('#region-list input').focus()")
    browser.js("document.activeElement.select()")
    browser.type("bad")
    send("save", "Not used: bad: the region is not inside")
    assert browser.js("document.documentElement.scrollWidth") <= 390
    assert browser.js(CONTRAST) == []
    send("undo", "")
    assert browser.js("document.querySelector('#region-list input').value") == "region1"
    preview.close()
