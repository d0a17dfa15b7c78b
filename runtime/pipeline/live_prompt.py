"""A prompt that changes at run time: its file is watched, and taken over between two frames."""

from __future__ import annotations

import logging
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
    """

    def __init__(self, path: Path, current: Prompt, apply: Callable[[Prompt], None]) -> None:
        self.path = path
        self._digest, self._apply = current.digest, apply
        self._file = WatchedFile(path)

    def poll(self) -> None:
        """Take over what the file says now, if it changed and keeps still."""
        found = self._file.look()
        if found is None:
            return
        try:
            if isinstance(found, OSError):
                raise BundleError(f"the prompt {self.path} cannot be read: {found.strerror or found}")
            prompt = Prompt.parse(found, str(self.path))
            if prompt.digest == self._digest:  # written again, or seen for the first time
                return
            self._apply(prompt)
            self._digest = prompt.digest
            _LOGGER.info("%s: prompt %s, %s", self.path, prompt.digest[:12], plural(prompt.entries, "pool entry"))
        except AttriError as error:
            _LOGGER.warning("%s; the prompt from before stays", error)
