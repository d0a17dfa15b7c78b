"""Training that starts at a prompt in use: from a run or a prompt file, with a collection or folders of images."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file
from support.collected import collect
from support.training import QUICK

from attri.export.prompt import make_prompt
from attri.runtime.collection.folder import Collection
from attri.runtime.errors import UsageError
from attri.runtime.prompt import Prompt
from attri.train.cli import main
from attri.train.config import INCREMENTAL, PromptConfig
from attri.train.data.added import join, read_added
from attri.train.fitting import fit, frozen_text, new_trainer
from attri.train.incremental import read_start
from attri.train.model import AttriPrompt
from attri.train.pocket import IMAGES
from attri.train.report.entries import with_former_names
from attri.train.training.features import FeatureCache
from attri.train.training.progress import Progress
from attri.train.training.trainer import Trainer

AGAIN = dataclasses.replace(QUICK, **INCREMENTAL | {"epochs": 3})


@pytest.fixture(scope="module")
def start(finished):
    return read_start(finished)


@pytest.fixture(scope="module")
def new_class(tmp_path_factory) -> Path:
    """Five images of a class that the run in `finished` does not know."""
    folder = tmp_path_factory.mktemp("new") / "weather"
    folder.mkdir()
    for image in sorted((IMAGES / "train/weather").iterdir())[:5]:
        shutil.copy(image, folder)
    return folder.parent


@pytest.fixture(scope="module")
def added(start, new_class, photos):
    """To learn: the new class; to compare on: one image of each of its five old ones."""
    return join(start.classes, [read_added(new_class), dataclasses.replace(read_added(photos), train=[])])


def model_of(backbone, config: PromptConfig) -> AttriPrompt:
    torch.manual_seed(3)
    model = AttriPrompt(backbone, config)
    with torch.no_grad():
        model.pool.tokens.mul_(torch.linspace(1, 10, config.pool_size)[:, None, None])  # of various lengths
    return model.eval()


def saved(model: AttriPrompt, path: Path, **facts) -> Path:
    """The prompt file of a model, as of a bundle with its backbone and shape."""
    prompt = make_prompt(model, ["cat", "dog"], "a {}.")
    config, backbone = model.config, model.backbone
    base = {"model": backbone.public_name, "weights": backbone.sha256, "depth": model.depth}
    base |= {"sources": model.vision.sources, "clusters": config.clusters, "topk": config.topk}
    base |= {"prompt_length": config.prompt_length, "static_tokens": config.static_tokens}
    Prompt.of(dataclasses.replace(prompt.facts, base=base, **facts), prompt.tensors).save(path)
    return path


@pytest.mark.parametrize(
    "config",
    [
        PromptConfig(pool_size=8, static_tokens=2),
        PromptConfig(pool_size=4, static_tokens=1, shared=False, kmeans_init="farthest"),
    ],
    ids=["shared", "per block"],
)
def test_a_prompt_file_gives_back_the_tokens_that_it_was_made_from(backbone, config, tmp_path):
    trained = model_of(backbone, config)
    found = read_start(saved(trained, tmp_path / "prompt.attri"))
    assert (found.classes, found.template, found.config.shared) == (["cat", "dog"], "a {}.", config.shared)
    assert found.config.kmeans_init == config.kmeans_init
    pool = found.model(backbone).pool
    for tokens, expected in ((pool.tokens, trained.pool.tokens), (pool.static, trained.pool.static)):
        centred = (expected - expected.mean(-1, keepdim=True)).detach()  # their mean is lost, and changes nothing
        # A table is float32, and what it says of a token's length is what the norm's eps of 1e-5 makes of it.
        torch.testing.assert_close(tokens.detach(), centred, rtol=1e-3, atol=1e-4)


def test_what_cannot_be_started_at_is_refused(backbone, finished, tmp_path):
    trained = model_of(backbone, PromptConfig(pool_size=4))
    with pytest.raises(UsageError, match=r"no image retrieves from .*, it holds none of its entries"):
        read_start(saved(trained, tmp_path / "plain.attri", selection="none"))
    with pytest.raises(UsageError, match=r"says how its prompt retrieves: leave out `lloyd_steps`"):
        read_start(finished, lloyd_steps=2)
    with pytest.raises(UsageError, match="no trained prompt in"):
        read_start(tmp_path)
    start = read_start(saved(trained, tmp_path / "prompt.attri"))
    with pytest.raises(UsageError, match="was learned on other weights of pocket"):
        dataclasses.replace(start, backbone={"model": "pocket", "sha256": "0" * 64}).model(backbone)
    spoilt = start.tensors | {"prompt_table": torch.randn_like(start.tensors["prompt_table"])}
    with pytest.raises(UsageError, match="are not those of any tokens"):
        dataclasses.replace(start, tensors=spoilt).model(backbone)


def test_a_new_class_is_learned_and_what_no_image_retrieves_stays(backbone, start, added):
    folder = fit(added, backbone, start.config, AGAIN, start=start)
    pool, before = load_file(folder / "prompt.safetensors"), start.tensors
    assert torch.equal(pool["keys"], before["keys"])  # so that every image retrieves what it did
    moved = (pool["tokens"] != before["tokens"]).any(-1).any(-1)[0]
    results = json.loads((folder / "results.json").read_text())
    used = torch.tensor(results["pool_usage"][0]) > 0
    assert torch.equal(moved, used)
    assert not used.all()
    assert results["run"]["classes"] == [*start.classes, "weather"]
    compared = results["comparison"]
    assert [row["images"] for row in compared["classes"]] == [1, 1, 1, 1, 1, 0]
    assert compared["collect"][0] == "weather"
    page = (folder / "report.html").read_text()
    assert "trained on from run, which knows 5 classes, with 5 images to 6 classes, for 3 epochs" in page
    assert "Against the prompt that it started at" in page
    again = read_start(folder)
    assert again.classes == [*start.classes, "weather"]
    # One new class has no lift over others; of the known ones the first training says what entries attract.
    assert again.attracts == start.attracts
    assert any(names for names in again.attracts[0])


def test_entries_keep_their_names_and_get_those_of_new_classes():
    found = [[[{"name": "cat", "lift": 3.0}, {"name": "new", "lift": 2.0}], [], [{"name": "new", "lift": 1.5}]]]
    before = [[["dog", "cat"], ["dog"], ["a", "b", "c"]]]
    assert with_former_names(found, before, ["a", "b", "c", "cat", "dog"]) == [
        [
            [{"name": "new", "lift": 2.0}, {"name": "dog"}, {"name": "cat"}],
            [{"name": "dog"}],
            [{"name": "new", "lift": 1.5}, {"name": "a"}, {"name": "b"}],
        ]
    ]


def test_a_prompt_file_says_what_its_entries_attract(backbone, tmp_path):
    trained, names = model_of(backbone, PromptConfig(pool_size=2)), [["cat"], []]
    found = read_start(saved(trained, tmp_path / "prompt.attri", attracts=[names] * trained.depth))
    assert found.attracts == [names]
    assert read_start(saved(trained, tmp_path / "older.attri")).attracts is None


def test_known_classes_are_anchored_at_the_first_prompt_and_new_ones_at_plain_clip(backbone, start, added):
    trainer = new_trainer(backbone, added, start.config, AGAIN, FeatureCache(Progress(quiet=True)), start)
    model, known = trainer.model, len(start.classes)
    centres = trainer.data.centres[:, 0]
    anchors = trainer.anchors(centres)  # [5, 6, D]
    with torch.no_grad():
        text = model.encode_text(trainer.labels, model.pool.retrieve(centres))
    # Not a bit is learned yet; what differs is that six classes are encoded here, and five there.
    torch.testing.assert_close(anchors[:, :known], text[:, :known], rtol=0, atol=1e-6)
    frozen = frozen_text(model, ["weather"], start.frozen_templates)
    torch.testing.assert_close(anchors[:, known:], frozen.expand(5, 1, -1), rtol=0, atol=1e-6)
    trainer.run(lambda _: None, lambda _: None)
    assert torch.equal(trainer.anchors(centres), anchors)


def test_a_stopped_training_goes_on_and_ends_bit_equal(backbone, start, added, monkeypatch):
    whole = load_file(fit(added, backbone, start.config, AGAIN, start=start) / "prompt.safetensors")
    step = Trainer.step

    def stop(self, rows, views):
        if self.epoch == 1:
            raise KeyboardInterrupt
        return step(self, rows, views)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "step", stop)
        with pytest.raises(KeyboardInterrupt):
            fit(added, backbone, start.config, AGAIN, "stopped", start=start)
    other = dataclasses.replace(start, digest="another")
    with pytest.raises(UsageError, match="holds an unfinished run with other settings"):
        fit(added, backbone, start.config, AGAIN, "stopped", start=other)
    resumed = load_file(fit(added, backbone, start.config, AGAIN, "stopped", start=start) / "prompt.safetensors")
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def command(*arguments: object):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_the_command_learns_a_collection_from_the_prompt_of_a_bundle(bundle, photos, tmp_path):
    """Of seven images six have a label, one is none of the labels; what nobody has labelled does not count."""
    birds, weather = (sorted((IMAGES / "train" / name).iterdir()) for name in ("bird", "weather"))
    names = collect(tmp_path / "collected", 8, [*birds[:3], *weather[:5]])
    answers = {name: "bird" if number < 3 else "weather" for number, name in enumerate(names[:6])}
    Collection(tmp_path / "collected").set_answers({**answers, names[6]: None})
    options = ("--from", bundle, "--add", tmp_path / "collected", "--data", photos, "--output", tmp_path / "run")
    quick = ("--epochs", 1, "--augmentations", 1, "--batch-size", 2, "--device", "cpu")
    done = command(*options, *quick)
    assert done.exit_code == 0, done.output
    # Of the collection one of each three is held out; the dataset has 20 images to learn, and 5 to test on.
    assert "new weather, arrow, bug, building, clothing; 24 images to learn, 7 to compare on" in done.output
    assert "says  collect more, first of " in done.stdout
    found = read_start(tmp_path / "run")
    known = Prompt.read(bundle / "prompt.attri").facts.labels
    assert found.classes == [*known, "weather", "arrow", "bug", "building", "clothing"]
    assert found.config.depth == 6


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--add", "x"], "--add goes with --from"),
        (["--test", "x"], "--test goes with --from"),
        (["--from", "x"], "--from needs --add"),
        (["--from", "x", "--add", "y", "--pool-size", 8], "settings are kept: leave out --pool-size"),
        (["--from", "nowhere.attri", "--add", "y"], "nowhere.attri cannot be read"),
    ],
)
def test_wrong_usage_is_one_line(options, message):
    done = command(*options)
    assert done.exit_code != 0
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_images_to_compare_on_have_known_classes(bundle, new_class, photos):
    done = command("--from", bundle, "--add", new_class, "--test", photos)
    assert done.exit_code == 2
    assert "which neither the prompt nor --add knows" in done.stderr


def test_a_collection_without_labels_and_classes_that_differ_by_case_are_refused(tmp_path, new_class):
    collect(tmp_path / "collected", 1)
    with pytest.raises(UsageError, match="no image there is labelled yet"):
        read_added(tmp_path / "collected")
    with pytest.raises(UsageError, match="'weather' and 'Weather' are two classes"):
        join(["Weather"], [read_added(new_class)])
