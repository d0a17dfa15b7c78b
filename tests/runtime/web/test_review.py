"""Requests about collected images: who may ask, what comes back, and that answers alone are written."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.collected import collect
from support.preview import Client, bearer
from support.results import LABELS, FakeControl, file_size_limit

from attri.runtime.collection.folder import Collection


@pytest.fixture
def names(tmp_path: Path, image_files: list[Path]) -> list[str]:
    """Of seven images, oldest first; the last of them shows none of the labels."""
    names = collect(tmp_path / "collected", 6, image_files)
    return [
        *names,
        *collect(tmp_path / "collected", 1, label=None, reasons=("unknown", "novel"), source="camera0\udcff"),
    ]


@pytest.fixture
def client(open_preview: Callable[..., Client], names: list[str], tmp_path: Path) -> Client:
    return open_preview(FakeControl(), collected=tmp_path / "collected")


def put(client: Client, **edit: Any) -> Any:
    return client("/api/review", "PUT", json.dumps(edit).encode(), **bearer())


def shown(client: Client, query: str = "") -> list[str]:
    return [image["name"] for image in client(f"/api/review{query}").json["images"]]


def test_images_come_newest_first_with_what_is_known(client: Client, names: list[str]) -> None:
    found = client("/api/review").json
    assert [image["name"] for image in found["images"]] == sorted(names, reverse=True)
    assert (found["count"], found["labelled"], found["more"], found["editable"]) == (7, 0, 0, True)
    assert found["labels"] == list(LABELS)
    assert found["said"] == ["red apple", ""]
    assert found["reasons"] == ["novel", "unknown", "unsure"]
    first = found["images"][0]
    assert first["name"] == names[5]
    assert (first["label"], first["score"], first["reasons"], first["answer"]) == ("red apple", 0.5, ["unsure"], None)


def test_the_image_is_the_file(client: Client, names: list[str], tmp_path: Path) -> None:
    answer = client(f"/api/review/image?name={names[0]}")
    assert answer.headers["content-type"] == "image/jpeg"
    assert answer.body == (tmp_path / "collected" / f"{names[0]}.jpg").read_bytes()


@pytest.mark.parametrize("name", ["", "..", "../../etc/passwd", "%2e%2e%2fx", "20260921T141320.250Z_gone", "a%00b"])
def test_no_other_file_can_be_had(client: Client, name: str) -> None:
    assert client(f"/api/review/image?name={name}").status == 404


def test_answers_are_written_beside_the_image_and_nothing_else_is(
    client: Client, names: list[str], tmp_path: Path
) -> None:
    before = {file.name: file.read_bytes() for file in (tmp_path / "collected").iterdir()}
    answer = put(
        client, answers={names[0]: "  かりんご ", names[1]: None, names[2]: "bird"}, forget=[names[2], names[3]]
    )
    assert answer.status == 200
    assert answer.json["answers"] == {
        names[0]: {"label": "かりんご"},
        names[1]: {"label": None},
        names[2]: None,
        names[3]: None,
    }
    files = Collection(tmp_path / "collected")
    assert files.answer(names[0]).label == "かりんご"
    after = {file.name: file.read_bytes() for file in files.path.iterdir()}
    new = {name for name in after if name not in before}
    assert new == {f"{names[0]}.answer.json", f"{names[1]}.answer.json"}
    assert before == {name: data for name, data in after.items() if name not in new}
    assert set(shown(client)) == set(names) - {names[0], names[1]}
    assert set(shown(client, "?show=labelled")) == {names[0], names[1]}
    assert set(shown(client, "?show=all")) == set(names)


def test_images_are_chosen_by_what_was_said_and_why(client: Client, names: list[str]) -> None:
    assert shown(client, "?said=") == [names[6]]
    assert shown(client, "?reason=novel") == [names[6]]
    assert len(shown(client, "?said=red%20apple&reason=unsure")) == 6
    assert shown(client, f"?before={names[1]}") == sorted([names[0], names[6]], reverse=True)


def test_pages_go_on_after_the_last_image(open_preview: Callable[..., Client], tmp_path: Path) -> None:
    names = collect(tmp_path / "many", 60)
    client = open_preview(FakeControl(), collected=tmp_path / "many")
    first = client("/api/review").json
    assert (len(first["images"]), first["more"]) == (48, 12)
    rest = client(f"/api/review?before={first['images'][-1]['name']}").json
    assert (len(rest["images"]), rest["more"]) == (12, 0)
    assert [image["name"] for image in first["images"] + rest["images"]] == names[::-1]


def test_tasks_are_reviewed_one_at_a_time(open_preview: Callable[..., Client], tmp_path: Path) -> None:
    collect(tmp_path / "collected", 2, task="fill")
    collect(tmp_path / "collected", 3, task="defects")
    control = FakeControl(tasks=("defects", "fill"))
    control.set_labels("half = half full; nearly empty\nfull", None, "fill")
    client = open_preview(control, collected=tmp_path / "collected")
    assert (client("/api/review").json["task"], len(shown(client))) == ("defects", 3)
    found = client("/api/review?task=fill").json
    assert (found["tasks"], found["count"], found["labels"]) == (["defects", "fill"], 2, ["half", "full"])


def test_labels_of_a_task_that_is_gone_are_those_of_its_images(
    open_preview: Callable[..., Client], tmp_path: Path
) -> None:
    collect(tmp_path / "collected", 1, task="old")
    client = open_preview(FakeControl(), collected=tmp_path / "collected")
    assert client("/api/review").json["labels"] == list(LABELS)


@pytest.mark.parametrize(
    ("body", "status", "complaint"),
    [
        (b"nonsense", 400, "these are no answers"),
        (b"[]", 400, "these are no answers"),
        (b'{"answers": 1}', 400, "these are no answers"),
        (b'{"forget": [1]}', 400, "names are text"),
        (b'{"answers": {"x": "a\\nb"}}', 400, "text of 1 to 200"),
        (b'{"answers": {"x": " "}}', 400, "text of 1 to 200"),
        (b'{"answers": {"x": 3}}', 400, "text of 1 to 200"),
        (b'{"answers": {"../x": "bird"}}', 404, "there is no image ../x"),
        (b" " * (1 << 20) + b"{}", 413, "larger than 1 MB"),
    ],
)
def test_what_are_no_answers_changes_nothing(client: Client, body: bytes, status: int, complaint: str) -> None:
    answer = client("/api/review", "PUT", body, **bearer())
    assert answer.status == status
    assert complaint in answer.json["error"]
    assert client("/api/review").json["labelled"] == 0


def test_one_wrong_name_of_several_changes_none(client: Client, names: list[str]) -> None:
    assert put(client, answers={names[0]: "bird", "gone": "bird"}).status == 404
    assert client("/api/review").json["labelled"] == 0


def test_a_full_disk_is_told(client: Client, names: list[str], tmp_path: Path) -> None:
    with file_size_limit(5):
        answer = put(client, answers={names[0]: "bird"})
    assert answer.status == 500
    assert not list((tmp_path / "collected").glob("*.answer.json"))
    assert not list((tmp_path / "collected").glob(".*"))


def test_the_rules_of_the_token_are_those_of_the_page(
    open_preview: Callable[..., Client], names: list[str], tmp_path: Path
) -> None:
    edit = json.dumps({"answers": {names[0]: "bird"}}).encode()
    private = open_preview(FakeControl(), collected=tmp_path / "collected")
    assert private("/api/review").status == 200
    assert private("/api/review", "PUT", edit).status == 401
    assert private("/api/review", "PUT", edit, **bearer(), Origin="http://elsewhere.example").status == 403
    public = open_preview(FakeControl(), host="0.0.0.0", collected=tmp_path / "collected")
    assert public("/api/review").status == public(f"/api/review/image?name={names[0]}").status == 401
    assert public("/api/review", **bearer()).status == 200
    for path in ("/review", "/review.js", "/review.css", "/page.js"):
        assert public(path).status == 200
    silent = open_preview(FakeControl(), token=None, collected=tmp_path / "collected")
    assert silent("/api/review").json["editable"] is False
    assert silent("/api/review", "PUT", edit).status == 403
    assert private("/api/review").json["labelled"] == 0


def test_without_a_collection_there_is_nothing(open_preview: Callable[..., Client], tmp_path: Path) -> None:
    client = open_preview(FakeControl())
    assert client("/api/state").json["collects"] is False
    answer = client("/api/review")
    assert (answer.status, "--collect DIR" in answer.json["error"]) == (404, True)
    assert put(client, answers={"x": "bird"}).status == 404
    assert client("/api/review/image?name=x").status == 404
    later = open_preview(FakeControl(), collected=tmp_path / "gone")
    assert later("/api/state").json["collects"] is True
    assert later("/api/review").status == 500
