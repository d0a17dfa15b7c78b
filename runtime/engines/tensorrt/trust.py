"""Seals that show which files this user made on this machine: HMAC-SHA256 with a secret that never leaves it.

An engine is code, so one that was copied here is not loaded just because its file is whole.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from attri.runtime._util.atomic import create_file
from attri.runtime._util.system import state_folder
from attri.runtime.engines.tensorrt.keys import canonical_json
from attri.runtime.errors import EngineError

SECRET_FILE = "engines.key"
SECRET_BYTES = 32


def seal(record: Mapping[str, Any]) -> str:
    """HMAC-SHA256 of a record, without the seal that it may carry.

    Raises:
        EngineError: the secret cannot be read or made.
    """
    unsealed = {name: value for name, value in record.items() if name != "seal"}
    return mac(canonical_json(unsealed))


def is_sealed(record: Mapping[str, Any]) -> bool:
    """Whether a record carries the seal of this user on this machine.

    Raises:
        EngineError: the secret cannot be read or made.
    """
    return hmac.compare_digest(str(record.get("seal")).encode(errors="replace"), seal(record).encode())


def mac(data: bytes) -> str:
    """HMAC-SHA256 of bytes, in hexadecimal.

    Raises:
        EngineError: the secret cannot be read or made.
    """
    return hmac.new(_secret(), data, hashlib.sha256).hexdigest()


def is_authentic(data: bytes, code: str) -> bool:
    """Whether `code` is what `mac` makes of these bytes.

    Raises:
        EngineError: the secret cannot be read or made.
    """
    return hmac.compare_digest(code.encode(), mac(data).encode())


def _secret() -> bytes:
    """This user's secret on this machine, made at first use and readable by nobody else."""
    path = Path("$XDG_STATE_HOME/attri", SECRET_FILE)  # for the message where there is no home
    try:
        path = state_folder() / SECRET_FILE
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not path.exists():
            create_file(path, secrets.token_bytes(SECRET_BYTES), mode=0o600)
        secret = path.read_bytes()
    except (OSError, RuntimeError) as error:  # RuntimeError: there is no home
        raise EngineError(
            f"the key that marks this machine's engines cannot be kept at {path} ({error}):"
            " point XDG_STATE_HOME to a folder that can be written"
        ) from error
    if len(secret) != SECRET_BYTES:  # anyone can make seals with an empty key
        raise EngineError(f"{path} is damaged, it has {len(secret)} of {SECRET_BYTES} bytes: delete it")
    return secret
