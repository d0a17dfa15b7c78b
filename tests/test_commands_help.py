"""Every option of the commands says what it does."""

from __future__ import annotations

import click
import pytest

from attri.export.cli import main as attri_export
from attri.fleet.cli.bundle import main as attri_bundle
from attri.runtime.cli.batch import main as attri_batch
from attri.runtime.cli.collect import main as attri_collect
from attri.runtime.cli.run import main as attri_run
from attri.runtime.cli.search import main as attri_search
from attri.train.cli import main as attri_train

FLEET = list(attri_bundle.commands.values())


@pytest.mark.parametrize("command", [attri_train, attri_export, attri_batch, attri_search, attri_collect, *FLEET])
def test_every_option_has_a_help_text(command):
    options = [option for option in command.params if isinstance(option, click.Option)]
    assert [option.name for option in options if not option.help] == []


COMMANDS = {
    "train": attri_train,
    "export": attri_export,
    "run": attri_run,
    "batch": attri_batch,
    "search": attri_search,
}


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_every_option_stands_under_a_heading(command):
    options = [option for option in command.params if isinstance(option, click.Option)]
    assert [option.name for option in options if not getattr(option, "group", "")] == ["version"]
