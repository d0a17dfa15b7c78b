"""Words that name the files of a dataset."""

from __future__ import annotations

from pathlib import Path

import pytest

from attri.runtime.dataset.files import UnreadableError, expand_braces, find_files, kind_of, open_file
from attri.runtime.errors import UsageError


@pytest.mark.parametrize(
    ("word", "names"),
    [
        ("a.tar", ["a.tar"]),
        ("{008..011}.tar", ["008.tar", "009.tar", "010.tar", "011.tar"]),
        ("{a,b}/{0..1}.tar", ["a/0.tar", "a/1.tar", "b/0.tar", "b/1.tar"]),
        ("s3://bucket/{x}.tar", ["s3://bucket/x.tar"]),
    ],
)
def test_braces_stand_for_names(word: str, names: list[str]) -> None:
    assert expand_braces(word) == names


@pytest.mark.parametrize("word", ["{0..9999999}.tar", "{0..999}{0..999}{0..9}.tar", "{9..1}.tar"])
def test_braces_stand_for_a_bounded_number_of_names(word: str) -> None:
    with pytest.raises(UsageError, match="stands for"):
        expand_braces(word)


def test_kinds_are_told_by_suffixes() -> None:
    assert kind_of("https://host/a.TAR?token=x.png") == "tar"
    assert kind_of("s3://bucket/photo.JPEG") == "image"
    assert kind_of("part-0.parquet") == "parquet"
    assert kind_of("notes.txt") is None


IMAGES = ["a/2.JPG", "b/1.png", "x{1}.png", "ü.png"]  # of the tree, in order


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in ("b/1.png", "a/2.JPG", "a/note.txt", ".hidden/3.png", "__MACOSX/4.png", "x{1}.png", "ü.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    return tmp_path


def test_a_folder_is_searched_at_all_depths_without_what_tools_leave_there(tree: Path) -> None:
    kind, files = find_files(str(tree))
    assert kind == "image"
    assert [Path(file.path).relative_to(tree).as_posix() for file in files] == [
        "a/2.JPG",
        "b/1.png",
        "x{1}.png",
        "ü.png",
    ]


def test_globs_and_files_that_have_braces_in_their_names(tree: Path) -> None:
    assert [Path(file.path).name for file in find_files(f"{tree}/*/*.*")[1]] == ["2.JPG", "1.png"]
    assert [Path(file.path).name for file in find_files(f"{tree}/x{{1}}.png")[1]] == ["x{1}.png"]


def test_a_storage_is_searched_like_a_folder(tree: Path) -> None:
    fsspec = pytest.importorskip("fsspec")
    memory = fsspec.filesystem("memory")
    for path in tree.rglob("*.*"):
        if path.is_file():
            memory.pipe(f"/set/{path.relative_to(tree).as_posix()}", path.read_bytes())
    kind, files = find_files("memory://set")
    assert kind == "image"
    assert [file.path for file in files] == [
        f"memory:///set/{name}" for name in ("a/2.JPG", "b/1.png", "x{1}.png", "ü.png")
    ]
    assert len(find_files("memory://set/*/*.png")[1]) == 1


def test_what_names_nothing_says_so(tree: Path) -> None:
    pytest.importorskip("fsspec")
    for word, said in {
        f"{tree}/nowhere": "does not exist",
        f"{tree}/a/note.txt": "names no images, tars or Parquet files",
        f"{tree}/*.tar": "names no images",
        "memory://nowhere/at/all": "does not exist",
        "nonsense://bucket/a.tar": "nonsense",
    }.items():
        with pytest.raises(UsageError, match=said):
            find_files(word)
    (tree / "c.tar").write_bytes(b"")
    with pytest.raises(UsageError, match="several kinds"):
        find_files(str(tree))


def test_a_file_that_cannot_be_opened_shows_no_password() -> None:
    with pytest.raises(UnreadableError, match=r"http://\*\*\*@127.0.0.1:9/a.tar cannot be read") as raised:
        open_file("http://user:hunter2@127.0.0.1:9/a.tar")
    assert "hunter2" not in str(raised.value)
