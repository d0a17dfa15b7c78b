"""A small vocabulary of the kind that SigLIP has, as Hugging Face's tokenizer.json: learned from a few words."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Literal

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

from attri.runtime.text.tokenizer_file import FileTokenizer

WORDS = "a photo of a red apple bird a very small wooden house cat two dogs zebra on the left green bus ship café 草 42"
Kind = Literal["unigram", "bpe", "wordpiece"]  # of SigLIP, SigLIP2 and CLIPA
MARKS: dict[Kind, tuple[str, str]] = {  # of the end, and of the padding
    "unigram": ("</s>", "</s>"),
    "bpe": ("<eos>", "<pad>"),
    "wordpiece": ("[SEP]", "[PAD]"),
}


@functools.cache
def tokenizer_json(kind: Kind = "unigram", corpus: tuple[str, ...] = (WORDS,), size: int = 120) -> str:
    """Train one: unknown words fall back to <unk> or to bytes, and a mark is put last."""
    end, _ = MARKS[kind]
    trainer: trainers.Trainer
    if kind == "wordpiece":
        tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
        tokenizer.normalizer = normalizers.BertNormalizer()
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        marks = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
        trainer = trainers.WordPieceTrainer(vocab_size=size, special_tokens=marks, show_progress=False)
    elif kind == "unigram":
        marks, unknown = ["<pad>", "</s>", "<unk>"], "<unk>"
        tokenizer = Tokenizer(models.Unigram())
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
        tokenizer.normalizer = normalizers.NFKC()
        trainer = trainers.UnigramTrainer(vocab_size=size, special_tokens=marks, unk_token=unknown, show_progress=False)
    else:
        marks, unknown = ["<pad>", "<eos>", "<bos>", "<unk>"], "<unk>"
        marks += [f"<0x{byte:02X}>" for byte in range(256)]
        tokenizer = Tokenizer(models.BPE(unk_token=unknown, fuse_unk=True, byte_fallback=True))
        tokenizer.normalizer = normalizers.Replace(" ", "▁")
        tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
        trainer = trainers.BpeTrainer(vocab_size=256 + size, special_tokens=marks, show_progress=False)
    tokenizer.train_from_iterator(corpus, trainer)
    start = "[CLS] " if kind == "wordpiece" else ""
    special = [(mark, tokenizer.token_to_id(mark)) for mark in f"{start}{end}".split()]
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{start}$A {end}", special_tokens=special)
    return tokenizer.to_str()


def save_tokenizer(folder: Path, kind: Kind = "unigram", **options) -> None:
    """Write the two files that a model's folder holds."""
    (folder / "tokenizer.json").write_text(tokenizer_json(kind, **options))
    end, padding = MARKS[kind]
    config: dict[str, object] = {"pad_token": padding, "eos_token": end, "sep_token": end}
    config |= {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 64}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def small_vocabulary() -> FileTokenizer:
    """One for models in memory; padded with EOS, as SigLIP's."""
    tokenizer = Tokenizer.from_str(tokenizer_json())
    tokenizer.enable_padding(pad_id=1, pad_token="</s>", length=16)
    return FileTokenizer(tokenizer.to_str().encode(), "canonicalize")
