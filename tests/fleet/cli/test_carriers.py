"""The files for other tools in docs/howto/fleet.md, by the contract of each.

Of Mender's update modules that is states, order and exit codes; of hawkBit the requests and answers of its API for
devices (DDI); of Greengrass the fields of a recipe, and a script with variables that a shell runs.
"""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.fleet import SMALL, content, make_repository, pull_to, push_files, root_of, take_over

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


def block(beginning: str) -> str:
    """The block of the page that begins with this."""
    (code,) = re.findall(rf"^(    {re.escape(beginning)}(?:.*\n)(?:    .*\n|\n(?=    ))*)", PAGE, re.MULTILINE)
    return re.sub("^    ", "", code, flags=re.MULTILINE)


def installed(folder: Path, name: str, code: str) -> Path:
    """An executable file."""
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(code)
    (folder / name).chmod(0o755)
    return folder / name


class Mender:
    """Calls an update module for an artifact as Mender's client does."""

    def __init__(self, folder: Path, store: Path) -> None:
        self.store, self.artifact = store, folder / "artifact"
        self.module = installed(folder, "attri", block("#!/bin/sh\n    # /usr/share/mender"))
        command = installed(folder / "bin", "attri-bundle", COMMAND.format(python=sys.executable))
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


class HawkBit:
    """A server that offers one action to a device, until that is closed; by the documents of its API."""

    def __init__(self, repository: Path, header: str) -> None:
        self.feedback: list[dict[str, Any]] = []
        self.gone = False  # whether the artifact cannot be fetched
        data = io.BytesIO()
        with tarfile.open(fileobj=data, mode="w") as archive:
            archive.add(repository, "repo")
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                url, path = f"http://127.0.0.1:{outer.server.server_port}", self.path.partition("?")[0]
                base = f"{url}/default/controller/v1/gate"
                offer = {} if outer.feedback else {"deploymentBase": {"href": f"{base}/deploymentBase/8?c=-211"}}
                links = {"download": {"href": f"{url}/repo.tar"}, "md5sum": {"href": f"{url}/repo.tar.MD5SUM"}}
                artifact = {"filename": "repo.tar", "size": len(data.getvalue()), "_links": links}
                chunk = {"part": "bApp", "name": "attri", "version": "2", "artifacts": [artifact]}
                action = {"id": "8", "deployment": {"download": "forced", "update": "forced", "chunks": [chunk]}}
                poll = {"config": {"polling": {"sleep": "00:05:00"}}, "_links": offer}
                bodies = {
                    "/default/controller/v1/gate": json.dumps(poll).encode(),
                    "/default/controller/v1/gate/deploymentBase/8": json.dumps(action).encode(),
                    **({} if outer.gone else {"/repo.tar": data.getvalue()}),
                }
                allowed = self.headers.get("Authorization") == header.partition(": ")[2]
                self.answer(200 if allowed and path in bodies else 404 if allowed else 401, bodies.get(path, b""))

            def do_POST(self) -> None:
                assert self.path == "/default/controller/v1/gate/deploymentBase/8/feedback"
                assert self.headers["Content-Type"] == "application/json"
                outer.feedback.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                self.answer(200, b"")

            def answer(self, status: int, body: bytes) -> None:
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/default/controller/v1/gate"
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def hawkbit(mender: Mender, repository: Repository, tmp_path: Path) -> Iterator[Callable[..., HawkBit]]:
    """A device beside such a server: called with a repository, it asks once."""
    code = installed(tmp_path, "hawkbit", block("#!/bin/sh\n    # HAWKBIT"))
    (tmp_path / "header").write_text("Authorization: TargetToken secret")
    servers: list[HawkBit] = []

    def ask(folder: Path, gone: bool = False) -> HawkBit:
        server = HawkBit(folder, "Authorization: TargetToken secret")
        server.gone = gone
        servers.append(server)
        environment = {"HAWKBIT": server.url, "HAWKBIT_HEADER": str(tmp_path / "header"), "PATH": mender.path}
        environment |= {"ATTRI_STORE": str(mender.store)}
        for _ in range(2):  # the second time nothing is offered, or it is offered again
            done = subprocess.run([code], capture_output=True, text=True, env=os.environ | environment)
            assert (done.returncode != 0) == gone, done.stderr
        return server

    yield ask
    for server in servers:
        server.close()


needs_tools = pytest.mark.skipif(not (shutil.which("curl") and shutil.which("jq")), reason="needs curl and jq")


@needs_tools
def test_hawkbit_installs_and_says_so(hawkbit: Callable[..., HawkBit], mender: Mender, repository: Repository) -> None:
    (said,) = hawkbit(repository.folder).feedback
    assert said["id"] == "8"
    assert said["status"]["execution"] == "closed"
    assert said["status"]["result"] == {"finished": "success"}
    assert content(mender.store / "current")["prompt.attri"] == b"second"


@needs_tools
def test_hawkbit_is_told_why_not(hawkbit: Callable[..., HawkBit], mender: Mender, tmp_path: Path) -> None:
    other = make_repository(tmp_path / "other" / "repo")
    push_files(other)
    (said,) = hawkbit(other.folder).feedback
    assert said["status"]["result"] == {"finished": "failure"}
    assert "not to be trusted" in said["status"]["details"][0]
    assert content(mender.store / "current") == SMALL


@needs_tools
def test_hawkbit_is_asked_again_after_a_failure_of_the_network(
    hawkbit: Callable[..., HawkBit], mender: Mender, repository: Repository
) -> None:
    assert hawkbit(repository.folder, gone=True).feedback == []
    assert content(mender.store / "current") == SMALL


def test_a_component_of_greengrass_runs_what_is_followed(bundle: Path, image_files: list[Path], tmp_path: Path) -> None:
    repository = make_repository(tmp_path / "repo")
    push_files(repository, {file.name: file.read_bytes() for file in bundle.iterdir() if file.is_file()})
    recipe = yaml.safe_load(block('RecipeFormatVersion: "2020-01-25"'))
    assert {"ComponentName", "ComponentVersion", "Manifests"} < recipe.keys()
    (manifest,) = recipe["Manifests"]
    (artifact,) = manifest["Artifacts"]
    (tmp_path / "artifacts").mkdir()
    shutil.copy(root_of(repository.folder), tmp_path / "artifacts" / Path(artifact["Uri"]).name)
    settings = recipe["ComponentConfiguration"]["DefaultConfiguration"]
    settings |= {"Repository": str(repository.folder), "Run": f"{image_files[0]} --json --threads 1"}
    values = {f"configuration:/{name}": value for name, value in settings.items()}
    values |= {"artifacts:path": str(tmp_path / "artifacts"), "work:path": str(tmp_path)}
    script = re.sub(r"\{([^{}]+)\}", lambda found: values[found[1]], manifest["Lifecycle"]["Run"]["Script"])
    run = f'#!/bin/sh\nexec {sys.executable} -m attri.runtime.cli.run "$@"\n'
    path = installed(tmp_path / "bin", "attri-run", run).parent
    environment = os.environ | {"PATH": f"{path}:{os.environ['PATH']}"}
    done = subprocess.run(["/bin/sh", "-c", script], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["source"] == str(image_files[0])
    assert Store(tmp_path / "store").state.trying is not None  # it ended with the image, before the minute was over
