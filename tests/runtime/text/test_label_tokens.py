"""Labels as token ids, held against the obvious: SOS, the prompt's ids, EOT."""

from __future__ import annotations

import logging

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attri.runtime.errors import LabelsError, UsageError
from attri.runtime.text.label_tokens import LabelTokens, encode_labels, warn_of_alike
from attri.runtime.tokenizer import EOT, SOS, Tokenizer

TOKENIZER = Tokenizer()
PHOTO = "a photo of a {}."


def rows(ids: LabelTokens) -> list[list[int]]:
    """Whole sequences, put together again by following token_rows."""
    sequences = []
    for token_rows, eot in zip(ids.token_rows, ids.eot_rows, strict=True):
        length = token_rows.tolist().index(eot) + 1
        assert [ids.suffix_positions[row] for row in token_rows[:length]] == list(range(length))
        sequences.append([*ids.prefix, *(ids.suffix_tokens[row] for row in token_rows[:length])])
    return sequences


def beginnings(labels: list[str], template: str, prefix: int) -> set[tuple[int, ...]]:
    """Every distinct beginning, longer than the prefix, of any prompt: what must be computed, and no more."""
    whole = reference(labels, template)
    return {tuple(row[:end]) for row in whole for end in range(prefix + 1, len(row) + 1)}


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
def test_prefix_and_suffix_make_the_whole_prompt(labels: list[str], template: str) -> None:
    ids = encode_labels(TOKENIZER, labels, template)
    assert rows(ids) == reference(labels, template)
    assert ids.whole() == reference(labels, template)
    assert all(part.dtype == np.int32 for part in vars(ids).values())
    assert ids.token_rows.shape == (len(labels), ids.lengths.max())
    assert ids.prefix[0] == SOS
    assert len(ids.suffix_tokens) == len(beginnings(labels, template, len(ids.prefix)))
    assert ids.token_rows.flatten()[ids.scatter_index].tolist() == list(range(len(ids.suffix_tokens)))


def test_the_prefix_is_all_that_the_prompts_share() -> None:
    ids = encode_labels(TOKENIZER, ["red apple", "red car"], PHOTO)
    assert ids.prefix.tolist() == [SOS, *TOKENIZER.encode("a photo of a red")]


@pytest.mark.parametrize("labels", [["bird"], ["bird", "bird"]])
def test_equal_prompts_still_own_their_eot(labels: list[str]) -> None:
    ids = encode_labels(TOKENIZER, labels, PHOTO)
    assert (ids.suffix_tokens.tolist(), ids.eot_rows.tolist()) == ([EOT], [0] * len(labels))


def test_labels_that_begin_alike_share_rows() -> None:
    ids = encode_labels(TOKENIZER, ["great white shark", "bird", "great white heron", "great"], "{}")
    assert len(ids.suffix_tokens) == len(["great", "white", "shark", "EOT", "bird", "EOT", "heron", "EOT", "EOT"])


def test_a_short_prompt_repeats_its_eot_to_the_longest() -> None:
    ids = encode_labels(TOKENIZER, ["bird", "a very small old house"], "{}")
    assert (ids.token_rows[0, ids.lengths[0] - 1 :] == ids.eot_rows[0]).all()


@pytest.mark.parametrize("chosen", [[2, 0], [1], slice(1, None), [0, 0]])
def test_some_of_the_prompts_are_what_they_would_be_alone(chosen: list[int] | slice) -> None:
    labels = ["great white shark", "bird", "great white heron seen from afar"]
    ids = encode_labels(TOKENIZER, labels, PHOTO)
    some = np.array(labels)[chosen].tolist()
    taken = ids.take(chosen if isinstance(chosen, slice) else np.array(chosen))
    assert rows(taken) == reference(some, PHOTO)
    assert len(taken.suffix_tokens) == len(beginnings(some, PHOTO, len(ids.prefix)))


def test_the_graph_is_fed_embeddings() -> None:
    ids = encode_labels(TOKENIZER, ["red apple", "bird"], PHOTO)
    table = (np.arange(49408)[:, None] % 1000).astype(np.float16)
    feed = ids.feed(table)
    assert feed["suffix_tokens"].tolist() == (ids.suffix_tokens % 1000)[:, None].tolist()
    assert feed["prefix"].tolist() == (ids.prefix % 1000)[:, None].tolist()
    assert feed["suffix_tokens"].dtype == np.float32
    assert feed["token_rows"] is ids.token_rows


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


def warned(groups: dict[str, list[str]], places: list[str] | None, caplog: pytest.LogCaptureFixture) -> list[str]:
    """The warnings of labels with these prompts."""
    words = [prompt for group in groups.values() for prompt in group]
    _, prompt = np.unique([str(TOKENIZER.encode(word)) for word in words], return_inverse=True)
    starts = np.cumsum([0, *map(len, groups.values())][:-1])
    with caplog.at_level(logging.WARNING, logger="attri"):
        warn_of_alike(list(groups), starts, prompt, places)
    return caplog.messages


def test_labels_with_the_same_tokens_are_named_once(caplog: pytest.LogCaptureFixture) -> None:
    labels = {word: [word] for word in ("Bird", "cat", "bird", "BIRD", "Cat", "dog")}
    places = [f"l.txt line {number}" for number in range(1, 7)]
    (message,) = warned(labels, places, caplog)
    birds = "'Bird' (l.txt line 1) = 'bird' (l.txt line 3) = 'BIRD' (l.txt line 4)"
    assert message.endswith(f"keep one of each: {birds}; 'cat' (l.txt line 2) = 'Cat' (l.txt line 5)")


def test_a_prompt_that_two_labels_share(caplog: pytest.LogCaptureFixture) -> None:
    groups = {"defect": ["a dent", "A Dent", "a scratch"], "damage": ["a hole", "A scratch"], "fine": ["clean"]}
    (message,) = warned(groups, None, caplog)
    assert message.endswith(": 'defect' = 'damage'")


def test_many_that_are_alike_are_counted(caplog: pytest.LogCaptureFixture) -> None:
    words = [word for i in range(9) for word in (f"bird {i}", f"BIRD {i}")]
    assert warned({word: [word] for word in words}, None, caplog)[0].endswith("'bird 4' = 'BIRD 4'; and 4 more")


def test_labels_that_differ_in_tokens_are_not_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    assert warned({"bird": ["bird", "Bird"], "birds": ["birds"], "b": ["a b"]}, None, caplog) == []
