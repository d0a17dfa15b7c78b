"""Labels as token ids, held against the obvious: SOS, the prompt's ids, EOT."""

from __future__ import annotations

import logging

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attri.runtime.errors import LabelsError, UsageError
from attri.runtime.prompts import LabelTokens, encode_labels
from attri.runtime.tokenizer import EOT, SOS, Tokenizer

TOKENIZER = Tokenizer()
PHOTO = "a photo of a {}."


def rows(ids: LabelTokens) -> list[list[int]]:
    """Whole sequences, put together again."""
    return [[*ids.stem, *own[:length]] for own, length in zip(ids.tokens, ids.lengths, strict=True)]


def reference(labels: list[str], template: str) -> list[list[int]]:
    return [[SOS, *TOKENIZER.encode(template.replace("{}", label)), EOT] for label in labels]


@pytest.mark.parametrize("template", [PHOTO, "{}", "{} in the snow", "  {}  "])
@pytest.mark.parametrize(
    "labels",
    [
        ["red apple", "green apple", "bird"],
        ["bird"],
        ["bird", "bird"],
        ["red", "red apple", "red apple tree"],  # each starts the next
        ["", "bird"],
        ["a photo of a bird", "かりんご"],
    ],
    ids=str,
)
def test_stem_and_own_tokens_make_the_whole_prompt(labels: list[str], template: str) -> None:
    ids = encode_labels(TOKENIZER, labels, template)
    assert rows(ids) == reference(labels, template)
    assert all(part.dtype == np.int32 for part in (ids.stem, ids.tokens, ids.lengths))
    assert ids.tokens.shape == (len(labels), ids.lengths.max())
    assert ids.stem[0] == SOS


def test_the_stem_is_all_that_the_prompts_share() -> None:
    ids = encode_labels(TOKENIZER, ["red apple", "red car"], PHOTO)
    assert ids.stem.tolist() == [SOS, *TOKENIZER.encode("a photo of a red")]


@pytest.mark.parametrize("labels", [["bird"], ["bird", "bird"]])
def test_equal_prompts_still_own_their_eot(labels: list[str]) -> None:
    assert encode_labels(TOKENIZER, labels, PHOTO).tokens.tolist() == [[EOT]] * len(labels)


def test_padding_is_zero() -> None:
    ids = encode_labels(TOKENIZER, ["bird", "a very small old house"], "{}")
    assert not ids.tokens[0, ids.lengths[0] :].any()


@pytest.mark.parametrize("context_length", [4, 8, 77])
def test_a_too_long_prompt_keeps_its_eot_at_the_context_length(
    context_length: int, caplog: pytest.LogCaptureFixture
) -> None:
    labels = ["bird", "very " * 100 + "red apple"]
    with caplog.at_level(logging.WARNING, logger="attri"):
        row = rows(encode_labels(TOKENIZER, labels, "{}", context_length, ["l.txt line 1", "l.txt line 7"]))[1]
    assert row == [*reference(labels, "{}")[1][: context_length - 1], EOT]
    assert len(row) == context_length
    (message,) = caplog.messages
    assert message.startswith("l.txt line 7 has 104 tokens")
    assert f"{context_length} are kept" in message


def test_a_prompt_that_just_fits_is_whole_and_warns_of_nothing(caplog: pytest.LogCaptureFixture) -> None:
    assert rows(encode_labels(TOKENIZER, ["red apple"], "{}", 4)) == reference(["red apple"], "{}")
    assert not caplog.messages


def test_without_places_the_warning_counts_from_one(caplog: pytest.LogCaptureFixture) -> None:
    encode_labels(TOKENIZER, ["bird", "red apple"], "{}", 3)
    assert caplog.messages[0].startswith("label 2 has 4 tokens")


def test_no_labels() -> None:
    with pytest.raises(LabelsError, match="at least one"):
        encode_labels(TOKENIZER, [])


@pytest.mark.parametrize("template", ["a photo", "{} and {}"])
def test_a_template_without_its_place(template: str) -> None:
    with pytest.raises(UsageError, match="exactly one"):
        encode_labels(TOKENIZER, ["bird"], template)


@given(st.lists(st.text(max_size=30), min_size=1, max_size=8), st.integers(3, 20))
def test_any_labels(labels: list[str], context_length: int) -> None:
    ids = encode_labels(TOKENIZER, labels, PHOTO, context_length)
    whole = [
        row if len(row) <= context_length else [*row[: context_length - 1], EOT] for row in reference(labels, PHOTO)
    ]
    assert rows(ids) == whole
    assert ids.lengths.min() >= 1
