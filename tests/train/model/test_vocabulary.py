"""Tokenizers of models with a vocabulary of their own give open_clip's ids.

The vocabularies are made here, of the kinds that SigLIP (SentencePiece's Unigram), SigLIP2 (Gemma's BPE with bytes) and
CLIPA (BERT) have: the real files cannot be had offline.
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from open_clip.tokenizer import HFTokenizer
from support.vocabulary import save_tokenizer

from attri.runtime.errors import FailedError, UsageError
from attri.runtime.text.padded_tokens import encode_padded
from attri.train.model.vocabulary import own_tokenizer

LENGTH = 24
MORE = "Hello, World! it's A _Photo_ of RED-apples; naïve café Straße 草地 かりんご 🍎 &amp;lt; l’été \t two\nlines ÅÉ"
KINDS: dict[str, dict[str, Any]] = {
    "unigram": {"clean": "canonicalize"},
    "bpe": {"clean": "canonicalize"},
    "wordpiece": {"strip_sep_token": True},
}


def strings(count: int) -> list[str]:
    """Words, halves of words and characters of any script, from none to more than fit."""
    chance = random.Random(0)
    words = [*MORE.split(" "), "photo", "apple", "zebra", "unknown", "[SEP]", "</s>", "", "  ", "﻿", "é"]
    found = ["", " ", "a photo of a red apple.", MORE, "zebra " * 40]
    while len(found) < count:
        parts = [chance.choice(words) for _ in range(chance.randint(0, 12))]
        if chance.random() < 0.3:
            parts.append(
                "".join(chr(chance.choice([chance.randint(32, 126), chance.randint(160, 0x2FFF)])) for _ in "12")
            )
        found.append(chance.choice([" ", "", "_"]).join(parts))
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_ids_are_those_of_open_clip_on_thousands_of_strings(kind, tmp_path):
    save_tokenizer(tmp_path, kind)
    options = KINDS[kind]
    texts = strings(10_000)
    if kind == "wordpiece":  # where a text itself holds the mark, open_clip gives it the id 0 too
        texts = [text for text in texts[:2000] if "[SEP]" not in text]
    config = {"vocab_size": 500, "hf_tokenizer_name": "x", "tokenizer_kwargs": options}
    ours = own_tokenizer(config, tmp_path)
    expected = HFTokenizer(str(tmp_path), context_length=LENGTH, **options)(texts).numpy()
    found = encode_padded(ours, texts, "{}", LENGTH, pooled="last")
    differing = [text for text, a, b in zip(texts, found.ids, expected, strict=True) if not np.array_equal(a, b)]
    assert differing == []
    assert len({row.tobytes() for row in found.ids}) > len(texts) // 2
    assert (found.pooled == LENGTH - 1).all()


def test_the_last_mark_is_found_and_long_prompts_are_named(tmp_path, caplog):
    save_tokenizer(tmp_path)
    tokenizer = own_tokenizer({"vocab_size": 500, "hf_tokenizer_name": "x"}, tmp_path)
    found = encode_padded(tokenizer, ["cat", "zebra " * 40], "a photo of a {}", LENGTH)
    end = tokenizer.sequence("cat", LENGTH)[0][-1]
    assert found.ids[0, found.pooled[0]] == found.ids[1, -1] == end
    assert found.pooled[1] == LENGTH - 1
    assert "label 2 has" in caplog.text
    assert "24 are kept: zebra zebra" in caplog.text


def test_a_model_with_clip_s_words_needs_no_file():
    assert own_tokenizer({"vocab_size": 49408}, Path("nowhere")) is None
    assert own_tokenizer({}, Path("nowhere")) is None


def test_missing_and_damaged_files_are_told(tmp_path):
    config = {"vocab_size": 500, "hf_tokenizer_name": "x"}
    with pytest.raises(FailedError, match=r"has no tokenizer.json, without which its words cannot be read"):
        own_tokenizer(config, tmp_path)
    save_tokenizer(tmp_path)
    file = tmp_path / "tokenizer_config.json"
    file.write_text(json.dumps({"pad_token": "<none>"}))
    with pytest.raises(UsageError, match="no tokenizer that attri can use: it has no token '<none>'"):
        own_tokenizer(config, tmp_path)
    file.write_text("{}")
    with pytest.raises(UsageError, match="no 'pad_token'"):
        own_tokenizer(config, tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(UsageError, match="no tokenizer that attri can use"):
        own_tokenizer(config, tmp_path)
    save_tokenizer(tmp_path)
    with pytest.raises(UsageError, match="words are cleaned by 'stem'"):
        own_tokenizer(config | {"tokenizer_kwargs": {"clean": "stem"}}, tmp_path)
