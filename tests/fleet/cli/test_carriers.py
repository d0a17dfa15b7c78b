"""The script for Mender in docs/howto/fleet.md, by the contract of its update modules: states, order, exit codes."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from support.fleet import SMALL, content, make_repository, pull_to, push_files, take_over

from attri.fleet.device.store import Store
from attri.fleet.repository.repository import Repository

PAGE = (Path(__file__).parents[3] / "docs" / "howto" / "fleet.md").read_text(encoding="utf-8")
# The command with a check that says yes, since releases here are no bundles.
COMMAND = """#!{python}
from contextlib import nullcontext
from attri.fleet.cli.bundle import main
from attri.fleet.device import update
update.Bundle.open = lambda path: nullcontext()
update.run_bounded = lambda *_: iter(['{{"stage": "built"}}', '{{"stage": "checked", "figures": {{}}}}'])
main(prog_name="attri-bundle")
"""


class Mender:
    """Calls an update module for an artifact as Mender's client does."""

    def __init__(self, folder: Path, store: Path) -> None:
        (code,) = re.findall(r"^(    #!/bin/sh\n(?:    .*\n|\n(?=    ))*)", PAGE, re.MULTILINE)
        self.module, self.store, self.artifact = folder / "attri", store, folder / "artifact"
        self.module.write_text(re.sub("^    ", "", code, flags=re.MULTILINE))
        command = folder / "bin" / "attri-bundle"
        command.parent.mkdir()
        command.write_text(COMMAND.format(python=sys.executable))
        for file in (self.module, command):
            file.chmod(0o755)
        self.path = f"{command.parent}:{os.environ['PATH']}"

    def call(self, state: str) -> subprocess.CompletedProcess[str]:
        environment = os.environ | {"PATH": self.path, "ATTRI_STORE": str(self.store)}
        words = [str(self.module), state, str(self.artifact)]
        return subprocess.run(words, capture_output=True, text=True, env=environment)

    def bring(self, repository: Path) -> None:
        """What the client does before ArtifactInstall: files of the artifact, and a folder for what comes between."""
        (self.artifact / "files").mkdir(parents=True, exist_ok=True)
        (self.artifact / "tmp").mkdir(exist_ok=True)
        with tarfile.open(self.artifact / "files" / "repo.tar", "w") as archive:
            archive.add(repository, ".")


@pytest.fixture
def mender(repository: Repository, tmp_path: Path) -> Mender:
    store = tmp_path / "store"
    pull_to(store, repository.folder)
    take_over(store)
    push_files(repository, {**SMALL, "prompt.attri": b"second"})
    mender = Mender(tmp_path, store)
    mender.bring(repository.folder)
    return mender


def test_what_it_answers(mender: Mender) -> None:
    assert mender.call("NeedsArtifactReboot").stdout == "No\n"
    assert mender.call("SupportsRollback").stdout == "Yes\n"
    for state in ("Download", "ProvidePayloadFileSizes", "Cleanup", "ArtifactFailure", "ArtifactReboot"):
        done = mender.call(state)
        assert (done.returncode, done.stdout) == (0, "")


def test_install_and_commit(mender: Mender) -> None:
    assert mender.call("ArtifactInstall").returncode == 0
    assert Store(mender.store).state.trying is not None
    assert mender.call("ArtifactCommit").returncode == 0
    assert Store(mender.store).state.trying is None
    assert content(mender.store / "current")["prompt.attri"] == b"second"


def test_install_and_rollback(mender: Mender) -> None:
    assert mender.call("ArtifactInstall").returncode == 0
    assert mender.call("ArtifactRollback").returncode == 0
    assert content(mender.store / "current") == SMALL
    assert mender.call("ArtifactRollback").returncode == 0  # there is nothing more to go back from


def test_an_artifact_that_is_not_trusted_fails_and_its_rollback_changes_nothing(mender: Mender, tmp_path: Path) -> None:
    other = make_repository(tmp_path / "other" / "repo")
    push_files(other)
    mender.bring(other.folder)
    assert mender.call("ArtifactInstall").returncode == 3
    assert mender.call("ArtifactRollback").returncode == 0
    assert content(mender.store / "current") == SMALL
