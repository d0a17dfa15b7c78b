"""What the project promises about itself: README's lines work, and the wheel holds all that it needs."""

from __future__ import annotations

import importlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
RESULTS = (ROOT / "docs" / "explanation" / "results.md").read_text(encoding="utf-8")
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def test_the_three_commands_as_readme_writes_them(tmp_path):
    lines = re.findall(r"^    (attri-(?:train|export|run).*?)(?:  +#.*)?$", README, re.MULTILINE)[:3]
    assert [line.split()[0] for line in lines] == ["attri-train", "attri-export", "attri-run"]
    for line in re.findall(r"^    ((?:cp|printf) .*)$", README, re.MULTILINE):
        words = line.replace("train/pocket", f"{ROOT}/train/pocket")
        subprocess.run(["/bin/sh", "-c", words], cwd=tmp_path, check=True)
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    for line in lines:
        done = subprocess.run(line.split(), cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"photo.png  (green apple|bird|tool)  ?\d+\.\d%\n", done.stdout)


def test_a_wheel_is_built_before_it_is_copied():
    for page in PAGES:
        for block in re.findall(r"(?:^    .*\n)+", page.read_text(encoding="utf-8"), re.MULTILINE):
            before, copies, _ = block.partition("rsync")
            assert not copies or "pip wheel" in before, page
            before, builds, _ = block.partition("docker build")
            assert not builds or "pip wheel" in before, page


def test_the_python_lines_of_readme(bundle, tmp_path, image_files, monkeypatch):
    code = "\n".join(re.findall(r"^    ((?:from attri|classifier|prediction).*)$", README, re.MULTILINE))
    shutil.copytree(bundle, tmp_path / "bundle")
    shutil.copy(image_files[0], tmp_path / "photo.png")
    monkeypatch.chdir(tmp_path)
    scope = {}
    exec(code, scope)
    assert scope["classifier"].labels == ("cat", "dog")
    assert scope["classifier"].cache.misses == 1


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_files_and_headings_that_a_page_names_exist(page):
    for target in re.findall(r"\]\(([^):]+)\)", page.read_text(encoding="utf-8")):
        name, _, heading = target.partition("#")
        file = page.parent / name if name else page
        assert file.exists(), target
        if heading:
            titles = re.findall(r"^#+ (.+)$", file.read_text(encoding="utf-8"), re.MULTILINE)
            assert heading in [re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles], target


@pytest.mark.skipif(shutil.which("git") is None, reason="a source tree without git cannot be listed")
def test_the_wheel_holds_every_tracked_file_of_the_packages(tmp_path, monkeypatch):
    """The source archive and the rest of a release: make dist, which checks them with the same tool."""
    monkeypatch.syspath_prepend(ROOT)
    check_dist = importlib.import_module("tools.check_dist")
    tracked, source = check_dist.tracked(), tmp_path / "source"
    for name in tracked:
        if name.split("/")[0] in check_dist.PACKAGES or "/" not in name:
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, source / name)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(tmp_path), str(source)]
    subprocess.run(command, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    assert check_dist.check_wheel(wheel, tracked) == []
    assert check_dist.check_wheel(wheel, tracked | {"train/gone.py"}) == [f"{wheel.name} lacks attri/train/gone.py"]
    assert wheel.stat().st_size < 14 << 20


def test_figures_in_tables_are_the_benchmarks_last_results():
    measured = {line for file in (ROOT / "benchmarks").glob("*.md") for line in file.read_text("utf-8").splitlines()}
    rows = re.findall(r"^\|.*\d.*\| [-\d.%() ]+\|$", README + RESULTS, re.MULTILINE)
    assert len(rows) > 10
    assert [row for row in rows if row not in measured] == []


def test_accuracy_in_tables_is_the_benchmarks_last_result():
    """Rows of harmonic means: zero-shot, static, AttriPrompt, and its differences to both with their intervals."""
    measured = []
    for file in (ROOT / "benchmarks").glob("accuracy*.md"):
        for section in file.read_text("utf-8").split("\n### ")[1:]:
            lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in section.splitlines()]
            of = {cells[0]: cells for cells in lines if len(cells) == 8}
            if "attriprompt" in of:
                ours = of["attriprompt"]
                measured.append([of["zero-shot"][4], of["static"][4], ours[4], ours[5], ours[6]])
    rows = [row for row in (README + RESULTS).splitlines() if re.match(r"^\|.*\[.*\].*\[.*\]", row)]
    assert len(rows) >= 7
    for row in rows:
        cells = [cell.strip(" *") for cell in row.split("|")[1:-1]]
        assert cells[-5:] in measured, row


@pytest.mark.parametrize("file", sorted((ROOT / "benchmarks").glob("*.py")), ids=lambda file: file.stem)
def test_every_benchmark_finds_what_it_imports(file, monkeypatch):
    monkeypatch.syspath_prepend(ROOT)  # as `python -m benchmarks.NAME` does
    importlib.import_module(f"benchmarks.{file.stem}")
