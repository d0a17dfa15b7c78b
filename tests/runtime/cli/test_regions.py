"""`attri-run` with regions: of the command line and of a sources file, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from PIL import Image

from attri.runtime import Classifier
from attri.runtime.cli.run import main

LABELS = ["red apple", "bird", "cat"]


@pytest.fixture
def folder(image_files: list[Path], tmp_path: Path) -> Path:
    """wide.png: two images side by side, on a blue ground; labels files; a sources file with the two as regions."""
    left, right = (Image.open(file).convert("RGB") for file in image_files[:2])
    wide = Image.new("RGB", (3 * left.width, left.height), "blue")
    wide.paste(left, (0, 0))
    wide.paste(right, (2 * left.width, 0))
    wide.save(tmp_path / "wide.png")
    left.save(tmp_path / "left.png")
    right.save(tmp_path / "right.png")
    (tmp_path / "labels.txt").write_text("\n".join(LABELS))
    (tmp_path / "other.txt").write_text("car\nhouse\n")
    side = left.width
    (tmp_path / "sources.toml").write_text(
        f"""
        [gate]
        uri = "wide.png"
        [gate.regions.left]
        roi = [0, 0, {side}, {side}]
        [gate.regions.right]
        roi = [{2 * side}, 0, {side}, {side}]
        labels = "other.txt"
        threshold = 1
        """
    )
    return tmp_path


def run(bundle: Path, *words: object) -> Result:
    return CliRunner().invoke(main, [*map(str, words), "--bundle", str(bundle), "--threads", "1"])


def objects(result: Result) -> list[dict[str, Any]]:
    assert result.exit_code == 0, result.output
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_named_regions_of_the_command_line(bundle: Path, folder: Path) -> None:
    with Image.open(folder / "left.png") as image:
        side = image.width
    regions = ["--roi", f"left=0,0,{side},{side}", "--roi", f"right={2 * side},0,{side},{side}"]
    found = objects(run(bundle, folder / "wide.png", "--json", "--labels", folder / "labels.txt", *regions))
    classifier = Classifier.load(bundle, LABELS, threads=1)
    assert [each["source"] for each in found] == [f"{folder / 'wide.png'}/left", f"{folder / 'wide.png'}/right"]
    for each, name in zip(found, ("left.png", "right.png"), strict=True):
        wanted = classifier(folder / name)
        assert each["label"] == wanted.label
        assert each["score"] == pytest.approx(wanted.score, abs=1e-5)  # two rows in one product of float32
        assert each["retrieved"] == wanted.retrieved.tolist()


def test_regions_of_a_sources_file_have_labels_and_thresholds_of_their_own(bundle: Path, folder: Path) -> None:
    words = ["--sources", folder / "sources.toml", "--json", "--topk", "9", "--labels", folder / "labels.txt"]
    left, right = objects(run(bundle, *words))
    assert {each["label"] for each in left["top"]} == {*LABELS}
    assert {each["label"] for each in right["top"]} == {"car", "house"}
    assert left["label"] in LABELS
    assert right["label"] is None


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--roi", "0,0,8,8", "--roi", "1,1,8,8"], "--roi: several regions need names"),
        (["--roi", "a=0,0,8,8", "--roi", "1,1,8,8"], "--roi: several regions need names"),
        (["--roi", "a=0,0,8,8", "--roi", "a=1,1,8,8"], "--roi: two regions are called a"),
        (["--roi", "a b=0,0,8,8"], "a region cannot be called 'a b'"),
        (["--roi", "a=0,0,8"], "is not x,y,width,height in pixels"),
    ],
)
def test_what_is_refused(bundle: Path, folder: Path, words: list[str], message: str) -> None:
    result = run(bundle, folder / "wide.png", *words)
    assert result.exit_code == 2
    assert message in result.output


def test_two_of_one_name_are_refused(bundle: Path, folder: Path) -> None:
    with (folder / "sources.toml").open("a") as file:
        file.write('["gate/left"]\nuri = "left.png"\n')
    result = run(bundle, "--sources", folder / "sources.toml")
    assert (result.exit_code, "a source and a region are both called gate/left" in result.output) == (2, True)


@pytest.mark.parametrize("region", ["a=0,0,8,8", "0,0,8,8"])
def test_a_source_keeps_its_own_regions(bundle: Path, folder: Path, region: str) -> None:
    result = run(bundle, "--sources", folder / "sources.toml", "--roi", region)
    assert (result.exit_code, "--roi: every source has regions of its own" in result.output) == (2, True)
    objects(run(bundle, "gate", folder / "left.png", "--sources", folder / "sources.toml", "--roi", region, "--json"))
