"""A bundle takes its place whole, whoever else writes there, and whenever it is stopped."""

from __future__ import annotations

import errno
import json
import resource
from pathlib import Path

import pytest

from attri.export.bundle import writer
from attri.export.bundle.writer import staging
from attri.export.graph.trace import trace_text, trace_vision
from attri.export.onnx import export_bundle
from attri.runtime.errors import FailedError, UsageError


def fill(folder, text):
    folder.mkdir(exist_ok=True)
    (folder / "vision.onnx").write_text(text)
    (folder / "manifest.json").write_text(json.dumps({"schema": 2, "attri": "0", "files": {"vision.onnx": {}}}))


def said(folder):
    return (folder / "vision.onnx").read_text()


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def bundle(tmp_path):
    fill(tmp_path / "bundle", "old")
    return tmp_path / "bundle"


def test_the_new_takes_the_place_of_the_old(bundle):
    with staging(bundle) as folder:
        fill(folder, "new")
    assert said(bundle) == "new"
    assert names(bundle.parent) == ["bundle"]


@pytest.mark.parametrize("when", ["before", "between", "after"])
def test_ctrl_c_around_the_renames_leaves_one_of_them(bundle, monkeypatch, when):
    rename = Path.rename

    def stopped(self, target):
        new = Path(target) == bundle and self.suffix != writer.OLD
        if not new and when != "before":
            return rename(self, target)
        if when == "after":
            rename(self, target)
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "rename", stopped)
    with pytest.raises(KeyboardInterrupt), staging(bundle) as folder:
        fill(folder, "new")
    assert said(bundle) == ("new" if when == "after" else "old")
    assert names(bundle.parent) == ["bundle"]


def test_two_exports_at_once_do_not_mix(bundle):
    with staging(bundle) as folder:
        fill(folder, "first")
        with pytest.raises(FailedError, match=r"another attri-export is writing .*bundle: wait for it, or choose"):
            staging(bundle).__enter__()
        with staging(bundle.with_name("bundle.2")) as other:  # another place is free
            fill(other, "second")
    assert (said(bundle), said(bundle.with_name("bundle.2"))) == ("first", "second")
    assert names(bundle.parent) == ["bundle", "bundle.2"]


def test_an_error_of_reading_is_not_called_one_of_writing(bundle, tmp_path):
    with pytest.raises(FileNotFoundError), staging(bundle):
        (tmp_path / "missing.png").read_bytes()
    with pytest.raises(BrokenPipeError), staging(bundle):
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")
    with pytest.raises(FailedError, match=r"cannot write .*bundle: No such file"), staging(bundle) as folder:
        (folder / "engines" / "plan").write_text("")
    assert said(bundle) == "old"
    assert names(tmp_path) == ["bundle"]


def test_a_link_stays_a_link(bundle):
    link = bundle.parent / "link"
    link.symlink_to("bundle")
    with staging(link) as folder:
        fill(folder, "new")
    assert link.is_symlink()
    assert said(bundle) == "new"
    assert names(bundle.parent) == ["bundle", "link"]


def test_what_dead_exports_left_goes_and_what_others_write_stays(bundle):
    bundle.rename(bundle.with_name(".bundle.attri-dead.old"))  # killed between its renames
    fill(bundle.with_name(".bundle.attri-dead"), "new")
    fill(bundle.with_name(".bundle.x.attri-live"), "of an export to bundle.x")
    with pytest.raises(ZeroDivisionError), staging(bundle):
        raise ZeroDivisionError
    assert said(bundle) == "old"
    assert names(bundle.parent) == [".bundle.x.attri-live", "bundle"]


def test_what_came_to_the_place_meanwhile_is_kept(bundle):
    stage = staging(bundle)
    fill(stage.__enter__(), "new")
    (bundle / "notes.txt").write_text("precious")
    with pytest.raises(UsageError, match=r"holds notes.txt, which is not part of the bundle"):
        stage.__exit__(None, None, None)
    assert names(bundle) == ["manifest.json", "notes.txt", "vision.onnx"]


def test_a_place_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(FailedError, match=r"cannot write to .*file: (File exists|Not a directory)"):
        staging(tmp_path / "file" / "bundle").__enter__()
    assert names(tmp_path) == ["file"]


def test_a_full_disk_leaves_the_old_bundle(bundle, pocket_model, traced, image_files):
    """As far as the writer can tell: no file may grow over a megabyte."""
    for trace in (trace_vision, trace_text):
        traced(trace)(pocket_model, "fp32", 18)  # and keeps it in a file that is larger
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, before[1]))
    try:
        with pytest.raises(FailedError, match=r"cannot write .*bundle: (File too large|\d+ requested and \d+ written)"):
            export_bundle(pocket_model, bundle, ["bird", "apple"], image_files[:2])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert said(bundle) == "old"
    assert names(bundle.parent) == ["bundle"]
