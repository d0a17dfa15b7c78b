"""Labelled images to the formats of other tools and back, read by those tools where they are installed.

Not in the extras of development, because of what they bring along; a test is skipped where its tool is missing:
pip install label-studio-sdk, pip install datumaro (which reads and writes CVAT's formats), pip install fiftyone.
"""

from __future__ import annotations

import csv
import importlib.util
import json
import zipfile
from pathlib import Path

import pytest
from support.collected import collect

from attri.runtime.collection.exchange import export_images, import_answers, labelled_images
from attri.runtime.collection.folder import Collection
from attri.runtime.collection.formats.base import name_in
from attri.runtime.collection.formats.table import FORMATS
from attri.runtime.errors import UsageError
from attri.train.data.read import read_target

SAID = ["red apple", "かりんご", "red apple", "a & b, <c>", None]  # and one more image that nobody has labelled


@pytest.fixture
def files(tmp_path: Path, image_files: list[Path]) -> Collection:
    names = collect(tmp_path / "collected", 6, image_files)
    files = Collection(tmp_path / "collected")
    files.set_answers(dict(zip(names, SAID, strict=False)))
    return files


def answers(files: Collection) -> dict[str, str | bool | None]:
    """By name; False where there is none."""
    found = {name: files.answer(name) for name in files.content().names}
    return {name: False if answer is None else answer.label for name, answer in found.items()}


def output(tmp_path: Path, format: str) -> Path:
    return tmp_path / {"csv": "labelled.csv", "cvat": "labelled.zip"}.get(format, "labelled")


@pytest.mark.parametrize("format", FORMATS)
def test_what_is_written_is_read_again(files: Collection, tmp_path: Path, format: str) -> None:
    before = answers(files)
    exported = export_images(files, output(tmp_path, format), format)
    assert exported.labels == {"a & b, <c>": 1, "red apple": 2, "かりんご": 1}
    assert (exported.unlabelled, exported.negatives) == (1, 1)
    for name in before:
        files.remove_answer(name)
    taken, foreign = import_answers(files, output(tmp_path, format), format)
    assert foreign == 0
    if format != "label-studio":  # the others have no word for none of the labels
        before = {name: False if label is None else label for name, label in before.items()}
    assert answers(files) == before
    assert taken == sum(label is not False for label in before.values())


def images_of(path: Path) -> dict[str, bytes]:
    if path.suffix == ".zip":
        with zipfile.ZipFile(path) as archive:
            return {each: archive.read(each) for each in archive.namelist()}
    return {file.relative_to(path).as_posix(): file.read_bytes() for file in path.rglob("*.jpg")}


@pytest.mark.parametrize("format", ["folder", "label-studio", "cvat", "fiftyone"])
def test_images_are_the_same_bytes(files: Collection, tmp_path: Path, format: str) -> None:
    export_images(files, output(tmp_path, format), format)
    found = images_of(output(tmp_path, format))
    assert len(found) == {"label-studio": 6, "fiftyone": 5}.get(format, 4)
    for path, data in found.items():
        assert data == files.image(name_in(path)).read_bytes()


@pytest.mark.parametrize("format", ["folder", "csv"])
def test_training_reads_it_as_it_is(files: Collection, tmp_path: Path, format: str) -> None:
    export_images(files, output(tmp_path, format), format, predicted=True)
    data = read_target(output(tmp_path, format))
    assert sorted(data.classes) == ["a & b, <c>", "red apple", "かりんご"]


def test_negatives_have_a_folder_of_their_own(files: Collection, tmp_path: Path) -> None:
    export_images(files, tmp_path / "labelled", "folder", negatives=tmp_path / "none")
    (negative,) = (tmp_path / "none").iterdir()
    assert answers(files)[negative.stem] is None
    assert negative.read_bytes() == files.image(negative.stem).read_bytes()


def test_what_nobody_has_labelled_may_go_with_the_prediction(files: Collection) -> None:
    last = labelled_images(files, predicted=True)[-1]
    assert (last.label, last.answered) == ("red apple", False)
    assert labelled_images(files)[-1].label is None


def test_the_table_says_where_images_came_from(files: Collection, tmp_path: Path) -> None:
    export_images(files, tmp_path / "labelled.csv", "csv")
    with (tmp_path / "labelled.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows[3] == {
        "path": f"collected/{rows[3]['name']}.jpg",
        "label": "a & b, <c>",
        "name": "20260921T141323.250Z_camera0_3",
        "predicted": "red apple",
        "score": "0.500000",
        "reasons": "unsure",
        "source": "camera0",
        "task": "",
        "time": "2026-09-21T14:13:23.250Z",
    }


@pytest.mark.parametrize("label", ["a/b", "..", "_unlabeled", "x" * 300, "nul\0"])
@pytest.mark.parametrize("format", ["folder", "cvat", "fiftyone"])
def test_a_label_that_is_no_folder_is_told_and_nothing_is_left(tmp_path: Path, label: str, format: str) -> None:
    (name,) = collect(tmp_path / "collected", 1)
    files = Collection(tmp_path / "collected")
    files.set_answers({name: label})
    with pytest.raises(UsageError, match="no folder can be called"):
        export_images(files, tmp_path / "labelled", format)
    assert [path.name for path in tmp_path.iterdir()] == ["collected"]
    export_images(files, tmp_path / "labelled", "label-studio")


def test_a_full_disk_leaves_nothing(files: Collection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("shutil.copyfile", full)
    with pytest.raises(OSError, match="No space"):
        export_images(files, tmp_path / "labelled", "folder")
    assert [path.name for path in tmp_path.iterdir()] == ["collected"]


def test_what_exists_is_not_written_over(files: Collection, tmp_path: Path) -> None:
    (tmp_path / "labelled").mkdir()
    with pytest.raises(UsageError, match="exists"):
        export_images(files, tmp_path / "labelled", "folder")
    with pytest.raises(UsageError, match="make it first"):
        export_images(files, tmp_path / "gone" / "labelled", "folder")


def test_answers_that_differ_are_replaced_only_if_asked(files: Collection, tmp_path: Path) -> None:
    export_images(files, tmp_path / "labelled.csv", "csv")
    first, second, *_ = files.content().names
    files.set_answers({first: "bird"})
    files.remove_answer(second)
    before = answers(files)
    with pytest.raises(UsageError, match=r"has 1 other answer, the first for .*_0: `replace`"):
        import_answers(files, tmp_path / "labelled.csv", "csv")
    assert answers(files) == before
    assert import_answers(files, tmp_path / "labelled.csv", "csv", replace=True) == (2, 0)
    assert answers(files) == before | {first: "red apple", second: "かりんご"}


def test_images_of_another_collection_are_counted(files: Collection, tmp_path: Path) -> None:
    export_images(files, tmp_path / "labelled.csv", "csv")
    fewer = Collection(tmp_path / "fewer")
    collect(fewer.path, 1)
    assert import_answers(fewer, tmp_path / "labelled.csv", "csv") == (1, 3)
    with (tmp_path / "theirs.csv").open("w") as file:
        file.write("path,label\nphoto.jpg,bird\n")
    with pytest.raises(UsageError, match="none of its 1 image"):
        import_answers(files, tmp_path / "theirs.csv", "csv")


@pytest.mark.parametrize(
    ("format", "content", "complaint"),
    [
        ("csv", "a,b\n1,2\n", "first line"),
        ("csv", "name,label\nx,bird\nx,tool\n", "x has two labels"),
        ("csv", 'name,label\n"x\n', "not a CSV table"),
        ("csv", "name,label\n", "says nothing"),
        ("csv", b"name,label\n\xff,a\n", "not UTF-8 at byte 11"),
        ("label-studio", "{}", "not a list"),
        ("label-studio", "[1]", "no export of Label Studio"),
        ("label-studio", "nonsense", "no export of Label Studio"),
        ("label-studio", '[{"data": {"name": "x"}, "annotations": [{}]}]', "no export of Label Studio"),
        ("label-studio", '[{"name": "x", "label": {"choices": ["a", "b"]}}]', "an image has the labels a, b"),
        ("csv", f"name,label\nx,{'a' * 201}\n", "a label is text of 1 to 200 characters"),
        ("csv", 'name,label\nx,"a\nb"\n', "a label is text of 1 to 200 characters on one line"),
        ("cvat", "nonsense", "not a zip archive"),
        ("folder", "nonsense", "not a folder"),
    ],
)
def test_what_is_no_such_file_changes_nothing(
    files: Collection, tmp_path: Path, format: str, content: str | bytes, complaint: str
) -> None:
    before = answers(files)
    (tmp_path / "theirs").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UsageError, match=complaint):
        import_answers(files, tmp_path / "theirs", format)
    assert answers(files) == before


def test_exports_of_label_studio_as_it_writes_them(files: Collection, tmp_path: Path) -> None:
    """Of 1.x: a task with two annotations, one of them cancelled; one of another annotator without a choice; none."""
    first, second, third, *_ = files.content().names
    for name in (first, second, third):
        files.remove_answer(name)
    choice = {"id": "a", "type": "choices", "value": {"choices": ["bird"]}, "from_name": "label", "to_name": "image"}
    url = "/data/local-files/?d=images/{}.jpg"
    tasks = [
        {
            "id": 1,
            "data": {"image": url.format(first)},
            "annotations": [
                {"id": 4, "was_cancelled": True, "result": []},
                {"id": 5, "was_cancelled": False, "result": [choice], "lead_time": 3.1},
            ],
            "predictions": [],
        },
        {"id": 2, "data": {"image": url.format(second)}, "annotations": [{"id": 6, "result": []}]},
        {"id": 3, "data": {"image": url.format(third)}, "annotations": []},
    ]
    (tmp_path / "export.json").write_text(json.dumps(tasks))
    assert import_answers(files, tmp_path / "export.json", "label-studio") == (2, 0)
    assert [answers(files)[name] for name in (first, second, third)] == ["bird", None, False]
    least = [{"id": 3, "image": url.format(third), "label": "tool", "annotator": 1}]
    (tmp_path / "min.json").write_text(json.dumps(least))
    assert import_answers(files, tmp_path / "min.json", "label-studio") == (1, 0)
    assert answers(files)[third] == "tool"


@pytest.mark.parametrize("path", ["{}.jpg", "red apple/{}.jpg", "red apple_{}.jpg", "upload/12-{}.jpg", "{}"])
def test_names_are_found_in_the_names_that_tools_make(path: str) -> None:
    name = "20260921T141320.250Z_door-left_fill_3-2"
    assert name_in(path.format(name)) == name


def needs(module: str) -> pytest.MarkDecorator:
    package = {"label_studio_sdk": "label-studio-sdk"}.get(module, module)
    return pytest.mark.skipif(importlib.util.find_spec(module) is None, reason=f"pip install {package}")


@needs("label_studio_sdk")
@pytest.mark.filterwarnings("default")  # of what it imports
def test_label_studio_takes_tasks_predictions_and_annotations(files: Collection, tmp_path: Path) -> None:
    from label_studio_sdk.converter import Converter
    from label_studio_sdk.label_interface import LabelInterface

    export_images(files, tmp_path / "labelled", "label-studio")
    interface = LabelInterface((tmp_path / "labelled" / "config.xml").read_text(encoding="utf-8"))
    interface.validate()
    tasks = json.loads((tmp_path / "labelled" / "tasks.json").read_bytes())
    assert len(tasks) == 6
    for task in tasks:
        assert interface.validate_task({"data": task["data"]})  # it calls its own check of annotations wrongly
        assert interface.validate_prediction(task["predictions"][0])
        assert all(map(interface.validate_annotation, task.get("annotations", [])))
    # Its own converter makes JSON-MIN of an export, which we read again.
    export = [task | {"id": i, "annotations": task.get("annotations", [])} for i, task in enumerate(tasks)]
    for task in export:
        for number, annotation in enumerate(task["annotations"]):
            annotation["id"] = number
    (tmp_path / "export.json").write_text(json.dumps(export), encoding="utf-8")
    converter = Converter((tmp_path / "labelled" / "config.xml").read_text(encoding="utf-8"), str(tmp_path))
    converter.convert_to_json_min(str(tmp_path / "export.json"), str(tmp_path / "min"), is_dir=False)
    before = answers(files)
    for name in before:
        files.remove_answer(name)
    (file,) = (tmp_path / "min").iterdir()
    import_answers(files, file, "label-studio")
    assert {name: label for name, label in answers(files).items() if label} == {k: v for k, v in before.items() if v}


@needs("datumaro")
@pytest.mark.filterwarnings("default")
def test_datumaro_takes_the_archive_of_cvat_and_ours_takes_its_export(files: Collection, tmp_path: Path) -> None:
    from datumaro.components.dataset import Dataset

    export_images(files, tmp_path / "labelled.zip", "cvat")
    with zipfile.ZipFile(tmp_path / "labelled.zip") as archive:
        archive.extractall(tmp_path / "unpacked")
    dataset = Dataset.import_from(str(tmp_path / "unpacked"), "imagenet")
    before = {name: label for name, label in answers(files).items() if label}
    labels = dataset.categories()[next(iter(dataset.categories()))]
    found = {name_in(item.id): labels[item.annotations[0].label].name for item in dataset}
    assert found == before
    dataset.export(str(tmp_path / "back"), "imagenet", save_media=True)
    for name in before:
        files.remove_answer(name)
    import_answers(files, tmp_path / "back", "folder")
    assert {name: label for name, label in answers(files).items() if label} == before


@needs("fiftyone")
@pytest.mark.filterwarnings("default")
def test_fiftyone_takes_the_directory_tree(files: Collection, tmp_path: Path) -> None:
    from fiftyone.utils.data.importers import ImageClassificationDirectoryTreeImporter

    export_images(files, tmp_path / "labelled", "fiftyone")
    importer = ImageClassificationDirectoryTreeImporter(str(tmp_path / "labelled"))
    importer.setup()
    found = {name_in(path): label and label.label for path, _, label in importer}
    said = {name: label or None for name, label in answers(files).items() if label is not None}
    assert found == said
    assert len(list((tmp_path / "labelled" / "_unlabeled").iterdir())) == 1
