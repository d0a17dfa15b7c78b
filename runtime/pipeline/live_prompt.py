"""A prompt that changes at run time: its file is watched, taken over between two frames, and can be written."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from pathlib import Path

from attri.runtime._util.wording import plural
from attri.runtime.errors import AttriError, BundleError
from attri.runtime.pipeline.watched_file import WatchedFile
from attri.runtime.prompt import Prompt

_LOGGER = logging.getLogger("attri")


class LivePrompt:
    """The prompt file of a running pipeline.

    A file that cannot be used changes nothing and is complained of once.

    Args:
        path: the file.
        current: the prompt that is in use.
        apply: is given the new prompt; raises AttriError where it cannot be used.

    Attributes:
        path: as given.
        digest: of the prompt that the file holds; None while it holds one that cannot be used.
    """

    def __init__(self, path: Path, current: Prompt, apply: Callable[[Prompt], None]) -> None:
        self.path = path
        self.digest: str | None = current.digest
        self._apply = apply
        self._file = WatchedFile(path)
        self._lock = threading.Lock()

    def poll(self) -> None:
        """Take over what the file says now, if it changed and keeps still."""
        with self._lock:
            found = self._file.look()
            if found is None:
                return
            try:
                if isinstance(found, OSError):
                    raise BundleError(f"the prompt {self.path} cannot be read: {found.strerror or found}")
                prompt = Prompt.parse(found, str(self.path))
                if prompt.digest != self.digest:  # not written again, nor seen for the first time
                    self._take(prompt)
            except AttriError as error:
                self.digest = None
                _LOGGER.warning("%s; the prompt from before stays", error)

    def write(self, prompt: Prompt) -> None:
        """Write a prompt into the file, from which all that have it from there take it over.

        Raises:
            UsageError: the file is read-only, or has changed and was not taken over yet.
            FailedError: it cannot be written; it is as it was.
        """
        with self._lock:
            self._file.write(prompt.to_bytes())
            self._take(prompt)

    def _take(self, prompt: Prompt) -> None:
        self._apply(prompt)
        self.digest = prompt.digest
        _LOGGER.info("%s: prompt %s, %s", self.path, prompt.digest[:12], plural(prompt.entries, "pool entry"))
