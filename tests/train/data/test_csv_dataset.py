"""A CSV file of images, as spreadsheets and scripts write it."""

from __future__ import annotations

import os
import random
import shutil

import pytest

from attri.runtime.errors import UsageError
from attri.train.data import read_data

PLAIN = "path,label\na/0.png,red_apple\na/1.png,bird\na/2.png,red apple\na/3.png,bird\n"


@pytest.fixture
def table(tmp_path, image_files):
    """table(text or bytes): a CSV file beside six images, a/0.png to a/5.png"""
    (tmp_path / "a").mkdir()
    for number in range(6):
        shutil.copy(image_files[number], tmp_path / "a" / f"{number}.png")

    def write(content):
        file = tmp_path / "photos.csv"
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
        return file

    return write


def rows(data, part):
    return [(p.path.name, data.classes[p.target]) for p in getattr(data, part)]


def test_splits_are_taken_as_they_are(table):
    data = read_data(
        table(
            "split,path,label,taken by\n"
            "train,a/0.png,red_apple,Ann\ntest,a/1.png,bird,Bob\nval,a/2.png,red apple,Ann\n"
            "train,a/3.png,bird,\ntrain,a/4.png,red apple,\ntest,a/5.png,red apple,Ann\n"
        )
    )
    assert data.classes == ["bird", "red apple"]
    assert rows(data, "train") == [("0.png", "red apple"), ("3.png", "bird"), ("4.png", "red apple")]
    assert rows(data, "val") == [("2.png", "red apple")]
    assert rows(data, "test") == [("1.png", "bird"), ("5.png", "red apple")]
    assert (data.name, data.root.name, data.template) == ("photos", "photos.csv", "a photo of a {}.")


def test_without_splits_a_share_is_held_out_as_of_folders(table, tmp_path):
    lines = [f"a/{n}.png,{'cat' if n % 2 else 'dog'}" for n in range(6)]
    for line in lines:
        name, label = line.split(",")
        (tmp_path / "folders" / label).mkdir(parents=True, exist_ok=True)
        shutil.copy(tmp_path / name, tmp_path / "folders" / label)
    listed = read_data(table("\n".join(["path,label", *lines])), seed=5)
    folders = read_data(tmp_path / "folders", seed=5)
    for part in ("train", "val", "test"):
        assert sorted(rows(listed, part)) == sorted(rows(folders, part))
    assert [name for name, _ in rows(listed, "train")] == sorted(name for name, _ in rows(listed, "train"))


def test_shots_are_drawn_in_the_order_of_the_lines(table):
    lines = [f"a/{n}.png,{'dog' if n < 3 else 'cat'},train" for n in range(6)]
    data = read_data(table("\n".join(["path,label,split", *lines, "photos.csv,cat,test"])), shots=2, seed=3)
    stream = random.Random(3)
    drawn = stream.sample(["0.png", "1.png", "2.png"], 2) + stream.sample(["3.png", "4.png", "5.png"], 2)
    assert [name for name, _ in rows(data, "train")] == drawn


@pytest.mark.parametrize(
    "content",
    [
        PLAIN.replace("\n", "\r\n"),
        PLAIN.replace("\n", "\r"),
        "\ufeff" + PLAIN,
        PLAIN.replace("\n", "\n\n"),
        PLAIN.rstrip("\n"),
        PLAIN + ",\n , \n",
        PLAIN.replace("path,label", " path , label "),
        PLAIN.replace("a/0.png,red_apple", '"a/0.png","red_apple "'),
    ],
)
def test_every_way_of_saving_it_reads_the_same(table, content):
    plain = read_data(table(PLAIN))
    assert len(plain.train) + len(plain.test) == 4
    assert read_data(table(content)) == plain


def test_names_may_have_commas_quotes_and_any_letters(table, image_files):
    file = table("path,label\n")
    names = ['big, "red".png', "äpfel 苹果.png"]
    for name in names:
        shutil.copy(image_files[0], file.parent / name)
    absolute = file.parent / "a" / "0.png"
    text = f'path,label\n"big, ""red"".png","apple, red"\näpfel 苹果.png,苹果\n{absolute},苹果\n'
    data = read_data(table(text))
    assert data.classes == ["apple, red", "苹果"]
    assert {p.path for p in data.train + data.test} == {absolute, *(file.parent / name for name in names)}


def test_a_table_for_testing_only_has_no_training_images(table):
    data = read_data(table("path,label,split\na/0.png,cat,test\na/1.png,dog,test\n"), shots=2)
    assert (len(data.train), len(data.val), len(data.test)) == (0, 0, 2)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", r"csv, line 1: the columns are \[\]; begin with path,label"),
        (b"\x89PNG\r\n\x1a\n", "csv, line 1: this is not UTF-8"),
        ("path,label\n", "csv holds 0 classes: two or more"),
        ("a/0.png,cat\na/1.png,dog\n", r"line 1: the columns are \['a/0.png', 'cat'\]; begin with path,label"),
        ("path;label\na/0.png;cat\n", r"line 1: the columns are \['path;label'\]"),
        ("path,class\na/0.png,cat\n", r"line 1: the columns are \['path', 'class'\]"),
        ("\n\npath,path,label\na,a,b\n", r"line 3: the columns are \['path', 'path', 'label'\]"),
        ("path,label\na/0.png,cat\na/1.png,cat\n", "csv holds 1 class"),
        ("path,label\na/0.png,cat\na/1.png\n", "line 3: 1 field for 2 columns"),
        (
            "path,label\na/0.png,cat\na/1,5.png,dog\n",
            "line 3: 3 fields for 2 columns; a name with a comma needs quotes",
        ),
        ("path,label\na/0.png,\n", "line 2: the label is empty"),
        ("path,label\na/0.png,__\n", "line 2: the label is empty"),
        ("path,label\n\n ,cat\n", "line 3: the path is empty"),
        ("path,label,split\na/0.png,cat,valid\n", "line 2: the split is 'valid'; write train, val or test"),
        ("path,label,split\na/0.png,cat,\n", "line 2: the split is ''; write"),
        (PLAIN + "a/./1.png,dog\n", r"line 6: .*/a/1.png is on line 3 too"),
        (
            PLAIN + "a/9.png,dog\n../x.png,dog\n",
            r"names 6 images, of which 2 are missing, the first on line 6: .*/a/9.png$",
        ),
        (PLAIN + f"{'x' * 5000}.png,dog\n", "names 5 images, of which 1 is missing"),
        (PLAIN + "a,dog\n", r"of which 1 is missing, the first on line 6: .*/a$"),
        ('path,label\na/0.png,"cat\na/1.png,dog\n', "line 2: unexpected end of data"),
        ('path,label\n"a/0.png"x,cat\n', "line 2: ',' expected after '\"'"),
        ('path,label\n"a/0.png","black\ncat"\na/1.png\n', "line 4: 1 field"),
        (PLAIN + f"a/4.png,{'x' * 200_000}\n", "line 6: field larger than field limit"),
        (PLAIN.encode() + "a/4.png,k\xe4fer\n".encode("latin-1"), "line 6: this is not UTF-8; save the file as UTF-8"),
        (PLAIN.encode("utf-16"), "line 1: this is not UTF-8"),
        (PLAIN.encode("utf-16-le"), "line 1: a NUL byte"),
        ("path,label,split\na/0.png,cat,train\na/1.png,dog,test\n", ": the class 'dog' has no training images"),
        ("path,label,split\na/0.png,cat,val\na/1.png,dog,val\n", ": the class 'cat' has no test images"),
    ],
)
def test_a_wrong_line_is_named(table, content, message):
    file = table(content)
    with pytest.raises(UsageError, match=message) as raised:
        read_data(file)
    assert str(raised.value).startswith(str(file))


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every file")
def test_a_locked_file_is_named(table):
    file = table(PLAIN)
    file.chmod(0)
    with pytest.raises(UsageError, match="csv cannot be read: Permission denied"):
        read_data(file)
