"""Read passwords and tokens from a file or the environment, never from the command line, which everybody can read."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from attri.runtime.errors import UsageError

_LOGGER = logging.getLogger("attri")
_LONGEST = 4096  # bytes


def read_secret(variable: str, file: Path | None) -> str | None:
    """Read a secret, without white space around it.

    Args:
        variable: environment variable that holds it where no file is given.
        file: takes precedence.

    Returns:
        The secret, or None where neither is given.

    Raises:
        UsageError: the file cannot be read or is empty, or the secret is no text of one line.
    """
    if file is None:
        secret = os.environ.get(variable, "").strip()
        return _checked(secret, variable) if secret else None
    try:
        with file.open("rb") as stream:
            secret = stream.read(_LONGEST + 1).decode().strip()
        public = os.name == "posix" and file.stat().st_mode & 0o007
    except OSError as error:
        raise UsageError(f"{file} cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{file} is not text: write the secret alone on its first line") from error
    _checked(secret, str(file))
    if public:
        _LOGGER.warning("%s can be read by everybody: chmod 600 %s", file, file)
    return secret


def _checked(secret: str, place: str) -> str:
    if not secret or not secret.isprintable() or len(secret) > _LONGEST:
        raise UsageError(f"{place} has to hold the secret alone, on one line")
    return secret
