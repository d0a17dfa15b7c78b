"""README, CONTRIBUTING and the manual: what a page says to type works, or the page says why it is not run here.

An indented block is run as it stands, Python by exec and all else by bash, in a folder with a bundle, labels, images
and some of the checkout's drawings. A comment before a block takes it out: `<!-- not run: REASON -->`, or
`<!-- run by FILE -->`, a test's.
"""

from __future__ import annotations

import importlib
import os
import re
import shutil
import subprocess
import sys
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import click
import pytest
from test_imports import FLOOR, room_of

from attri.export.cli import main as attri_export
from attri.fleet.cli.bundle import main as attri_bundle
from attri.runtime.cli.batch import main as attri_batch
from attri.runtime.cli.collect import main as attri_collect
from attri.runtime.cli.doctor import main as attri_doctor
from attri.runtime.cli.run import main as attri_run
from attri.runtime.cli.search import main as attri_search
from attri.train.cli import main as attri_train

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
COMMANDS = {
    "train": attri_train,
    "export": attri_export,
    "run": attri_run,
    "batch": attri_batch,
    "search": attri_search,
    "collect": attri_collect,
    "bundle": attri_bundle,
    "doctor": attri_doctor,
}
OTHERS = {  # options of programs that are not ours, and click's own
    *("--help", "--no-deps", "--wheel-dir", "--system-site-packages", "--inplace", "--now", "--remove-retained"),
    *("--retained-only", "--build-arg", "--rm", "--runtime", "--nproc_per_node", "--no-python", "--data-binary"),
    *("--arg", "--rawfile"),
}


class Block(NamedTuple):
    """A block of code and the comment before it."""

    code: str
    marker: str  # "" where it is to be run

    @property
    def is_python(self) -> bool:
        return self.code.startswith(("from ", "import "))


def blocks(page: Path) -> list[Block]:
    found, marker, lines = [], "", page.read_text(encoding="utf-8").splitlines()
    end = 0
    for number, line in enumerate(lines):
        if line.startswith("<!-- "):
            marker = line
        elif line.startswith("    ") and number >= end and not lines[number - 1].strip():
            end = number
            while end < len(lines) and (lines[end].startswith("    ") or not lines[end].strip()):
                end += 1
            code = "\n".join(each[4:] for each in lines[number:end]).strip() + "\n"
            if not _in_list(lines, number) and "mkdocs-click" not in lines[number - 1]:
                found.append(Block(code, marker))
            marker = ""
        elif line.strip() and number >= end:
            marker = ""
    return found


def _in_list(lines: list[str], number: int) -> bool:
    """Whether an indented line goes on with an item of a list."""
    above = [line for line in lines[:number] if line.strip() and not line.startswith(" ")]
    return bool(above) and re.match(r"([-*]|\d+\.) ", above[-1]) is not None


def name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


@pytest.fixture
def desk(bundle: Path, photos: Path, image_files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder as a reader of the pages has it, and the current one."""
    drawings = Path("train/pocket/images/twemoji")
    for part, count in (("train", 4), ("test", 2)):  # a few of the checkout's, so that training and export are short
        for label in ("fruit", "bird", "tool"):
            (tmp_path / drawings / part / label).mkdir(parents=True)
            for file in sorted((ROOT / drawings / part / label).iterdir())[:count]:
                shutil.copy(file, tmp_path / drawings / part / label)
    shutil.copytree(bundle, tmp_path / "bundle")
    shutil.copytree(photos, tmp_path / "images")
    shutil.copy(image_files[0], tmp_path / "photo.png")
    (tmp_path / "labels.txt").write_text("green apple\nbird\ntool\n", encoding="utf-8")
    for command, main in COMMANDS.items():  # as pip installs them, of this checkout
        module = main.callback.__module__
        script = tmp_path / ".bin" / f"attri-{command}"
        script.parent.mkdir(exist_ok=True)
        script.write_text(f'#!/bin/sh\nexec {sys.executable} -m {module} "$@"\n', encoding="utf-8")
        script.chmod(0o755)
    monkeypatch.setenv("ATTRI_KEYS_PASSPHRASE", "a long one")  # each block has a shell of its own
    monkeypatch.setenv("PATH", f"{tmp_path / '.bin'}:{Path(sys.executable).parent}:{os.environ['PATH']}")
    monkeypatch.chdir(tmp_path)
    return tmp_path


RUN = [page for page in PAGES if any(not block.marker for block in blocks(page))]


@pytest.mark.parametrize("page", RUN, ids=name)
def test_what_a_page_says_to_type_works(page: Path, desk: Path) -> None:
    scope: dict[str, object] = {}
    for block in blocks(page):
        if block.marker:
            continue
        if block.is_python:
            exec(block.code, scope)
            continue
        done = subprocess.run(["bash", "-ec", block.code], capture_output=True, text=True)
        assert done.returncode == 0, f"{block.code}\n{done.stderr}"


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_what_is_not_run_says_why(page: Path) -> None:
    for block in blocks(page):
        if by := re.fullmatch(r"<!-- run by (\S+) -->", block.marker):
            assert (ROOT / by[1]).exists()
        elif block.marker:
            assert re.fullmatch(r"<!-- not run: .{8,} -->", block.marker)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_tests_that_a_page_names_exist(page: Path) -> None:
    for file, test in re.findall(r"`(test_\w+\.py)::(test_\w+)`", page.read_text(encoding="utf-8")):
        files = list((ROOT / "tests").rglob(file))
        assert any(f"def {test}(" in each.read_text(encoding="utf-8") for each in files), f"{file}::{test}"


def options(command: click.Command) -> set[str]:
    own = {option for each in command.params for option in [*each.opts, *each.secondary_opts]}
    return own.union(*map(options, command.commands.values())) if isinstance(command, click.Group) else own


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_options_that_a_page_names_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    every = set[str]().union(*map(options, COMMANDS.values()))
    assert set(re.findall(r"(?<![-\w])--[a-z][\w-]+", text)) - every - OTHERS == set()
    for command, rest in re.findall(r"\battri-(train|export|run|batch|search|collect|bundle|doctor)\b([^`\n#]*)", text):
        own = options(COMMANDS[command])
        if rest.startswith(" ") and "attri-" not in rest:
            assert set(re.findall(r" (--[a-z][\w-]+)", rest.partition(" (")[0].partition(", `")[0])) <= own, rest


def test_a_frames_walk_goes_down_the_house_once_and_up_once() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    modules = re.findall(r"^\| \d+ \| `(attri\.[\w.]+)`", text, re.MULTILINE)
    assert len(modules) > 10
    for module in modules:
        importlib.import_module(module)
    rooms = [room for room, _ in groupby(modules, room_of)]
    assert len(rooms) == len(set(rooms))
    floors = [FLOOR[room] for room in rooms]
    ground = floors.index(min(floors))
    assert floors[: ground + 1] == sorted(floors[: ground + 1], reverse=True)
    assert floors[ground:] == sorted(floors[ground:])


def test_the_floors_in_contributing_are_those_that_hold() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    for floor, rooms in re.findall(r"^\| (\d) \| ([^|]+) \|", text, re.MULTILINE):
        for room in re.findall(r"`(\w+)`", rooms):
            assert FLOOR[f"attri.runtime.{room}"] == int(floor)


def test_files_that_contributing_names_exist() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    for file in re.findall(r"`((?:runtime|train|export|tests|docs)/[\w./]+)`", text):
        assert (ROOT / file).exists(), file
