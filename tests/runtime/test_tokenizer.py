"""The tokenizer against open_clip's own, which is the definition of the ids."""

from __future__ import annotations

import gzip
import random
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attri.runtime import tokenizer as ours
from attri.runtime.errors import BundleError
from attri.runtime.tokenizer import EOT, SOS, Tokenizer

MERGES = Path(ours.__file__).with_name("merges.txt.gz")


@pytest.fixture(scope="module")
def open_clip_tokenizer() -> ModuleType:
    import open_clip.tokenizer

    return open_clip.tokenizer


@pytest.fixture(scope="module")
def reference(open_clip_tokenizer: ModuleType) -> Any:
    return open_clip_tokenizer.SimpleTokenizer()


TOKENIZER = Tokenizer()

SCRIPTS = [
    *[(0x0021, 0x024F), (0x0370, 0x03FF), (0x0400, 0x052F), (0x0531, 0x05F4), (0x0600, 0x06FF), (0x0900, 0x0D7F)],
    *[(0x0E00, 0x0E7F), (0x10A0, 0x10FF), (0x1200, 0x137F), (0x13A0, 0x13FF), (0x1E00, 0x1FFF), (0x2000, 0x27BF)],
    *[(0x3040, 0x30FF), (0x4E00, 0x9FFF), (0xAC00, 0xD7A3), (0xFB00, 0xFDFF), (0xFE00, 0xFFFD), (0x1D400, 0x1D7FF)],
    *[(0x1F300, 0x1FAFF), (0x20000, 0x2A6DF), (0xE000, 0xE0FF), (0x0000, 0x0020), (0x007F, 0x00A0)],
]
PIECES = [
    *["it's", "DON'T", "we'll", "they'RE", "I'd", "I'm", "you've", "'s", "''", "o'clock", "’s", "'ſ", "'ſt"],
    *["&amp;", "&amp;amp;", "&lt;b&gt;", "&eacute;", "&EACUTE;", "&#233;", "&#x1F600;", "&nothing;", "&", "&;"],
    *["cafÃ©", "â€œquotesâ€\x9d", "schÃ¶n", "Ð¿Ñ€Ð¸Ð²ÐµÑ‚", "ã\x81‚", "l\u2019Ã©tÃ©", "Ã\xa0", "\ufeffbom"],
    *["<start_of_text>", "<end_of_text>", "<START_of_TEXT>", "x<end_of_text>y", "<ſtart_of_text>", "<start_of_text"],
    *["3.14", "1,000,000", "2026-11-24", "½", "Ⅷ", "٣٤", "x²", "10kg", "007", "İstanbul", "straße", "ΣΑΣ", "ÅNG"],
    *["\t", "\n", "\r\n", "\x0b", "\x1b[31mred\x1b[0m", "\x00", "\x85", "\u200b", "\u3000", "\ud83d", "e\u0301"],
    *["...", "!?", "--", "(a)", "[b]", "{c}", "$5", "50%", "#tag", "@user", "a_b", "C++", "/", "\\", "~`^|", '"', "*"],
    *["👩\u200d👩\u200d👧", "🇩🇪", "👍🏽", "❤️", "1️⃣", "日本語テキスト", "안녕하세요", "हिन्दी", "ไทย", "العربية", "עברית"],
    *["ﬁne ﬂow", "ＦＵＬＬ", "<br/>"],
]


def random_texts(count: int) -> list[str]:
    """Words of the vocabulary, cased at random, letters of many scripts, and pieces that have broken tokenizers."""
    rng = random.Random(20261124)
    vocabulary = gzip.decompress(MERGES.read_bytes()).decode().replace(" ", "").replace("</w>", "").split("\n")

    def piece() -> str:
        kind = rng.random()
        if kind < 0.5:
            return rng.choice([str.lower, str.title, str.upper])(rng.choice(vocabulary))
        if kind < 0.75:
            return rng.choice(PIECES)
        low, high = rng.choice(SCRIPTS)
        return "".join(chr(rng.randint(low, high)) for _ in range(rng.randint(1, 6)))

    return [rng.choice([" ", " ", "", "  "]).join(piece() for _ in range(rng.randint(1, 6))) for _ in range(count)]


def test_same_ids_as_open_clip(reference: Any) -> None:
    for text in [*random_texts(10_000), *PIECES, "", " ", "\n"]:
        assert TOKENIZER.encode(text) == reference.encode(text), repr(text)


@pytest.mark.parametrize("word", ["a" * 3000, "antidisestablishmentarianism" * 40, "🙂" * 300, "ab1" * 500, "!?" * 700])
def test_same_ids_for_very_long_words(reference: Any, word: str) -> None:
    assert TOKENIZER.encode(word) == reference.encode(word)


@settings(max_examples=500, deadline=None)
@given(st.text())
def test_same_ids_for_any_text(reference: Any, text: str) -> None:
    assert TOKENIZER.encode(text) == reference.encode(text)


@settings(max_examples=500, deadline=None)
@given(st.text(st.characters(max_codepoint=0x7E)))
def test_the_short_way_for_ascii_changes_nothing(reference: Any, text: str) -> None:
    assert TOKENIZER.encode(text) == reference.encode(text)


def test_marks_and_size_are_open_clips(reference: Any) -> None:
    assert (SOS, EOT, TOKENIZER.vocab_size) == (reference.sot_token_id, reference.eot_token_id, reference.vocab_size)
    assert (SOS, EOT) == (49406, 49407)


def test_published_example() -> None:
    """The ids that OpenAI's own tokenizer gives for the caption of its README."""
    assert TOKENIZER.encode("a diagram") == [320, 22697]


def test_order_and_repetition_of_calls_do_not_matter() -> None:
    texts = random_texts(200)
    first = [TOKENIZER.encode(text) for text in texts]
    assert [TOKENIZER.encode(text) for text in reversed(texts)] == first[::-1]


def test_merges_are_the_used_part_of_openais(open_clip_tokenizer: ModuleType) -> None:
    """The generator of `merges.txt.gz`: these lines, gzipped without a name and a time."""
    merges = gzip.decompress(Path(open_clip_tokenizer.default_bpe()).read_bytes()).decode().split("\n")
    used = merges[1 : 49152 - 256 - 2 + 1]
    assert gzip.decompress(MERGES.read_bytes()).decode() == "\n".join(used) + "\n"
    assert MERGES.read_bytes()[3:8] == bytes(5)  # no name flag, time 0: every build of the package is the same


def test_merges_from_elsewhere(tmp_path: Path) -> None:
    copy = tmp_path / "merges.txt.gz"
    copy.write_bytes(MERGES.read_bytes())
    assert Tokenizer(copy).encode("a red apple") == TOKENIZER.encode("a red apple")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "0 merges where CLIP's tokenizer has 48894"),
        (b"not gzip", "Not a gzipped file"),
        (MERGES.read_bytes()[:1000], "damaged; copy the file again"),
        (MERGES.read_bytes()[:500] + b"\0" * 64 + MERGES.read_bytes()[564:], "damaged|CRC"),
        (gzip.compress(b"a b\nb c\n", mtime=0), "2 merges where CLIP's tokenizer has 48894"),
        (gzip.compress(b"a b c\n", mtime=0), "damaged; copy the file again"),
        (gzip.compress(b"\xff\xfe", mtime=0), "damaged; copy the file again"),
    ],
)
def test_damaged_merges_are_refused(tmp_path: Path, data: bytes, message: str) -> None:
    path = tmp_path / "merges.txt.gz"
    path.write_bytes(data)
    with pytest.raises(BundleError, match=message):
        Tokenizer(path)


def test_missing_merges(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"none\.gz: cannot read the tokenizer's merges \(No such file"):
        Tokenizer(tmp_path / "none.gz")


def test_plain_labels_need_neither_ftfy_nor_torch() -> None:
    """Startup on a device: what these imports cost is why they are made late."""
    code = (
        "import sys; from attri.runtime.tokenizer import Tokenizer; assert 'regex' not in sys.modules; "
        "Tokenizer().encode('a photo of a red apple'); assert not {'ftfy', 'torch', 'open_clip'} & set(sys.modules); "
        "Tokenizer().encode('cafÃ©'); assert 'ftfy' in sys.modules"
    )
    subprocess.run([sys.executable, "-I", "-X", "utf8", "-c", code], check=True)
