"""What docs/howto/jetson promises of the commands is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from attri.export.cli import main as attri_export
from attri.runtime.cli.run import main as attri_run

ROOT = Path(__file__).parents[4]
PAGES = sorted((ROOT / "docs" / "howto" / "jetson").glob("*.md"))
FILES = ("README.md", "Dockerfile")
COMMANDS = {"attri-export": attri_export, "attri-run": attri_run}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_its_commands_have_these_options_and_its_files_exist(page):
    text = page.read_text(encoding="utf-8")
    known = {option for command in COMMANDS.values() for each in command.params for option in each.opts}
    lines = re.findall(r"(attri-(?:export|run))( [^`\n#]*)", text)
    assert lines or page.name != "README.md"
    for name, rest in lines:
        options = {option for each in COMMANDS[name].params for option in each.opts}
        assert set(re.findall(r"--[a-z0-9-]+", rest)) <= options, rest
    mentioned = set(re.findall(r"`(--[a-z0-9-]+)", text)) - {"--system-site-packages"}
    assert mentioned - known == set()
    for target in re.findall(r"\]\(([^)]+)\)", text):
        assert (page.parent / (target.partition("#")[0] or page.name)).exists(), target


def test_what_is_installed_can_be():
    """The extras exist, and the container has what a device without one has."""
    readme, dockerfile = ((ROOT / "docs" / "howto" / "jetson" / name).read_text(encoding="utf-8") for name in FILES)
    extras = re.findall(r"^([a-z]+) = \[", (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE)
    for text in (readme, dockerfile):
        (install,) = re.findall(r"attri-\*\.whl\)\[([a-z,]+)\]\" av", text)
        assert set(install.split(",")) <= set(extras)
    packages = [set(re.findall(r"python3-[a-z]+", text)) for text in (readme, dockerfile)]
    assert packages[0] == packages[1]
