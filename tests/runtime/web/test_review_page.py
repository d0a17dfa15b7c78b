"""The page of collected images in a real Chromium: by keyboard, by touch, and as a screen reader is told."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from support.chromium import CHROMIUM, Browser
from support.collected import collect
from support.contrast import CONTRAST
from support.preview import TOKEN, Client
from support.results import FakeControl

from attri.runtime.collection.folder import Collection

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
READY = "document.querySelectorAll('.shot').length && document.querySelector('.shot img').naturalWidth > 0"
DONE = "document.querySelector('#done').textContent"
FOCUS = "[...document.querySelectorAll('.shot')].indexOf(document.activeElement)"
SELECTED = "document.querySelectorAll('.shot[aria-pressed=true]').length"
ANSWERS = "[...document.querySelectorAll('.shot .answer')].map((node) => node.textContent)"


@pytest.fixture
def files(tmp_path: Path, image_files: list[Path]) -> Collection:
    collect(tmp_path / "collected", 8, image_files)
    return Collection(tmp_path / "collected")


def labels(files: Collection) -> list[str | None]:
    """As the page shows them, newest first; "" where there is none."""
    found = [files.answer(name) for name in reversed(files.content().names)]
    return ["" if answer is None else answer.label for answer in found]


def test_by_keyboard_alone(
    browser: Browser, open_preview: Callable[..., Client], files: Collection, tmp_path: Path
) -> None:
    client = open_preview(FakeControl(), host="0.0.0.0", collected=files.path)
    browser.complaints.clear()
    browser.open(f"http://127.0.0.1:{client.preview.port}/review")

    # Nothing is shown without the token; then keys give labels, each to the image that has the focus.
    browser.wait_for("document.activeElement?.id === 'unlock-token'")
    assert browser.js("document.querySelectorAll('.shot').length") == 0
    browser.type(TOKEN)
    browser.key("Enter")
    browser.wait_for(READY)
    assert browser.js("document.querySelector('#summary').textContent") == "0 of 8 labelled"
    assert browser.js("document.querySelector('.shot').ariaLabel").startswith(
        "Image 1: no label yet. attri said red apple"
    )
    browser.js("document.activeElement.blur()")
    browser.key("3")
    assert "Select images first" in browser.wait_for(DONE)
    browser.key("ArrowRight")
    assert browser.js(FOCUS) == 0
    assert browser.js("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    for key in "320":  # bird, かりんご, none of the labels
        browser.key(key)
    browser.wait_for(f"{DONE} === '1 image is none of the labels.'")
    assert browser.js(FOCUS) == 3  # the next one without a label
    assert labels(files) == ["bird", "かりんご", None, "", "", "", "", ""]
    assert browser.js(ANSWERS)[:4] == ["bird", "かりんご", "none of the labels", "no label yet"]
    assert browser.js("document.querySelector('.shot').ariaLabel").startswith("Image 1: labelled bird.")
    assert browser.js("document.querySelector('#summary').textContent") == "3 of 8 labelled"

    # What is undone is what was there before, one step after the other.
    browser.js("document.querySelectorAll('.shot')[0].focus()")
    browser.key("1")
    browser.wait_for(f"{DONE} === '1 image is red apple.'")
    browser.key("u")
    browser.wait_for(f"{DONE} === 'Undone.'")
    assert labels(files)[0] == "bird"
    for _ in range(3):
        browser.key("u")
    browser.wait_for("document.querySelector('#undo').disabled")
    assert labels(files) == [""] * 8

    # All of these, some of these, and a label of one's own.
    browser.key("a")
    assert browser.js(SELECTED) == 8
    browser.key("1")
    browser.wait_for(f"{DONE} === '8 images are red apple.'")
    assert labels(files) == ["red apple"] * 8
    assert browser.js(SELECTED) == 0
    for place in (1, 2):
        browser.js(f"document.querySelectorAll('.shot')[{place}].focus()")
        browser.key(" ")
    assert browser.js(SELECTED) == 2
    browser.js("document.querySelector('#word').focus()")
    browser.type("pear 1a0u")  # letters and digits are text here
    browser.key("Enter")
    browser.wait_for(f"{DONE} === '2 images are pear 1a0u.'")
    assert labels(files)[:4] == ["red apple", "pear 1a0u", "pear 1a0u", "red apple"]
    assert "pear 1a0u" in browser.js("document.querySelector('#labels').textContent")
    browser.key("u", modifiers=0)
    assert browser.js("document.querySelector('#word').value") == "u"

    # Without keys, if somebody's software types them.
    browser.js("document.activeElement.blur(); document.querySelector('#keys').click()")
    browser.key("a")
    assert browser.js(SELECTED) == 0
    assert browser.complaints == [
        "Failed to load resource: the server responded with a status of 401 (Unauthorized) "
        f"http://127.0.0.1:{client.preview.port}/api/review?show=open"
    ]


@pytest.mark.parametrize("dark", [False, True])
def test_on_a_phone(
    browser: Browser, open_preview: Callable[..., Client], files: Collection, tmp_path: Path, dark: bool
) -> None:
    client = open_preview(FakeControl(), collected=files.path)
    shots = Path(os.environ.get("ATTRI_SHOTS", tmp_path))
    browser.open("about:blank")
    browser.open(
        f"http://127.0.0.1:{client.preview.port}/review#token={TOKEN.replace(' ', '%20')}", 390, 844, True, dark
    )
    browser.wait_for(READY)
    assert browser.js("document.documentElement.scrollWidth") <= 390
    assert browser.js(CONTRAST) == []
    small = """[...document.querySelectorAll("button, input, select")].filter((node) => node.checkVisibility())
      .map((node) => node.getBoundingClientRect()).filter(({width, height}) => width < 24 || height < 24).length"""
    assert browser.js(small) == 0  # what a finger can hit, by WCAG 2.2
    nameless = """[...document.querySelectorAll("button, input, select, ul, ol")].filter((node) =>
      node.checkVisibility() && !(node.ariaLabel || node.textContent.trim() || node.labels?.length ||
        node.getAttribute("aria-labelledby"))).map((node) => node.outerHTML)"""
    assert browser.js(nameless) == []
    browser.js("document.querySelectorAll('.shot')[1].click()")
    browser.js("document.querySelectorAll('#labels button')[2].click()")
    browser.wait_for(f"{DONE} === '1 image is bird.'")
    assert labels(files)[:3] == ["", "bird", ""]
    browser.screenshot(shots / f"review-phone{'-dark' * dark}.png", whole=False)

    # What has a label is no longer among those without, and can be found among those with one.
    browser.js("document.querySelector('#filters').requestSubmit()")
    browser.wait_for("document.querySelectorAll('.shot').length === 7")
    show = "(() => { const show = document.querySelector('#show'); show.value = 'labelled';"
    browser.js(f"{show} show.dispatchEvent(new Event('change')); }})()")
    browser.wait_for("document.querySelectorAll('.shot').length === 1")
    assert browser.js(ANSWERS) == ["bird"]


def test_the_preview_leads_there(browser: Browser, open_preview: Callable[..., Client], files: Collection) -> None:
    for collected, hidden in ((files.path, False), (None, True)):
        client = open_preview(FakeControl(), collected=collected)
        browser.open(f"http://127.0.0.1:{client.preview.port}/")
        browser.wait_for("document.querySelector('#summary')?.textContent.includes('live')")
        assert browser.js("document.querySelector('#review').hidden") is hidden
    assert browser.js("document.querySelector('#review').getAttribute('href')") == "/review"
