"""Every option of the commands says what it does."""

from __future__ import annotations

import click
import pytest

from attri.export.cli import main as attri_export
from attri.runtime.cli.run import main as attri_run
from attri.train.cli import main as attri_train


@pytest.mark.parametrize("command", [attri_train, attri_export], ids=["train", "export"])
def test_every_option_has_a_help_text(command):
    options = [option for option in command.params if isinstance(option, click.Option)]
    assert [option.name for option in options if not option.help] == []


@pytest.mark.parametrize("command", [attri_train, attri_export, attri_run], ids=["train", "export", "run"])
def test_every_option_stands_under_a_heading(command):
    options = [option for option in command.params if isinstance(option, click.Option)]
    assert [option.name for option in options if not getattr(option, "group", "")] == ["version"]
