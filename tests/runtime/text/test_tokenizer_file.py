"""The tokenizer of a bundle whose model has its own vocabulary; its ids are in tests/train/model/test_vocabulary.py."""

from __future__ import annotations

import sys

import pytest

tokenizers = pytest.importorskip("tokenizers", reason="the extra siglip is not installed")
from support.vocabulary import small_vocabulary, tokenizer_json  # noqa: E402

from attri.runtime.errors import BundleError, MissingExtra  # noqa: E402
from attri.runtime.text.padded_tokens import encode_padded  # noqa: E402
from attri.runtime.text.tokenizer_file import FileTokenizer  # noqa: E402


def test_words_are_read_as_siglip_was_trained():
    tokenizer = small_vocabulary()
    plain = tokenizer.encode("a red apple")
    for text in ("A  Red, APPLE!", " a_red-apple. ".replace("-", "_"), "a red &quot;apple&quot;", "a\tred\napple"):
        assert tokenizer.encode(text) == plain
    assert tokenizer.encode("red-apple") == tokenizer.encode("redapple")  # a hyphen goes, and leaves no space
    assert tokenizer.encode("") == []


def test_a_sequence_keeps_its_mark_when_it_is_cut():
    tokenizer = small_vocabulary()
    whole, count = tokenizer.sequence("a red apple", 64)
    assert len(whole) == count == len(tokenizer.encode("a red apple")) + 1
    cut, before = tokenizer.sequence("a red apple", 4)
    assert (len(cut), before) == (4, count)
    assert cut[:3] == whole[:3]
    assert cut[-1] == whole[-1]


def test_padding_may_come_first():
    tokenizer = tokenizers.Tokenizer.from_str(tokenizer_json())
    tokenizer.enable_padding(direction="left", pad_id=0, pad_token="<pad>")
    found = encode_padded(FileTokenizer(tokenizer.to_str().encode(), "canonicalize"), ["cat"], "{}", 16)
    count = int((found.ids[0] != 0).sum())
    assert (found.ids[0, : 16 - count] == 0).all()
    assert found.pooled[0] == 15


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff", tokenizer_json().encode()], ids=range(4))
def test_a_file_that_is_none_or_has_no_padding_is_one_line(content):
    with pytest.raises(BundleError, match=r"^a file is no tokenizer, or it is damaged: copy or export it again$"):
        FileTokenizer(content, "canonicalize", "a file")


def test_without_the_package_the_extra_is_named(monkeypatch):
    content = small_vocabulary().content
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(MissingExtra, match=r"attri\[siglip\]"):
        FileTokenizer(content, "canonicalize")
