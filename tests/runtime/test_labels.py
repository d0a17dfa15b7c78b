"""Labels files as people save them, prompts, and folder names as words."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attri.runtime._util.printable import CONTROLS
from attri.runtime.errors import LabelsError, UsageError
from attri.runtime.labels import class_words, load_labels, parse_labels, prompt, read_labels


@pytest.fixture
def labels_file(tmp_path: Path) -> Path:
    return tmp_path / "labels.txt"


CONTROL_CHARACTERS = "".join(filter(CONTROLS.match, map(chr, range(0x2070))))
TEXT = "red apple\n\n  green apple \t\n# a comment\n   # another\nÄpfel #2\nかりんご\n"
WANTED = ["red apple", "green apple", "Äpfel #2", "かりんご"]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
def test_encodings_and_line_ends(labels_file: Path, encoding: str, newline: str) -> None:
    labels_file.write_bytes(TEXT.replace("\n", newline).encode(encoding))
    assert read_labels(labels_file) == WANTED
    assert read_labels(str(labels_file)) == WANTED
    assert [(label.text, label.line) for label in load_labels(labels_file)] == list(
        zip(WANTED, [1, 3, 6, 7], strict=True)
    )


def test_utf16_big_endian_with_bom(labels_file: Path) -> None:
    labels_file.write_bytes(b"\xfe\xff" + TEXT.encode("utf-16-be"))
    assert read_labels(labels_file) == WANTED


@pytest.mark.parametrize("char", "\x00\x07\x0b\x0c\x1b\x1c\x7f\x85\x9b\u2028\u2029\u202a\u202e\u2066\u2069")
def test_control_characters_are_refused(char: str) -> None:
    """They do not end a line, either: the line that is named is the one that an editor shows."""
    for line in (f"b{char}ird", f"bird = a{char} bird"):
        with pytest.raises(LabelsError, match=f"^the labels line 3 holds the control character U\\+{ord(char):04X}: "):
            parse_labels(f"# {char}\ncat\n{line}\n", "the labels")


def test_what_scripts_need_is_no_control_character(labels_file: Path) -> None:
    joined = ["می\u200cخواهم", "👩\u200d🔧", "\u200fעברית\u200e", "a\u00a0b"]
    labels_file.write_text("\n".join(joined), encoding="utf-8")
    assert read_labels(labels_file) == joined


def test_a_tab_is_a_blank(labels_file: Path) -> None:
    labels_file.write_text("red\tapple\ndefect\t=\ta\tscratch\n")
    assert [str(label) for label in load_labels(labels_file)] == ["red apple", "defect = a scratch"]


def test_repeats_keep_the_first_and_are_logged_once(labels_file: Path, caplog: pytest.LogCaptureFixture) -> None:
    labels_file.write_text("# animals\ncat\ndog\n\ncat \nCat\ndog\n")
    with caplog.at_level(logging.WARNING, logger="attri"):
        assert read_labels(labels_file) == ["cat", "dog", "Cat"]
    assert [record.getMessage() for record in caplog.records] == [
        f"{labels_file}: repeated labels are used once: line 5 repeats line 2, line 7 repeats line 3"
    ]


def test_many_repeats_are_counted_not_listed(labels_file: Path, caplog: pytest.LogCaptureFixture) -> None:
    labels_file.write_text("cat\n" * 1000)
    with caplog.at_level(logging.WARNING, logger="attri"):
        assert read_labels(labels_file) == ["cat"]
    assert caplog.records[0].getMessage().endswith("line 6 repeats line 1, and 994 more")


def test_no_repeats_no_log(labels_file: Path, caplog: pytest.LogCaptureFixture) -> None:
    labels_file.write_text("cat\ndog\n")
    read_labels(labels_file)
    assert not caplog.records


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "holds no labels: write one label a line"),
        (b" \n\t\n", "holds no labels: write one label a line"),
        (b"# only\n# comments", "holds no labels: write one label a line"),
        (b"\xef\xbb\xbf", "holds no labels: write one label a line"),
        ("cat\nKäfer\n".encode("latin-1"), "is not UTF-8 at byte 5: save the file as UTF-8"),
        (b"\xef\xbb\xbfcat\xff", "is not UTF-8 at byte 6: save the file as UTF-8"),
        (b"\xff\xfec\x00a", "is not UTF-8 at byte 4: save the file as UTF-8"),
        ("cat\ndog".encode("utf-16-le"), "holds NUL bytes, so it is not plain text: save the file as UTF-8, one label"),
        (b"\x7fELF\x01\x00\x00\x00", "holds NUL bytes, so it is not plain text: save the file as UTF-8, one label"),
        (b"\xff\xd8\xff\xe0\x00\x10JFIF", "is not UTF-8 at byte 0: save the file as UTF-8"),
    ],
)
def test_unusable_files_say_what_to_do(labels_file: Path, data: bytes, message: str) -> None:
    labels_file.write_bytes(data)
    with pytest.raises(LabelsError) as caught:
        read_labels(labels_file)
    assert str(caught.value).startswith(f"{labels_file} {message}")
    assert "\n" not in str(caught.value)


def test_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(LabelsError, match=r"none\.txt does not exist: write a text file"):
        read_labels(tmp_path / "none.txt")
    with pytest.raises(LabelsError, match="is a folder: name a text file"):
        read_labels(tmp_path)
    (tmp_path / "file").write_text("cat")
    with pytest.raises(LabelsError, match="cannot be read: Not a directory"):
        read_labels(tmp_path / "file" / "labels.txt")


@given(st.lists(st.text(st.characters(codec="utf-8", exclude_characters=f"{CONTROL_CHARACTERS}=")), max_size=8))
def test_any_lines_come_back_stripped_and_once(tmp_path_factory: pytest.TempPathFactory, lines: list[str]) -> None:
    """Without an equals sign: what stands behind one is a prompt, which this reader refuses."""
    path = tmp_path_factory.getbasetemp() / "any.txt"
    path.write_bytes("\n".join(["first", *lines]).encode())
    wanted = dict.fromkeys(["first", *(line.strip() for line in lines)])
    assert read_labels(path) == [label for label in wanted if label and not label.startswith("#")]


def test_prompt_replaces_its_one_gap() -> None:
    assert prompt("a photo of a {}.", "red apple") == "a photo of a red apple."
    assert prompt("{}", "{}") == "{}"
    assert prompt("{} {0} {name}", "%s") == "%s {0} {name}"


@pytest.mark.parametrize(("template", "count"), [("a photo", 0), ("", 0), ("{} and {}", 2), ("{0}", 0)])
def test_prompt_refuses_other_templates(template: str, count: int) -> None:
    with pytest.raises(UsageError) as caught:
        prompt(template, "cat")
    assert str(caught.value) == (
        f"the template {template!r} has {count} of {{}}: write exactly one, where the label goes"
    )


def test_class_words() -> None:
    assert class_words("golden_retriever") == "golden retriever"
    assert class_words("__T-shirt___ two\t parts_") == "T-shirt two parts"


def test_prompts_of_a_label(labels_file: Path) -> None:
    text = "cat\ndefect = a scratch ; a dent;; a scratch;\n a  =\tb \ne=mc2\nx=\na = b = c; d = e\n"
    labels_file.write_text(text)
    found = [(label.text, label.prompts, label.line) for label in load_labels(labels_file)]
    assert found == [
        ("cat", ("cat",), 1),
        ("defect", ("a scratch", "a dent"), 2),
        ("a", ("b",), 3),  # the first one stays; line 6 repeats it
        ("e=mc2", ("e=mc2",), 4),
        ("x=", ("x=",), 5),
    ]
    assert [str(label) for label in load_labels(labels_file)][:3] == ["cat", "defect = a scratch; a dent", "a = b"]
    with pytest.raises(LabelsError, match=r"labels.txt line 2: prompts of a label are for attri-run"):
        read_labels(labels_file)


@pytest.mark.parametrize("line", ["dog = ; ;", "dog =", "dog = ", "  dog\t="])
def test_a_label_without_prompts(labels_file: Path, line: str) -> None:
    labels_file.write_text(f"cat\n{line}\n")
    with pytest.raises(LabelsError, match=r"labels.txt line 2: 'dog' has no prompts: write dog = one; another"):
        load_labels(labels_file)


@pytest.mark.parametrize("line", ["= a dog", "=", " =\t a dog", "= = a dog"])
def test_prompts_without_a_label(labels_file: Path, line: str) -> None:
    labels_file.write_text(f"cat\n{line}\n")
    with pytest.raises(LabelsError, match=r"labels.txt line 2: there is no label before the equals sign: write"):
        load_labels(labels_file)


@given(st.text())
def test_any_text_is_labels_or_one_line_that_says_why_not(text: str) -> None:
    """And what is shown to whoever edits them is read back as the same."""
    try:
        labels = parse_labels(text, "the labels")
    except LabelsError as error:
        labels = []
        message = str(error)
        assert not set(message) & set("\r\n")
    again = parse_labels("\n".join(map(str, labels)), "again") if labels else []
    assert [(label.text, label.prompts) for label in again] == [(label.text, label.prompts) for label in labels]


@given(st.binary(max_size=300))
def test_any_bytes_are_labels_or_one_line(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    file = tmp_path_factory.getbasetemp() / "fuzzed.txt"
    file.write_bytes(data)
    try:
        assert all(label.text.strip() and label.prompts for label in load_labels(file))
    except LabelsError as error:
        assert "\n" not in str(error)  # noqa: PT017  # either outcome is right
