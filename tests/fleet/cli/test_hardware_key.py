"""A key that never leaves a hardware module, by PKCS#11: SoftHSM, which is one in software, signs releases."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from support.fleet import pull_to

from attri.fleet.cli.bundle import main

pkcs11 = pytest.importorskip("pkcs11", reason="python-pkcs11 is not installed: it is in the extra dev")
LIBRARY = Path("/usr/lib/softhsm/libsofthsm2.so")
pytestmark = pytest.mark.skipif(not LIBRARY.exists(), reason="SoftHSM is not installed (apt-get install softhsm2)")
KEY = "targets=hsm:2?label=releases,public.pem"


def run(*words: object) -> int:
    with pytest.raises(SystemExit) as stop:
        main(list(map(str, words)), prog_name="attri-bundle")
    return int(stop.value.code or 0)


@pytest.fixture
def token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A token with a key on P-256, whose public half is in public.pem."""
    import pkcs11.util.ec
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key

    monkeypatch.chdir(tmp_path)
    (tmp_path / "tokens").mkdir()
    Path("softhsm2.conf").write_text(f"directories.tokendir = {tmp_path}/tokens\nobjectstore.backend = file\n")
    monkeypatch.setenv("SOFTHSM2_CONF", f"{tmp_path}/softhsm2.conf")
    monkeypatch.setenv("PYKCS11LIB", str(LIBRARY))
    monkeypatch.setenv("ATTRI_KEYS_PASSPHRASE", "secret")
    monkeypatch.setenv("ATTRI_KEYS_PIN", "1234")
    words = ["softhsm2-util", "--init-token", "--free", "--label", "releases", "--pin", "1234", "--so-pin", "5678"]
    subprocess.run(words, check=True, capture_output=True)
    library = pkcs11.lib(str(LIBRARY))
    library.reinitialize()
    with library.get_token(token_label="releases").open(rw=True, user_pin="1234") as session:
        curve = {pkcs11.Attribute.EC_PARAMS: pkcs11.util.ec.encode_named_curve_parameters("secp256r1")}
        curve_of = session.create_domain_parameters(pkcs11.KeyType.EC, curve, local=True)
        public, _ = curve_of.generate_keypair(store=True, id=b"\x02", label="targets")
        key = load_der_public_key(pkcs11.util.ec.encode_ec_public_key(public))
    Path("public.pem").write_bytes(key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))


def test_a_release_is_signed_in_it_and_taken_by_a_device(token: None, bundle: Path) -> None:
    assert run("init-repo", "--key", KEY) == 0
    assert {file.name.partition("-")[0] for file in Path("keys").glob("*.pem")} == {"root", "online"}
    assert run("push", bundle) == 0
    release = pull_to(Path("store"), Path("repo"))
    assert release is not None
    assert release.files["manifest.json"].size == (bundle / "manifest.json").stat().st_size


def test_a_wrong_pin_and_a_missing_token_are_one_line(
    token: None, bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("init-repo", "--key", KEY) == 0
    before = {file: file.read_bytes() for file in Path("repo").rglob("*") if file.is_file()}
    monkeypatch.setenv("ATTRI_KEYS_PIN", "12345678")
    assert run("push", bundle) == 2
    assert capsys.readouterr().err.splitlines()[-1] == "error: a key of targets does not sign: PinIncorrect"
    monkeypatch.delenv("ATTRI_KEYS_PIN")
    assert run("push", bundle) == 2
    said = "error: the key hsm:2?label=releases has a PIN: give it by $ATTRI_KEYS_PIN"
    assert capsys.readouterr().err.splitlines()[-1] == said
    monkeypatch.setenv("PYKCS11LIB", "/nowhere.so")
    monkeypatch.setenv("ATTRI_KEYS_PIN", "1234")
    assert run("push", bundle) == 2
    assert "a key of targets does not sign: " in capsys.readouterr().err
    names = {file for file in Path("repo/metadata").rglob("*") if file.is_file()}
    assert names == {file for file in before if file.parent.name == "metadata"}
    assert run("init-repo", "--repo", "second", "--key", "targets=hsm:9,public.pem") == 2
    assert not Path("second/metadata").exists()
