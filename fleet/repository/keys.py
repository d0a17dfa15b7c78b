"""Private keys, beside the repository and never in it: files with a passphrase, or in a hardware module or service.

KEYS/ROLE-KEYID.pem   the private half of a key, PKCS#8, encrypted
KEYS/uris.json        by keyid, where keys are that are in no file

A folder may hold only some of the keys: a server that renews the timestamp needs the online key and no other.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
    load_pem_public_key,
)
from securesystemslib.signer import CryptoSigner, Key, Signer, SSlibKey

from attri.runtime._util.atomic import create_file, write_file
from attri.runtime.errors import FailedError, UsageError

_URIS = "uris.json"


class Keys:
    """The keys of one folder.

    Args:
        folder: where they are.
        passphrase: of the files; is called once, when the first of them is read or written.
        pin: of a key that is in no file, by its URI; is called once for each, when it signs first. Without it such keys
            cannot be used.
    """

    def __init__(self, folder: Path, passphrase: Callable[[], str], pin: Callable[[str], str] | None = None) -> None:
        self.folder = folder
        self._ask, self._ask_pin = passphrase, pin
        self._passphrase: str | None = None
        self._signers: dict[str, Signer] = {}

    def create(self, role: str) -> Key:
        """Make a key in a file of the folder.

        Args:
            role: what it is for, as the file's name begins.

        Raises:
            FailedError: the file cannot be written.
        """
        private = Ed25519PrivateKey.generate()
        signer = CryptoSigner(private)
        key = signer.public_key
        encrypted = BestAvailableEncryption(self._secret())
        data = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encrypted)
        try:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            create_file(self.folder / f"{role}-{key.keyid[:12]}.pem", data, mode=0o600)
        except OSError as error:
            raise FailedError(f"{self.folder}: {error.strerror or error}") from error
        self._signers[key.keyid] = signer
        return key

    def register(self, uri: str, public: Path) -> Key:
        """Note a key that is in a hardware module (`hsm:`) or at a service (`awskms:`, `gcpkms:`, ...).

        Args:
            uri: as securesystemslib's signers take it.
            public: PEM file of the public half.

        Raises:
            UsageError: that file holds no public key.
            FailedError: the folder cannot be written.
        """
        try:
            key = SSlibKey.from_crypto(load_pem_public_key(public.read_bytes()))
        except OSError as error:
            raise UsageError(f"{public}: {error.strerror or error}") from error
        except (ValueError, UnsupportedAlgorithm) as error:
            raise UsageError(f"{public} holds no public key that can be used: {error}") from error
        try:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            write_file(self.folder / _URIS, json.dumps(self._uris() | {key.keyid: uri}, indent=1).encode())
        except OSError as error:
            raise FailedError(f"{self.folder}: {error.strerror or error}") from error
        return key

    def signer(self, key: Key) -> Signer | None:
        """What signs with a key; None where its private half is not here.

        Raises:
            UsageError: it is here and cannot be used.
        """
        if key.keyid not in self._signers:
            file = next(self.folder.glob(f"*-{key.keyid[:12]}.pem"), None)
            uri = self._uris().get(key.keyid)
            try:
                if uri is not None:
                    pin = self._ask_pin and cache(partial(self._ask_pin, uri))
                    self._signers[key.keyid] = Signer.from_priv_key_uri(uri, key, pin and (lambda _: pin()))
                elif file is not None:
                    self._signers[key.keyid] = self._read(file, key)
            except UsageError:
                raise
            except Exception as error:  # each kind of signer has errors of its own
                raise UsageError(f"the key {uri or file} cannot be used: {error}") from error
        return self._signers.get(key.keyid)

    def _read(self, file: Path, key: Key) -> Signer:
        passphrase = self._secret()
        try:
            private: Any = load_pem_private_key(file.read_bytes(), passphrase)
        except (ValueError, TypeError) as error:
            raise UsageError(f"{file} cannot be read: the passphrase is wrong, or it is no key") from error
        assert isinstance(key, SSlibKey)
        return CryptoSigner(private, key)

    def _secret(self) -> bytes:
        if self._passphrase is None:
            self._passphrase = self._ask()
        return self._passphrase.encode()

    def _uris(self) -> dict[str, str]:
        try:
            found: dict[str, str] = json.loads((self.folder / _URIS).read_text())
            return found
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            raise UsageError(f"{self.folder / _URIS} cannot be read: {error}") from error
