"""Words to the token ids of CLIP: byte-level BPE, the ids that open_clip's `SimpleTokenizer` gives.

The merges in `merges.txt.gz` are the 48,894 that CLIP uses of OpenAI's `bpe_simple_vocab_16e6.txt.gz`
(https://github.com/openai/CLIP, MIT License, Copyright (c) 2021 OpenAI); the header and the unused rest are left out.
Byte-level BPE: Radford et al., "Language Models are Unsupervised Multitask Learners", 2019.
"""

from __future__ import annotations

import gzip
import html
import zlib
from functools import cached_property, lru_cache
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from attri.runtime.errors import BundleError

if TYPE_CHECKING:
    import regex

_MERGES = 48_894
_END = "</w>"

# The vocabulary: each byte, each byte at the end of a word, one token for each merge, and the two marks.
SOS = 2 * 256 + _MERGES
EOT = SOS + 1
_MARKS = {"<start_of_text>": SOS, "<end_of_text>": EOT}


class Tokenizer:
    """Byte-level BPE over cleaned, lower-cased text. Safe to share between threads.

    Args: merges: a gzip file with one merge a line, as a bundle carries it; the package's own by default.
    Raises: BundleError: the merges are missing, damaged, or not those of CLIP.
    """

    vocab_size = EOT + 1
    pad = 0  # of towers that read all of the context length, which are not causal
    pads_left = False

    def __init__(self, merges: Path | None = None) -> None:
        self._symbols = _byte_symbols()
        self._ids, self._ranks = _read_vocabulary(merges or Path(__file__).with_name("merges.txt.gz"))
        # Labels repeat their words; a long-running service meets ever new ones, so the cache is bounded.
        self._encode_word = lru_cache(maxsize=32_768)(self._merge)

    def encode(self, text: str) -> list[int]:
        """Ids of `text`, each in [0, vocab_size), without SOS and EOT and not cut to a context length.

        Blank text gives []. The literal words <start_of_text> and <end_of_text> give SOS and EOT, as in open_clip.
        """
        return [i for word in self._pattern.findall(_clean(text)) for i in self._encode_word(word)]

    def sequence(self, text: str, context_length: int) -> tuple[list[int], int]:
        """Ids of a text from SOS to EOT, cut to the context length, and how many there were before."""
        ids = self.encode(text)
        return [SOS, *ids[: context_length - 2], EOT], len(ids) + 2

    @cached_property
    def _pattern(self) -> regex.Pattern[str]:
        import regex  # here, so that importing attri.runtime stays quick

        marks = "|".join(_MARKS)
        # IGNORECASE although the text is lower case: it folds letters such as the long s, and the ids depend on it.
        return regex.compile(rf"{marks}|'(?:s|t|re|ve|m|ll|d)|\p{{L}}+|\p{{N}}|[^\s\p{{L}}\p{{N}}]+", regex.IGNORECASE)

    def _merge(self, word: str) -> tuple[int, ...]:
        """BPE of one word: join the neighbours with the lowest rank, everywhere, until no pair is in the table."""
        if word in _MARKS:
            return (_MARKS[word],)
        parts = [self._symbols[byte] for byte in word.encode()]
        parts[-1] += _END
        while len(parts) > 1:
            pair = min(pairwise(parts), key=lambda pair: self._ranks.get(pair, _MERGES))
            if pair not in self._ranks:
                break
            parts = _join(parts, pair)
        return tuple(self._ids[part] for part in parts)


def _join(parts: list[str], pair: tuple[str, str]) -> list[str]:
    """`parts` with each occurrence of `pair`, from the left and without overlap, as one part."""
    joined: list[str] = []
    i = 0
    while i < len(parts):
        width = 2 if (parts[i], *parts[i + 1 : i + 2]) == pair else 1
        joined.append("".join(parts[i : i + width]))
        i += width
    return joined


def _clean(text: str) -> str:
    """Broken encodings and HTML entities mended, white space collapsed, lower case."""
    # None of the mending touches printable ASCII without entities: plain labels skip it, and the import of ftfy.
    if not (text.isascii() and text.isprintable() and "&" not in text):
        import ftfy

        text = html.unescape(html.unescape(ftfy.fix_text(text)))  # twice: web captions hold "&amp;amp;"
    return " ".join(text.split()).lower()


def _byte_symbols() -> dict[int, str]:
    """A visible character for each byte, in the order of the vocabulary: white space and controls come last."""
    visible = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    hidden = [byte for byte in range(256) if byte not in visible]
    return {byte: chr(byte) for byte in visible} | {byte: chr(256 + i) for i, byte in enumerate(hidden)}


def _read_vocabulary(path: Path) -> tuple[dict[str, int], dict[tuple[str, str], int]]:
    """The id of each token and the rank of each merge of a file."""
    try:
        ids, ranks = _vocabulary(path.read_bytes())
    except OSError as error:
        raise BundleError(f"{path}: cannot read the tokenizer's merges ({error.strerror or error})") from error
    except (EOFError, zlib.error, ValueError) as error:
        raise BundleError(f"{path}: the tokenizer's merges are damaged; copy the file again") from error
    if len(ranks) != _MERGES:
        raise BundleError(f"{path}: {len(ranks)} merges where CLIP's tokenizer has {_MERGES}; copy the file again")
    return ids, ranks


@lru_cache(maxsize=1)  # every bundle of a CLIP has the same: parsed once, and 18 MB once, for a process
def _vocabulary(merges: bytes) -> tuple[dict[str, int], dict[tuple[str, str], int]]:
    lines = gzip.decompress(merges).decode().splitlines()
    pairs = [(left, right) for left, right in (line.split(" ") for line in lines)]
    alphabet = list(_byte_symbols().values())
    words = alphabet + [symbol + _END for symbol in alphabet] + ["".join(pair) for pair in pairs]
    return {word: i for i, word in enumerate(words)}, {pair: rank for rank, pair in enumerate(pairs)}
