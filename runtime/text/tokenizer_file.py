"""A model's own vocabulary (SigLIP's: T5, mT5, Gemma), read by the package `tokenizers` from the file in the bundle.

The file is a tokenizer.json of Hugging Face with the padding written into it: with which token, and on which side.
"""

from __future__ import annotations

import html
import string
from collections.abc import Callable
from typing import Any

from attri.runtime.bundle import Clean
from attri.runtime.errors import BundleError, MissingExtra

_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


class FileTokenizer:
    """Tokenizes text as the model was trained to read it. Safe to share between threads.

    Args:
        content: of tokenizer.json.
        clean: what is done to a text before.
        name: what messages call the file.

    Attributes:
        content: as given.
        clean: as given.
        pad: id of the padding.
        pads_left: whether padding comes before the words.
        vocab_size: number of token ids.

    Raises:
        BundleError: the content is no tokenizer with padding.
        MissingExtra: the package `tokenizers` is not installed.
    """

    def __init__(self, content: bytes, clean: Clean, name: str = "the tokenizer") -> None:
        try:
            from tokenizers import Tokenizer
        except ModuleNotFoundError as error:
            raise MissingExtra("tokenizers") from error
        self.content, self.clean = content, clean
        try:
            self._tokenizer = Tokenizer.from_str(content.decode("utf-8"))
            padding: Any = self._tokenizer.padding
            self.pad, self.pads_left = int(padding["pad_id"]), padding["direction"] == "left"
        except Exception as error:  # the package raises Exception itself
            raise BundleError(f"{name} is no tokenizer, or it is damaged: copy or export it again") from error
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self.vocab_size: int = self._tokenizer.get_vocab_size()
        self._marks: int = self._tokenizer.num_special_tokens_to_add(False)
        self._clean = _CLEAN[clean]

    def encode(self, text: str) -> list[int]:
        """Ids of a text, without marks and not cut."""
        ids: list[int] = self._tokenizer.encode(self._clean(text), add_special_tokens=False).ids
        return ids

    def sequence(self, text: str, context_length: int) -> tuple[list[int], int]:
        """Ids of a text with its marks, cut to the context length, and how many there were before."""
        encoding = self._tokenizer.encode(self._clean(text), add_special_tokens=False)
        count = len(encoding.ids) + self._marks
        encoding.truncate(context_length - self._marks)
        ids: list[int] = self._tokenizer.post_process(encoding).ids
        return ids, count


def _mended(text: str) -> str:
    """Broken encodings and HTML entities mended."""
    # None of it touches printable ASCII without entities: plain labels skip it, and the import of ftfy.
    if text.isascii() and text.isprintable() and "&" not in text:
        return text.strip()
    import ftfy

    return html.unescape(html.unescape(ftfy.fix_text(text))).strip()  # twice: web captions hold "&amp;amp;"


def _whitespace(text: str) -> str:
    return " ".join(_mended(text).split())


def _lower(text: str) -> str:
    return _whitespace(text).lower()


def _canonicalize(text: str) -> str:
    """Lower case without ASCII punctuation, as SigLIP was trained (big_vision's `canonicalize_text`)."""
    return " ".join(_mended(text).replace("_", " ").translate(_NO_PUNCTUATION).lower().split())


_CLEAN: dict[Clean, Callable[[str], str]] = {
    "canonicalize": _canonicalize,
    "lower": _lower,
    "whitespace": _whitespace,
}
