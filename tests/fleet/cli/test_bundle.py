"""attri-bundle from an empty folder to a device that runs, refuses and goes back: output, JSON and exit codes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from support.prompts import changed, noise

from attri.fleet.cli.bundle import main
from attri.runtime.bundle import PROMPT
from attri.runtime.classifier import Classifier
from attri.runtime.prompt import Prompt

CPU = ("--backend", "onnxruntime", "--device", "cpu")


def run(*words: object) -> int:
    with pytest.raises(SystemExit) as stop:
        main(list(map(str, words)), prog_name="attri-bundle")
    return int(stop.value.code or 0)


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ATTRI_KEYS_PASSPHRASE", "secret")
    return tmp_path


def status(capsys: pytest.CaptureFixture[str]) -> dict[str, object]:
    capsys.readouterr()
    assert run("status", "--store", "store", "--json") == 0
    found: dict[str, object] = json.loads(capsys.readouterr().out)
    return found


def test_a_device_follows_its_channel_and_refuses_what_is_worse(
    bundle: Path, desk: Path, image_files: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("init-repo") == 0
    assert "keep the keys of root offline" in capsys.readouterr().err
    assert run("push", bundle) == 0
    assert capsys.readouterr().out.startswith("stable: 1-")
    update = ("update", "repo", "--store", "store", *CPU)
    assert run(*update) == 2  # nothing is trusted yet
    assert "name it by --root" in capsys.readouterr().err
    assert run(*update, "--root", "repo/metadata/1.root.json") == 0
    with Classifier.load("store/current", backend="onnxruntime", device="cpu") as classifier:
        labels = list(classifier.labels)
        for image in image_files[:6]:  # on these it is right, always
            folder = Path("golden", str(classifier(image).label).replace(" ", "_"))
            folder.mkdir(parents=True, exist_ok=True)
            shutil.copy(image, folder)
    prompt = Prompt.read(bundle / PROMPT)
    noise(prompt).save(Path("noise.attri"))
    assert run("push", "noise.attri", "--wave", "100%") == 0
    assert run(*update, "--golden", "golden") == 4
    assert "of 6 golden images are right, 6 with what runs" in capsys.readouterr().err
    assert run(*update) == 4  # it is not tried again
    assert "was refused here" in capsys.readouterr().err
    assert run("pull", "repo", "--store", "store", "--again") == 0
    assert run("revoke") == 0
    assert run(*update) == 0
    changed(prompt, labels, 7, 9).save(Path("better.attri"))
    assert run("push", "better.attri") == 0
    assert run(*update) == 0
    now = status(capsys)
    assert str(now["runs"]).startswith("4-")
    assert str(now["before"]).startswith("1-")
    assert now["update"]["state"] == "committed"  # type: ignore[index]
    assert run("rollback", "--store", "store", "--reason", "ghosts") == 0
    now = status(capsys)
    assert str(now["runs"]).startswith("1-")
    assert now["update"]["reason"] == "ghosts"  # type: ignore[index]
    assert run(*update) == 4


def test_promote_refresh_rotate_and_status_of_a_repository(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("init-repo", "--count", 3, "--threshold", 2) == 0
    assert len(list(Path("keys").glob("root-*.pem"))) == 3
    assert run("promote") == 2
    assert "push one with --wave" in capsys.readouterr().err
    assert run("refresh", "--days", 7) == 0
    for owner in ("online", "targets", "root"):
        assert run("rotate", owner) == 0
    assert len(list(Path("keys").glob("root-*.pem"))) == 6  # as many as before, of which as many have to sign
    assert run("rotate", "online", "--threshold", 2) == 2
    assert "more than there are keys, 1" in capsys.readouterr().err
    capsys.readouterr()
    assert run("status", "--repo", "repo", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["channels"] == []
    assert found["expires"].keys() == {"root", "targets", "snapshot", "timestamp"}
    assert run("init-repo") == 2
    assert "is a repository already" in capsys.readouterr().err


def test_keys_are_files_that_only_their_owner_reads_and_only_with_the_passphrase(
    desk: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("init-repo") == 0
    for file in Path("keys").iterdir():
        assert file.stat().st_mode & 0o777 == 0o600
        assert b"ENCRYPTED" in file.read_bytes()
    monkeypatch.setenv("ATTRI_KEYS_PASSPHRASE", "wrong")
    assert run("refresh") == 2
    assert "the passphrase is wrong" in capsys.readouterr().err
    monkeypatch.delenv("ATTRI_KEYS_PASSPHRASE")
    assert run("refresh") == 2
    assert "give it by --passphrase-file" in capsys.readouterr().err
    Path("passphrase").write_text("secret\n")
    assert run("refresh", "--passphrase-file", "passphrase") == 0
    assert run("refresh", "--keys", "nowhere") == 2
    assert "1 of the keys of snapshot, 0 here" in capsys.readouterr().err


def test_a_key_by_its_uri_signs_as_one_of_a_file_does(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A key as a hardware module has one, on an elliptic curve; the library's own scheme of files stands for it."""
    private = generate_private_key(SECP256R1())
    Path("token.pem").write_bytes(private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    public = private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    Path("public.pem").write_bytes(public)
    assert run("init-repo", "--key", f"targets=file2:{desk}/token.pem,public.pem") == 0
    assert {file.name.partition("-")[0] for file in Path("keys").glob("*.pem")} == {"root", "online"}
    assert run("rotate", "targets") == 0
    assert run("init-repo", "--repo", "second", "--key", "targets=nothing") == 2
    assert "write root|targets|online=URI,PEM" in capsys.readouterr().err
    assert run("init-repo", "--repo", "second", "--key", "root=hsm:2,token.pem") == 2
    assert "holds no public key" in capsys.readouterr().err


def test_a_prompt_needs_a_bundle_that_it_fits(bundle: Path, desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("init-repo") == 0
    assert run("push", bundle / PROMPT) == 2
    assert "has no bundle that" in capsys.readouterr().err
    assert run("push", "nowhere") == 1
    assert run("push", bundle, "--channel", "../up") == 2
    assert "no name of a channel" in capsys.readouterr().err
    assert run("push", bundle, "--wave", "200%") == 2


@pytest.mark.parametrize(
    "words", [("push", "bundle"), ("promote",), ("revoke",), ("refresh",), ("status", "--repo", "repo")]
)
def test_a_folder_without_a_repository_is_told_as_such(
    bundle: Path, desk: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...]
) -> None:
    (desk / "bundle").symlink_to(bundle)
    assert run(*words) == 2
    assert capsys.readouterr().err == "error: repo is no repository: make one with attri-bundle init-repo\n"
    assert not (desk / "repo").exists()
