"""How a model reads text: its tokenizer, its context length, and what its text graph takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from attri.runtime.bundle import MERGES, TOKENIZER, Bundle, Clean, Pooled
from attri.runtime.text.label_tokens import LabelTokens, encode_labels
from attri.runtime.text.padded_tokens import PaddedTokens, encode_padded
from attri.runtime.text.tokenizer_file import FileTokenizer
from attri.runtime.tokenizer import Tokenizer

Tokens = LabelTokens | PaddedTokens


@dataclass(frozen=True)
class TextReader:
    """Turns labels into token ids as one model was trained to read them.

    Attributes:
        tokenizer: CLIP's, or the model's own.
        context_length: most tokens of a prompt, with marks.
        causal: whether a token sees only those before it; else padding is attended to.
        pooled: which token becomes the text feature, where the tower is not causal.
    """

    tokenizer: Tokenizer | FileTokenizer
    context_length: int
    causal: bool = True
    pooled: Pooled = "eot"

    @classmethod
    def of(cls, bundle: Bundle) -> TextReader:
        """The reader of a bundle.

        Raises:
            BundleError: its tokenizer is damaged.
            MissingExtra: it needs the package `tokenizers`.
        """
        text: dict[str, Any] = bundle.manifest.text
        tokenizer = (
            Tokenizer(bundle.file(MERGES))
            if text["clean"] is None
            else FileTokenizer(bundle.file(TOKENIZER).read_bytes(), text["clean"], f"{bundle.path / TOKENIZER}")
        )
        return cls(tokenizer, text["context_length"], text["causal"], text["pooled"])

    @property
    def clean(self) -> Clean | None:
        """What is done to words before a tokenizer of the model's own; None of CLIP's."""
        return self.tokenizer.clean if isinstance(self.tokenizer, FileTokenizer) else None

    def encode(self, labels: Sequence[str], template: str = "{}", locations: Sequence[str] | None = None) -> Tokens:
        """Tokenize labels in a template; see `encode_labels` and `encode_padded`."""
        if self.causal:
            assert isinstance(self.tokenizer, Tokenizer)  # held by `attri.train.model.foldable`
            return encode_labels(self.tokenizer, labels, template, self.context_length, locations)
        return encode_padded(self.tokenizer, labels, template, self.context_length, locations, self.pooled)
