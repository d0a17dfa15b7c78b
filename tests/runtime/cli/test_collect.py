"""attri-collect: exports and imports by the command, its exit codes, and one line for what cannot be."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.collected import collect

from attri.runtime.cli.collect import main
from attri.runtime.collection.folder import Collection


def run(*words: object) -> int:
    with pytest.raises(SystemExit) as stop:
        main(list(map(str, words)), prog_name="attri-collect")
    return int(stop.value.code or 0)


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Collection:
    monkeypatch.chdir(tmp_path)
    names = collect(Path("collected"), 3)
    files = Collection(Path("collected"))
    files.set_answers({names[0]: "bird", names[1]: None})
    return files


def test_there_and_back(files: Collection, capfd: pytest.CaptureFixture[str]) -> None:
    assert run("export", "collected", "labelled", "--format", "label-studio") == 0
    assert (
        "labelled: 1 image of 1 label; also 1 without a label, 1 that is none of the labels" in capfd.readouterr().err
    )
    assert len(json.loads(Path("labelled/tasks.json").read_bytes())) == 3
    first, second, _ = files.content().names
    files.remove_answer(first)
    assert run("import", "collected", "labelled", "--format", "label-studio") == 0
    assert "collected: 1 new answer taken over" in capfd.readouterr().err
    assert files.answer(first).label == "bird"
    assert files.answer(second).label is None


@pytest.mark.parametrize(
    ("words", "code", "complaint"),
    [
        ("export gone out --format csv", 2, "gone: No such file or directory"),
        ("export collected out", 2, "Missing option '--format'"),
        ("export collected out --format xml", 2, "'xml' is not one of"),
        ("export collected collected --format csv", 2, "collected exists: name another"),
        ("export collected out --format csv --replace", 2, "--replace is for import"),
        ("import collected out --format csv --predicted", 2, "--predicted is for export"),
        ("import collected out --format csv", 2, "out does not exist: name what the other tool has written"),
        ("import collected collected --format folder", 2, "collected says nothing of any image"),
    ],
)
def test_what_cannot_be_is_one_line(
    files: Collection, words: str, code: int, complaint: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(*words.split()) == code
    err = capfd.readouterr().err
    assert complaint in err
    assert "Traceback" not in err
    assert not Path("out").exists()


def test_an_empty_folder_says_what_fills_it(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run("export", tmp_path, tmp_path / "out", "--format", "csv") == 2
    assert "holds no collected images: attri-run --collect DIR makes them" in capfd.readouterr().err


def test_nothing_labelled_says_what_to_do(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    collect(tmp_path / "collected", 1)
    assert run("export", tmp_path / "collected", tmp_path / "out", "--format", "folder") == 2
    assert "label on the page /review, or give --predicted" in capfd.readouterr().err
    assert run("export", tmp_path / "collected", tmp_path / "out", "--format", "folder", "--predicted") == 0
