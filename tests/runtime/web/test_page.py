"""The preview's page in a real Chromium, fed by the real command: images move, labels change what is seen."""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import io
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.chromium import CHROMIUM, Browser
from support.contrast import CONTRAST
from support.random_prompt import make_prompt
from support.results import FakeControl, make_result

from attri.runtime.bundle import PROMPT
from attri.runtime.deliver.metrics import MetricsSink
from attri.runtime.errors import LabelsError
from attri.runtime.prompt import Prompt
from attri.runtime.prompt_file.training_images import TrainingImages
from attri.runtime.web.server import PreviewServer

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
TOKEN = "correct horse battery"
LABELS = "red apple\nbird\na small house\n"

PIXELS = """(() => {
  const image = document.querySelector(".card img"), canvas = document.createElement("canvas");
  canvas.width = canvas.height = 8;
  canvas.getContext("2d").drawImage(image, 0, 0, 8, 8);
  return Array.from(canvas.getContext("2d").getImageData(0, 0, 8, 8).data).join();
})()"""
# Choose a file as a person would; only the dialogue is left out.
CHOOSE = """((text) => {
  const files = new DataTransfer(), bytes = Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
  files.items.add(new File([bytes], "a.attri"));
  document.querySelector("#prompt-file").files = files.files;
})"""
FOCUS = "(document.activeElement.id || document.activeElement.className)"


@pytest.fixture
def command(bundle: Path, image_files: list[Path], tmp_path: Path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """attri-run with a camera's place taken by JPEGs on standard input; the preview's URL, and the process."""
    labels = tmp_path / "labels.txt"
    labels.write_text(LABELS)
    words = ["-", "--bundle", bundle, "--labels", labels, "--threads", "1", "--serve", "127.0.0.1:0", "--quiet"]
    run = subprocess.Popen(
        [sys.executable, "-m", "attri.runtime.cli.run", *map(str, words)],
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | {"ATTRI_SERVE_TOKEN": TOKEN, "OMP_NUM_THREADS": "1"},
    )
    assert run.stderr is not None
    for line in run.stderr:
        if line.startswith(b"preview: "):
            break
    else:
        pytest.fail("no preview")
    threads = [threading.Thread(target=run.stderr.read), threading.Thread(target=_feed, args=(run, image_files[:6]))]
    for thread in threads:
        thread.start()
    yield line.split()[1].decode(), run
    run.kill()
    for thread in threads:
        thread.join()
    run.stderr.close()
    run.wait()


def _feed(run: subprocess.Popen[bytes], files: list[Path]) -> None:
    assert run.stdin is not None
    number = 0
    try:
        while True:
            data = io.BytesIO()
            Image.open(files[number // 4 % len(files)]).convert("RGB").resize((320, 240)).save(data, "JPEG")
            run.stdin.write(data.getvalue())
            run.stdin.flush()
            number += 1
            time.sleep(0.1)
    except BrokenPipeError:
        with contextlib.suppress(BrokenPipeError):
            run.stdin.close()


def test_the_page(browser: Browser, command: tuple[str, subprocess.Popen[bytes]], tmp_path: Path, bundle: Path) -> None:
    url, run = command
    shots = Path(os.environ.get("ATTRI_SHOTS", tmp_path))
    browser.requests.clear()
    browser.complaints.clear()
    browser.open(url)

    # Images move, and everything else is there.
    first = browser.wait_for(f"document.querySelector('.card img')?.complete && {PIXELS}")
    browser.wait_for(f"{PIXELS} !== '{first}'")
    labels = LABELS.split("\n")[:-1]
    browser.wait_for(f"{labels}.includes(document.querySelector('.card .said b').textContent)")
    shown = browser.js("[...document.querySelectorAll('#scores .label')].map((node) => node.textContent)")
    assert sorted(shown) == sorted(labels)
    assert browser.js("document.querySelectorAll('#retrieved li').length") > 1
    assert browser.js("document.querySelectorAll('#retrieved .entry').length") > 1
    assert len(browser.js("document.querySelector('#plot .vision').getAttribute('points')").split()) > 3
    assert "median" in browser.js("document.querySelector('#plot').ariaLabel")
    assert browser.wait_for("document.querySelector('#health tbody').rows.length") == 1
    assert browser.js("document.querySelector('#health tbody tr').lastChild.textContent") == "now"
    assert browser.wait_for("document.querySelector('#load').textContent")
    said = browser.js("document.querySelector('#load').textContent")
    assert re.fullmatch(r"Time: idle \d+ %, preprocess .* deliver \d+ %\. Batches of 1\.0 frames, at most \d+\.", said)
    assert browser.js("document.querySelector('#text').value") == LABELS
    browser.wait_for("document.querySelector('#said').textContent")  # what a screen reader is told

    # The keyboard alone changes the labels, and what has the focus can be seen.
    browser.key("Tab")
    assert browser.js(FOCUS) == "skip"
    browser.key("Enter")
    browser.wait_for(f"{FOCUS} === 'text'")
    browser.js("document.activeElement.select()")
    browser.type("zebra\nfire = a fire truck; a red car")
    visited = []
    while not visited or visited[-1] != "save":
        browser.key("Tab")
        visited.append(browser.js(FOCUS))
        assert browser.js("getComputedStyle(document.activeElement).outlineStyle") == "solid"
        if visited[-1] == "token":
            browser.type(TOKEN)
    assert visited == ["token", "save"]
    browser.key("Enter")
    browser.wait_for("document.querySelector('#saved').className")
    assert browser.js("document.querySelector('#saved').textContent") == "These labels are used from the next frame on."
    used = "zebra\nfire = a fire truck; a red car\n"
    assert browser.js("document.querySelector('#text').value") == used
    browser.wait_for("['zebra', 'fire'].includes(document.querySelector('.card .said b').textContent)")
    browser.wait_for("document.querySelectorAll('#scores li').length === 2")

    # Labels that are none change nothing, and say so.
    browser.js("find = document.querySelector('#text'); find.value = '# nothing'; find.form.requestSubmit()")
    browser.wait_for("document.querySelector('#saved.bad')")
    assert "holds no labels" in browser.js("document.querySelector('#saved').textContent")
    browser.js("document.querySelector('#undo').click()")
    assert browser.js("document.querySelector('#text').value") == used

    # A prompt file is sent, and one that is none changes nothing.
    prompt = Prompt.read(bundle / PROMPT)
    other = Prompt.of(dataclasses.replace(prompt.facts, temperature=2.0), prompt.tensors)
    for data, kind in ((other.to_bytes(), "good"), (b"no prompt", "bad")):
        browser.wait_for("!document.querySelector('#prompt-send').disabled")
        browser.js(f"{CHOOSE}('{base64.b64encode(data).decode()}')")
        browser.js("document.querySelector('#prompt-send').click()")
        browser.wait_for(f"document.querySelector('#prompt-said.{kind}')")
        assert browser.js("document.querySelector('#prompt-about').textContent").startswith(other.digest[:12])
    assert "is no prompt file of attri" in browser.js("document.querySelector('#prompt-said').textContent")
    assert browser.js("document.querySelector('#text').value") == used

    # Nothing went wrong (the refusals alone are logged), and nothing came from elsewhere.
    assert [line for line in browser.complaints if "status of 400" not in line] == []
    assert {line.removeprefix("blob:")[: len(url)] for line in browser.requests} == {url}

    # On a phone, and in the dark.
    browser.screenshot(shots / "desktop.png")
    for width, phone, dark in ((390, True, False), (320, True, True), (1280, False, True)):
        browser.open(url, width, 844, phone, dark)
        browser.wait_for("document.querySelector('.card img') && document.querySelectorAll('#scores li').length")
        assert browser.js("document.documentElement.scrollWidth") <= width
        assert browser.js(CONTRAST) == []
        small = "[...document.querySelectorAll('button, input, select')].filter((b) => b.checkVisibility() && "
        assert browser.js(f"{small} b.getBoundingClientRect().height < 44).map((b) => b.id)") == []
        browser.screenshot(shots / f"{'phone' if phone else 'desktop'}-{width}-{'dark' if dark else 'light'}.png")

    # A device that goes away is said, in words that are announced.
    run.kill()
    browser.wait_for("document.querySelector('[role=alert]:not([hidden])')?.textContent.includes('No answer')")


def test_every_control_has_a_name(browser: Browser) -> None:
    preview = PreviewServer(control := FakeControl("camera0", "b"), MetricsSink(control), ("127.0.0.1", 0), TOKEN)
    for source in control.lines:
        preview.write(make_result(source))
    browser.open(preview.url)
    browser.wait_for(
        "document.querySelectorAll('.card img').length === 2 && !document.querySelector('#scope-row').hidden"
    )
    nodes = [node for node in browser.send("Accessibility.getFullAXTree")["nodes"] if not node["ignored"]]
    roles = {"button", "textbox", "combobox", "link", "img", "image", "region", "table", "form", "meter"}
    named = {(node["role"]["value"], node["name"]["value"]) for node in nodes if node["role"]["value"] in roles}
    assert not [role for role, name in named if not name.strip()]
    names = {name for _, name in named}
    assert {"Pause", "Use these labels", "Undo", "Token", "Labels and prompt of", "Skip to the labels"} <= names
    assert any(name.startswith("camera0: red apple, 75.0 %") for name in names)
    headings = [node["name"]["value"] for node in nodes if node["role"]["value"] == "heading"]
    assert headings[:2] == ["attri", "Sources"]
    preview.close()


def test_tasks_have_cards_and_labels_and_sources_have_rows(browser: Browser) -> None:
    control = FakeControl("camera0", "b", tasks=("defects", "fill"))
    preview = PreviewServer(control, MetricsSink(control), ("127.0.0.1", 0), TOKEN)
    for source in control.states:
        preview.write(make_result(source, task="defects", label="bird"))
        preview.write(make_result(source, task="fill", score=0.5))
    browser.open(preview.url)
    browser.wait_for("document.querySelectorAll('.card img').length === 4")
    names = browser.js("[...document.querySelectorAll('.card .name')].map((each) => each.textContent)")
    assert names == ["camera0 · defects", "camera0 · fill", "b · defects", "b · fill"]
    said = browser.js("[...document.querySelectorAll('.card .said b')].map((each) => each.textContent)")
    assert said == ["bird", "red apple"] * 2
    rows = browser.js("[...document.querySelectorAll('#health tbody th')].map((each) => each.textContent)")
    assert rows == ["camera0", "b"]
    assert browser.js("document.querySelector('#summary').textContent") == "2 of 2 sources live"
    browser.js("document.querySelectorAll('.card')[3].click()")
    browser.wait_for("document.querySelector('#detail-title').textContent === 'b · fill'")
    browser.wait_for("document.querySelector('#scores .number').textContent === '50.0 %'")
    control.set_labels("empty\nfull", "b", "fill")
    choose = "scope = document.querySelector('#scope'); scope.value = scope.options[4].value; "
    browser.js(f"{choose} scope.dispatchEvent(new Event('change'))")
    browser.wait_for("document.querySelector('#text').value === 'empty\\nfull\\n'")
    send_labels(browser, "half")
    browser.wait_for("document.querySelector('#saved').textContent.startsWith('These labels are used')")
    assert control.lines["b fill"] == ["half"]
    assert control.lines["b defects"] == control.written["b defects"]
    preview.close()


def test_retrieved_entries_have_names_where_the_prompt_has_them(browser: Browser) -> None:
    control = FakeControl("camera0")
    preview = PreviewServer(control, MetricsSink(control), ("127.0.0.1", 0), TOKEN)
    preview.write(make_result(attracts=[[["red apples", "pears"], [], [], ["birds"]], [[]] * 4]))
    browser.open(preview.url)
    browser.wait_for("document.querySelectorAll('#retrieved .entry').length === 3")
    names = "[...document.querySelectorAll('#retrieved .entry')].map((each) => each.textContent)"
    assert browser.js(names) == ["0: red apples, pears", "3: birds", "1"]
    preview.write(make_result(frame=1))
    browser.wait_for(f"{names}.join() === '0,3,1'")
    preview.close()


def test_the_nearest_training_images_are_named_where_the_prompt_keeps_them(browser: Browser) -> None:
    control = FakeControl("camera0")
    preview = PreviewServer(control, MetricsSink(control), ("127.0.0.1", 0), TOKEN)
    images = TrainingImages.of(np.array([[0.0, 1.0], [1.0, 0.0]], np.float32), [("cat", "a.png"), ("bird", "b.png")])
    preview.write(make_result(feature=[1.0, 0.0], training_images=images))
    browser.open(preview.url)
    browser.wait_for("document.querySelector('#nearest:not([hidden])') !== null")
    words = "Nearest training images, by cosine: bird 1.00 (b.png), cat 0.00 (a.png)"
    assert browser.js("document.querySelector('#nearest').textContent") == words
    preview.write(make_result(frame=1))
    browser.wait_for("document.querySelector('#nearest:not([hidden])') === null")
    preview.close()


def test_a_frame_is_explained_when_somebody_asks(browser: Browser) -> None:
    control = FakeControl("camera0", "b")
    preview = PreviewServer(control, MetricsSink(control), ("127.0.0.1", 0), TOKEN)
    for source in control.states:
        preview.write(make_result(source))
    browser.open(preview.url)
    browser.wait_for("document.querySelectorAll('.card img').length === 2")
    browser.wait_for("!document.querySelector('#detail').hidden")
    assert browser.js("document.querySelector('#why').hidden")
    browser.js("document.querySelector('#explain').click()")
    browser.wait_for("document.querySelector('#why').naturalHeight > 3 * 240")  # three panels
    assert browser.js("document.querySelector('#why').alt") == "Heat maps of a frame of camera0"
    browser.js("document.querySelectorAll('.card')[1].click()")
    browser.wait_for("document.querySelector('#why').hidden")  # it was another source's
    preview.close()


def test_a_draft_is_not_written_over(browser: Browser) -> None:
    preview = PreviewServer(control := FakeControl(), MetricsSink(control), ("127.0.0.1", 0), TOKEN)
    browser.open(preview.url)
    browser.wait_for("document.querySelector('#text')?.value.startsWith('red apple')")
    control.set_labels("changed by somebody")
    browser.wait_for("document.querySelector('#text').value === 'changed by somebody\\n'")
    browser.js("document.querySelector('#text').value = 'a draft'")
    for others in ("changed by somebody", "changed again"):
        control.set_labels(others)
        time.sleep(1.3)  # the page has looked meanwhile
        assert browser.js("document.querySelector('#text').value") == "a draft"
    preview.close()


def test_labels_of_one_source_and_of_all(browser: Browser) -> None:
    preview = PreviewServer(control := FakeControl("camera0", "b"), MetricsSink(control), ("127.0.0.1", 0), TOKEN)
    browser.open(preview.url)
    browser.wait_for("document.querySelector('#text')?.value.startsWith('red apple')")
    browser.wait_for("!document.querySelector('#scope-row').hidden")
    control.set_labels("zebra", "b")
    browser.wait_for("document.querySelector('#text').placeholder.includes('different labels')")
    assert browser.js("document.querySelector('#text').value") == ""
    choose = "scope = document.querySelector('#scope'); scope.value = '{}'; scope.dispatchEvent(new Event('change'))"
    browser.js(choose.format("b"))
    browser.wait_for("document.querySelector('#text').value === 'zebra\\n'")
    assert browser.js("document.querySelector('#text').placeholder") == ""
    browser.js(choose.format(""))
    browser.wait_for("document.querySelector('#text').value === ''")
    preview.close()


class Slow(FakeControl):
    """SinkFilter labels when it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.go = threading.Event()

    def set_labels(self, text: str, source: str | None = None, task: str | None = None) -> None:
        assert self.go.wait(60)
        super().set_labels(text, source, task)


def send_labels(browser: Browser, text: str) -> None:
    browser.js(f"text.value = '{text}'; document.querySelector('#token').value = '{TOKEN}'; text.form.requestSubmit()")


def click_write(browser: Browser) -> None:
    """Once it can be clicked: until their answer is there, labels that were sent are a draft, which is not written."""
    browser.wait_for("document.querySelector('#write:enabled')?.checkVisibility()")
    browser.js("document.querySelector('#write').click()")


def test_a_late_answer_is_no_refusal(browser: Browser) -> None:
    preview = PreviewServer(control := Slow(), MetricsSink(control), ("127.0.0.1", 0), TOKEN)
    browser.open(preview.url)
    browser.wait_for("document.querySelector('#text')?.value.startsWith('red apple')")
    send_labels(browser, "zebra")
    browser.wait_for("saved.textContent.startsWith('The answer is late')")
    browser.wait_for("saved.textContent.endsWith('It uses now: red apple, かりんご, bird')")
    assert not browser.js("saved.className")
    assert browser.js("text.value") == "zebra"
    control.go.set()
    browser.wait_for("saved.textContent === 'These labels are used from the next frame on.'")
    assert browser.js("text.value") == "zebra\n"
    preview.close()


def test_a_lost_answer_is_no_refusal(browser: Browser) -> None:
    """The server stops before it answers; when it is back, what it uses tells."""
    control = Slow()
    preview = PreviewServer(control, MetricsSink(control), ("127.0.0.1", 0), TOKEN)
    browser.open(preview.url)
    browser.wait_for("document.querySelector('#text')?.value.startsWith('red apple')")
    send_labels(browser, "zebra")
    browser.wait_for("document.querySelector('#save').disabled")
    preview.close()
    browser.wait_for("saved.textContent.startsWith('The answer ')")
    control.go.set()
    again = PreviewServer(control, MetricsSink(control), ("127.0.0.1", preview.port), TOKEN)
    browser.wait_for("saved.textContent === 'These labels are used from the next frame on.'")
    again.close()


def test_edited_labels_are_offered_for_the_file(browser: Browser, tmp_path: Path) -> None:
    preview = PreviewServer(control := FakeControl(), MetricsSink(control), ("127.0.0.1", 0), TOKEN)
    preview.write(make_result())
    browser.open(preview.url)
    browser.wait_for("document.querySelector('#text')?.value.startsWith('red apple')")
    assert browser.js("document.querySelector('#file-row').hidden")
    send_labels(browser, "zebra")
    browser.wait_for("document.querySelector('#file-row').checkVisibility()")
    assert "Not in camera0.txt" in browser.js("document.querySelector('#file-note').textContent")
    assert browser.js("document.querySelector('#write').textContent") == "Write to camera0.txt"
    browser.screenshot(Path(os.environ.get("ATTRI_SHOTS", tmp_path)) / "edited.png")
    assert control.written["camera0"] != ["zebra"]
    click_write(browser)
    browser.wait_for("saved.textContent === 'Written to camera0.txt.'")
    browser.wait_for("document.querySelector('#file-row').hidden")
    assert control.written["camera0"] == ["zebra"]
    preview.close()


def test_a_file_that_cannot_be_written_says_why(browser: Browser) -> None:
    class ReadOnly(FakeControl):
        def write_labels(self, source: str | None = None, task: str | None = None) -> None:
            raise LabelsError("camera0.txt is read-only")

    preview = PreviewServer(control := ReadOnly(), MetricsSink(control), ("127.0.0.1", 0), TOKEN)
    browser.open(preview.url)
    browser.wait_for("document.querySelector('#text')?.value.startsWith('red apple')")
    send_labels(browser, "zebra")
    browser.wait_for("document.querySelector('#file-row').checkVisibility()")
    click_write(browser)
    browser.wait_for("saved.textContent === 'Not written: camera0.txt is read-only'")
    assert browser.js("saved.className") == "bad"
    assert browser.js("document.querySelector('#file-row').checkVisibility()")
    preview.close()


def test_a_prompt_that_was_sent_is_offered_for_the_file(browser: Browser) -> None:
    preview = PreviewServer(control := FakeControl(), MetricsSink(control), ("127.0.0.1", 0), TOKEN)
    browser.open(preview.url)
    browser.wait_for("document.querySelector('#prompt-send')?.checkVisibility()")
    other = make_prompt(entries=3)
    browser.js(f"document.querySelector('#token').value = '{TOKEN}'")
    browser.js(f"{CHOOSE}('{base64.b64encode(other.to_bytes()).decode()}')")
    browser.js("document.querySelector('#prompt-send').click()")
    browser.wait_for("document.querySelector('#prompt-write:enabled')?.checkVisibility()")
    note = browser.js("document.querySelector('#prompt-file-note').textContent")
    assert note.startswith("Not in camera0.attri: the prompt that is used now lasts until attri-run ends")
    browser.js("document.querySelector('#prompt-write').click()")
    browser.wait_for("document.querySelector('#prompt-said.good').textContent === 'Written to camera0.attri.'")
    assert browser.js("document.querySelector('#prompt-file-row').hidden")
    assert control.written_prompt["camera0"].digest == other.digest
    preview.close()


def test_an_answer_from_before_a_change_is_not_shown_after_it(browser: Browser) -> None:
    preview = PreviewServer(control := FakeControl(), MetricsSink(control), ("127.0.0.1", 0), TOKEN)
    browser.open(preview.url)
    browser.wait_for("document.querySelector('#text')?.value.startsWith('red apple')")
    send_labels(browser, "zebra")
    browser.wait_for("document.querySelector('#file-row').checkVisibility()")
    browser.js("""
        window.held = [];
        window.rounds = 0;
        window.fetch = (fetch => async (path, options) => {
            const answer = await fetch(path, options);
            rounds += path.startsWith('/api/state');
            if (path.startsWith('/api/labels/file') && options?.method !== 'PUT')
                await new Promise(go => held.push(go));
            return answer;
        })(fetch)
    """)
    browser.wait_for("held.length > 0")
    click_write(browser)
    browser.wait_for("saved.classList.contains('good') && saved.textContent.startsWith('Written')")
    assert browser.js("document.querySelector('#file-row').hidden")
    browser.js("rounds = 0; held.splice(0).forEach(go => go())")
    browser.wait_for("rounds > 1")  # the round that waited for the answer has come to its end
    assert browser.js("document.querySelector('#file-row').hidden")
    preview.close()


def test_paused_it_asks_for_nothing(browser: Browser) -> None:
    preview = PreviewServer(control := FakeControl(), MetricsSink(control), ("127.0.0.1", 0), TOKEN)
    preview.write(make_result())
    browser.open(preview.url)
    browser.wait_for("document.querySelector('.card img')")
    browser.js("document.querySelector('#pause').click()")
    assert browser.js("document.querySelector('#pause').ariaPressed") == "true"
    time.sleep(0.3)
    browser.js("0")
    browser.requests.clear()
    time.sleep(0.5)
    browser.js("0")
    assert browser.requests == []
    browser.js("document.querySelector('#pause').click()")
    browser.wait_for("performance.now() && document.querySelector('#summary').textContent.includes('live')")
    preview.close()


def test_open_to_others_it_asks_for_the_token(browser: Browser) -> None:
    preview = PreviewServer(control := FakeControl(), MetricsSink(control), ("0.0.0.0", 0), TOKEN)
    preview.write(make_result())
    url = f"http://127.0.0.1:{preview.port}/"
    browser.open(url)
    browser.wait_for("document.querySelector('#unlock')?.hidden === false")
    assert browser.js("document.querySelectorAll('.card').length") == 0
    browser.js("document.querySelector('#unlock-token').focus()")
    browser.type(TOKEN)
    browser.key("Enter")
    browser.wait_for("document.querySelector('.card img') && document.querySelector('#unlock').hidden")
    browser.js("sessionStorage.clear()")
    browser.open("about:blank")
    browser.open(f"{url}#token={TOKEN.replace(' ', '%20')}")
    browser.wait_for("document.querySelector('.card img')")
    assert browser.js("location.href") == url
    preview.close()
