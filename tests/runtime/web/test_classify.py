"""POST /api/classify over real sockets: a real classifier and real images, and what a client may not do."""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from support.bench import QUICK, camera
from support.fakes import wait_for
from support.preview import Client, bearer
from support.results import FakeControl

from attri.runtime import Classifier
from attri.runtime.decide.schedule import Schedule
from attri.runtime.decide.smoothing import DecisionRule
from attri.runtime.deliver.result import FrameResult
from attri.runtime.deliver.sink import SentImage
from attri.runtime.errors import EngineError, ImageError
from attri.runtime.pipeline.live_labels import LiveLabels
from attri.runtime.pipeline.pipeline import Pipeline
from attri.runtime.pipeline.task import TaskSetup
from attri.runtime.web import classify
from attri.runtime.web.classify import TimeBudget

PATH = "/api/classify"
BOUNDARY = "x"


def form(*files: tuple[str, bytes]) -> tuple[bytes, dict[str, str]]:
    """Body and headers of a form with these files, as curl -F image=@NAME sends them."""
    parts = [
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="image"; filename="{name}"\r\n\r\n'.encode() + data
        for name, data in files
    ]
    body = b"\r\n".join([*parts, f"--{BOUNDARY}--\r\n".encode()])
    return body, bearer() | {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}


@pytest.fixture(scope="module")
def classifier(bundle: Path) -> Iterator[Classifier]:
    with Classifier.load(bundle, ["red apple", "bird", "a small house"], threads=1) as classifier:
        yield classifier


@pytest.fixture
def served(classifier: Classifier, open_preview: Any) -> Client:
    """A preview of a pipeline with two sources: one has two tasks, the second of which rejects everything."""
    labels = LiveLabels(classifier.fork(), None)
    tasks = [TaskSetup(labels, name="what"), TaskSetup(labels, DecisionRule(threshold=1.0), "sure")]
    pipeline = Pipeline([camera("gate"), camera("yard")], [tasks, [TaskSetup(labels)]], Schedule(), QUICK, 2)
    return open_preview(pipeline)


def test_an_image_gets_the_object_that_json_prints(
    served: Client, classifier: Classifier, image_files: list[Path]
) -> None:
    answer = served(f"{PATH}?source=yard&topk=2", "POST", image_files[3].read_bytes(), **bearer())
    assert answer.status == 200
    (found,) = answer.json
    wanted = classifier(image_files[3])
    assert {key: found[key] for key in ("source", "frame", "label", "score", "top", "retrieved")} == {
        "source": "image",
        "frame": 0,
        "label": wanted.label,
        "score": pytest.approx(wanted.score, abs=1e-5),  # of another run, beside other images
        "top": [{"label": label, "score": pytest.approx(score, abs=1e-5)} for label, score in wanted.top(2)],
        "retrieved": wanted.retrieved.tolist(),
    }
    assert list(found) == ["source", "frame", "time", "label", "score", "top", "retrieved", "cache", "latency_ms"]


def test_several_images_come_back_in_order_a_bad_one_as_an_error_in_its_place(
    served: Client, classifier: Classifier, image_files: list[Path]
) -> None:
    files = [(each.name, each.read_bytes()) for each in image_files[:5]]
    webp = io.BytesIO()
    Image.open(image_files[5]).convert("RGB").save(webp, "WEBP", lossless=True)
    sent = [*files[:2], ("no image.jpg", b"no image"), *files[2:], ("lossless.webp", webp.getvalue()), ("none", b"")]
    body, headers = form(*sent)
    answer = served(f"{PATH}?source=yard", "POST", body, **headers)
    assert answer.status == 200
    assert [each["source"] for each in answer.json] == [name for name, _ in sent]
    assert [each["source"] for each in answer.json if "error" in each] == ["no image.jpg", "none"]
    assert "not an image" in answer.json[2]["error"]
    wanted = [each.label for each in classifier(image_files[:6])]
    assert [each["label"] for each in answer.json if "error" not in each] == wanted


def test_of_several_tasks_each_answers_with_its_own_threshold(served: Client, image_files: list[Path]) -> None:
    image = image_files[0].read_bytes()
    first, second = served(f"{PATH}?source=gate", "POST", image, **bearer()).json
    assert (first["task"], second["task"]) == ("what", "sure")
    assert first["score"] == second["score"]
    assert second["label"] is None
    assert first["label"] == first["top"][0]["label"]
    (alone,) = served(f"{PATH}?source=gate&task=sure", "POST", image, **bearer()).json
    assert alone["task"] == "sure"


def test_sources_that_are_asked_different_things_have_to_be_named(served: Client, image_files: list[Path]) -> None:
    image = image_files[0].read_bytes()
    assert served(PATH, "POST", image, **bearer()).json == {"error": "the sources are asked different things: name one"}
    assert served(f"{PATH}?task=what", "POST", image, **bearer()).status == 200  # only one has it
    assert served(f"{PATH}?source=nobody", "POST", image, **bearer()).json == {"error": "there is no source nobody"}


def test_labels_that_were_changed_count(served: Client, image_files: list[Path]) -> None:
    served("/api/labels?source=yard", "PUT", b"teapot\nbicycle", **bearer())
    (found,) = served(f"{PATH}?source=yard&topk=9", "POST", image_files[0].read_bytes(), **bearer()).json
    assert {each["label"] for each in found["top"]} == {"teapot", "bicycle"}


def test_a_picture_that_would_fill_the_memory_is_an_error(client: Client) -> None:
    """8,200 x 8,200 pixels of one colour: 67 kB as PNG, 200 MB decoded. The limit is that of the real pipeline."""
    from attri.runtime.pipeline.sent_images import classify_sent

    bomb = io.BytesIO()
    Image.new("L", (8200, 8200)).save(bomb, "PNG")
    (found,) = classify_sent([SentImage("bomb", bomb.getvalue())], [], (), 1)
    assert isinstance(found, ImageError)
    assert "too large" in str(found)


PNG = io.BytesIO()
Image.new("RGB", (8, 8), "red").save(PNG, "PNG")


@pytest.mark.parametrize(
    ("query", "body", "headers", "status", "words"),
    [
        ("", PNG.getvalue(), {}, 401, "token"),
        ("", b"", bearer(), 400, "no image was sent"),
        ("?topk=0", PNG.getvalue(), bearer(), 400, "topk is a whole number"),
        ("?topk=x", PNG.getvalue(), bearer(), 400, "topk is a whole number"),
        ("?source=nobody", PNG.getvalue(), bearer(), 400, "there is no source nobody"),
        ("", b"x", bearer() | {"Content-Type": "multipart/form-data"}, 400, "No boundary"),
        ("", *form(), 400, "has no file"),
        ("", *form(*[("a.png", PNG.getvalue())] * 33), 400, "more than 32 files"),
        ("", form(("a.png", PNG.getvalue()))[0][:-4], form()[1], 400, "it breaks off"),
        ("", b"no form", form()[1], 400, "cannot be read"),
        ("", bytes((1 << 20) + 1), bearer(), 413, "larger than 1 MB"),
    ],
    ids=["token", "empty", "topk 0", "topk x", "source", "boundary", "no file", "33 files", "torn", "no form", "large"],
)
def test_what_is_refused(
    client: Client, monkeypatch: pytest.MonkeyPatch, query: str, body: bytes, headers: Any, status: int, words: str
) -> None:
    monkeypatch.setattr(classify, "MAX_BYTES", 1 << 20)
    answer = client(f"{PATH}{query}", "POST", body, **headers)
    assert (answer.status, answer.json["error"].count("\n")) == (status, 0)
    assert words in answer.json["error"]


def test_a_field_that_is_no_file_is_named(client: Client) -> None:
    body = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="labels"\r\n\r\ncat\r\n--{BOUNDARY}--\r\n'.encode()
    answer = client(PATH, "POST", body, **form()[1])
    assert (answer.status, answer.json["error"].split(":")[0]) == (400, "labels is no file")


def test_an_engine_that_fails_is_no_fault_of_the_request(open_preview: Any) -> None:
    class Broken(FakeControl):
        def classify(self, *_: object) -> list[list[FrameResult] | ImageError]:
            raise EngineError("out of memory")

    answer = open_preview(Broken())(PATH, "POST", PNG.getvalue(), **bearer())
    assert (answer.status, answer.json) == (500, {"error": "out of memory"})


def test_the_budget_is_a_share_of_the_time() -> None:
    now = [100.0]
    budget = TimeBudget(share=0.5, most=3.0, clock=lambda: now[0])
    assert budget.seconds_to_wait() == 0
    budget.spend(3.0)
    assert budget.seconds_to_wait() == 0  # nothing is owed
    budget.spend(2.0)
    assert budget.seconds_to_wait() == 4.0
    now[0] += 3.0
    assert budget.seconds_to_wait() == 1.0
    now[0] += 1000.0  # what is kept is bounded
    budget.spend(4.0)
    assert budget.seconds_to_wait() == 2.0


def test_who_asks_too_much_is_told_when_to_come_again(open_preview: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(classify, "TimeBudget", lambda: TimeBudget(share=1e-6, most=1e-9))
    client = open_preview(FakeControl())
    assert client(PATH, "POST", PNG.getvalue(), **bearer()).status == 200
    refused = client(PATH, "POST", PNG.getvalue(), **bearer())
    assert refused.status == 429
    assert int(refused.headers["retry-after"]) > 1
    assert "Retry-After" in refused.json["error"]
    assert client("/api/state").status == 200  # the page is served


def test_one_request_is_worked_on_at_a_time_and_few_wait(open_preview: Any) -> None:
    class Slow(FakeControl):
        inside = most = 0
        go = threading.Event()

        def classify(
            self, images: Sequence[SentImage], source: str | None = None, task: str | None = None
        ) -> list[list[FrameResult] | ImageError]:
            self.inside += 1
            self.most = max(self.most, self.inside)
            self.go.wait(20)
            self.inside -= 1
            return super().classify(images, source, task)

    control = Slow()
    client = open_preview(control)
    answers: list[int] = []
    post = lambda: answers.append(client(PATH, "POST", PNG.getvalue(), **bearer()).status)  # noqa: E731
    threads = [threading.Thread(target=post) for _ in range(12)]
    for thread in threads:
        thread.start()
    wait_for(lambda: len(answers) == 4)  # refused at once
    assert client("/api/state").status == 200  # those that wait hold none of the server's threads
    control.go.set()
    for thread in threads:
        thread.join()
    assert sorted(answers) == [200] * 8 + [429] * 4
    assert control.most == 1


@pytest.fixture(scope="module")
def fuzzed() -> Iterator[Client]:
    client = Client(FakeControl("camera0"))
    yield client
    client.preview.close()


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    head=st.sampled_from([b"", b"--x\r\n", b'--x\r\nContent-Disposition: form-data; name="a"; filename="b"\r\n\r\n']),
    body=st.binary(max_size=200),
    kind=st.sampled_from(
        ["multipart/form-data; boundary=x", "multipart/form-data; boundary=", "image/png", "", "x/y;="]
    ),
)
def test_no_body_breaks_it(fuzzed: Client, head: bytes, body: bytes, kind: str) -> None:
    answer = fuzzed(PATH, "POST", head + body, **bearer(), Content_Type=kind)
    assert answer.status in (200, 400)
    json.loads(answer.body)
