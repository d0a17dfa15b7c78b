"""The collect sink: JPEGs of frames that are worth a look, each with a record beside it, for people to label."""

from __future__ import annotations

import hashlib
import json
import logging
import random
import shutil
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np

from attri.runtime._util.wording import plural
from attri.runtime.collection.folder import Collection, collected_at, encode, sha256
from attri.runtime.collection.item import REASONS, Item
from attri.runtime.deliver.collect.caps import Account, Caps, Refusal
from attri.runtime.deliver.collect.choose import Choice, ChoiceRule, Chooser
from attri.runtime.deliver.collect.seen import SeenImages
from attri.runtime.deliver.format import file_name
from attri.runtime.deliver.result import FrameResult, ResultKey
from attri.runtime.deliver.sink import PipelineControl, SinkFilter
from attri.runtime.errors import SinkError, UsageError

_LOGGER = logging.getLogger("attri")
_LOOK = 60.0  # seconds after which a full folder is looked at again: somebody may have taken files away
_TOP = 9  # labels in a record, as many as the page has keys for
_RESTS = {  # told once: until somebody does something, nothing more is collected
    "folder": "{folder} has grown to its limit: nothing more is collected until files are taken away",
    "disk": "the disk of {folder} has too little room: nothing is collected until there is more",
}


class Tally:
    """Counts of what was collected and refused; may be read from any thread.

    Attributes:
        collected: Images, by reason; one with two reasons counts for each.
        refused: Results that were worth a look and not collected, by what refused them.
        images: Images collected.
    """

    def __init__(self) -> None:
        self.collected: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()
        self.images = 0
        self._lock = threading.Lock()

    def take(self, reasons: tuple[str, ...]) -> None:
        """Count an image that was collected."""
        with self._lock:
            self.images += 1
            self.collected.update(reasons)

    def refuse(self, refusal: str) -> None:
        """Count a result that was not."""
        with self._lock:
            self.refused[refusal] += 1

    def __str__(self) -> str:
        with self._lock:
            why = ", ".join(f"{self.collected[each]} {each}" for each in REASONS if self.collected[each])
            refused = ", ".join(f"{count} by {each}" for each, count in self.refused.most_common())
            found = f"collected {plural(self.images, 'image')}{f' ({why})' if why else ''}"
            return f"{found}; not collected: {refused}" if refused else found


class CollectSink:
    """Collects images that are worth a look, as `Chooser` finds them and as far as `Caps` allow.

    Several processes may share a folder: each looks what the others have added before it adds something, and the caps
    hold over all of them. After a kill or a power cut an image is there whole, with its record, or does not count.

    Args:
        folder: Created if it does not exist.
        control: The pipeline, for the base of its prompts.
        rule: What is worth a look.
        caps: How much is collected.
        regions_only: Never keep a whole frame: of sources without a region nothing is collected.
        clock: Unix time.
        free: Bytes that are free on the disk of a folder.
        draw: Draws the control.

    Attributes:
        tally: Counts.

    Raises:
        UsageError: The folder cannot be used.
    """

    name = "collect"
    lossless = True
    takes: SinkFilter = "every_frame"

    def __init__(
        self,
        folder: Path,
        control: PipelineControl,
        rule: ChoiceRule = ChoiceRule(),  # noqa: B008  # frozen
        caps: Caps = Caps(),  # noqa: B008  # frozen
        *,
        regions_only: bool = False,
        clock: Callable[[], float] = time.time,
        free: Callable[[Path], int] = lambda folder: shutil.disk_usage(folder).free,
        draw: random.Random | None = None,
    ) -> None:
        self.tally = Tally()
        self._folder, self._files = folder, Collection(folder)
        self._caps, self._regions_only = caps, regions_only
        self._clock, self._free = clock, free
        self._base = _digest(control.prompts()[0].facts.base)
        self._account, self._seen = Account(), SeenImages()
        self._known: set[str] = set()  # names of images that are in account and features
        self._told: set[Refusal] = set()
        self._looked = 0.0  # when, Unix time
        self._expected = 0  # bytes of an image's files: those of the last one
        self._choose = Chooser(rule, self._seen, draw)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._files.remove_leftovers()
            with self._files.locked():
                self._look()
        except OSError as error:
            raise UsageError(f"{folder}: {error.strerror or error}") from error

    def write(self, result: FrameResult) -> None:
        """Collect what is worth a look.

        Raises:
            SinkError: The disk does not take it; nothing of it is left.
        """
        for choice in self._choose(result):
            try:
                refusal = self._take(choice)
            except OSError as error:
                raise SinkError(f"{self._folder}: {error.strerror or error}") from error
            if refusal is None:
                self.tally.take(choice.reasons)
            else:
                self.tally.refuse(refusal)
            self._tell(refusal)

    def source_ended(self, origin: str) -> None:
        """Let go of what is kept of a source."""
        self._choose.forget(origin)

    def close(self) -> None:
        """Log the counts."""
        _LOGGER.info("%s: %s", self._folder, self.tally)

    def _take(self, choice: Choice) -> Refusal | None:
        """Collect a result, or say why not."""
        if self._regions_only and choice.result.region is None:
            return "whole frame"
        refusal = self._refusal(choice)  # before an image is encoded for nothing
        if refusal == "folder" and abs(self._clock() - self._looked) > _LOOK:
            with self._files.locked():
                self._look()
            self._expected = 0  # this one may be smaller than the last
            refusal = self._refusal(choice)
        if refusal is not None:
            return refusal
        jpeg = encode(choice.result.part)
        with self._files.locked():
            self._look()
            now = self._clock()
            words = file_name("_".join(filter(None, (choice.result.source, choice.result.task))))
            item = self._item(choice, jpeg, self._files.free_name(now, f"{words}_{choice.result.frame}"), now)
            self._expected = len(jpeg) + len(item.to_json())
            if (refusal := self._refusal(choice)) is not None:
                return refusal
            self._files.add(item, jpeg)
            self._note(item)
            self._account.nbytes += self._expected
        return None

    def _refusal(self, choice: Choice) -> Refusal | None:
        """Why it may not be added, as far as is known here."""
        refusal = self._account.refusal(
            self._caps,
            choice.result.key,
            self._clock(),
            self._free(self._folder),
            nbytes=self._expected,
            control="control" in choice.reasons,
        )
        return "repeat" if refusal is None and self._choose.is_repeat(choice) else refusal

    def _look(self) -> None:
        """Take into account what other processes and people have added to the folder, and taken away."""
        content = self._files.content()
        self._looked = self._clock()
        self._account.nbytes = content.nbytes
        self._account.forget_before(self._clock())
        for name in content.names:
            if name not in self._known and (item := self._files.item(name)) is not None:
                self._note(item)
        self._known = set(content.names)

    def _note(self, item: Item) -> None:
        key = ResultKey(item.origin, item.task)
        self._known.add(item.name)
        self._account.add(key, collected_at(item.name))
        if item.base == self._base:  # features of another backbone have other directions
            self._seen.add(item.feature, key)

    def _item(self, choice: Choice, jpeg: bytes, name: str, now: float) -> Item:
        result, prediction = choice.result, choice.result.prediction
        height, width, _ = result.part.shape
        feature = prediction.image_feature
        return Item(
            name=name,
            source=result.source,
            origin=result.origin,
            frame=result.frame,
            time=round(result.time, 6),
            collected=round(now, 3),
            reasons=choice.reasons,
            label=result.label,
            score=result.score,
            top=tuple(prediction.top(_TOP)),
            margin=choice.margin,
            size=(width, height),
            sha256=sha256(jpeg),
            base=self._base,
            task=result.task,
            region=result.region,
            threshold=prediction.threshold,
            prompt=prediction.prompt,
            feature=None if feature is None else feature.astype(np.float16),
        )

    def _tell(self, refusal: Refusal | None) -> None:
        """Log once that something has to be done, and again after it was."""
        if refusal is None:
            self._told.clear()
        elif refusal in _RESTS and refusal not in self._told:
            self._told.add(refusal)
            _LOGGER.warning(_RESTS[refusal].format(folder=self._folder))


def _digest(base: object) -> str:
    return hashlib.sha256(json.dumps(base, sort_keys=True).encode()).hexdigest()
