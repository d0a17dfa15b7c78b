"""The list of all models: on a terminal, and as the page of the manual."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import open_clip
import pytest
import torch
from click.testing import CliRunner
from support.models import vision_tower
from torch.utils.flop_counter import FlopCounterMode

from attri.train.cli import main
from attri.train.model.catalogue import entries

ROOT = Path(__file__).parents[3]


def listed(*arguments):
    return CliRunner().invoke(main, ["--list-models", *arguments])


def test_every_model_of_open_clip_is_listed_and_most_tags():
    every = entries()
    assert [entry.name for entry in every] == open_clip.list_models()
    taken = [entry for entry in every if not entry.refusal]
    assert len(taken) == 124
    assert sum(len(entry.tags) for entry in taken) == 178
    assert all(entry.vision for entry in every)


def test_a_word_finds_names_and_tags_with_cost_licence_and_reason():
    done = listed("mobileclip-")
    assert done.exit_code == 0
    assert "MobileCLIP-B  224 px, 35.4 GFLOP an image, 0.3 a label, supported" in done.stdout
    assert "    datacompdr (apple-amlr, research only)" in done.stdout
    assert "MobileCLIP-S1  256 px, " in done.stdout
    assert "9.3 GFLOP an image, 0.57 a label and 4.8 once, supported" in done.stdout
    assert done.stderr == "3 models, 3 supported\n"
    assert "not supported: its text tower is a Hugging Face model" in listed("roberta-ViT").stdout
    assert "ViT-B-32-quickgelu  224 px" in listed("METACLIP_400M").stdout


def test_a_word_that_no_model_has_is_wrong_usage():
    done = listed("nosuchmodel")
    assert done.exit_code == 2
    assert "no model of open_clip has 'nosuchmodel' in its name or tags" in done.stderr


@pytest.mark.parametrize("name", ["ViT-B-32", "RN50", "PE-Core-T-16-384", "MobileCLIP2-S0"])
def test_the_costs_are_what_pytorch_counts(name):
    config = open_clip.get_model_config(name)
    entry = next(entry for entry in entries(name) if entry.name == name)
    with torch.device("meta"), torch.no_grad():
        tower = vision_tower(config["embed_dim"], config["vision_cfg"])
        tower = tower.eval().requires_grad_(False)
        with FlopCounterMode(display=False) as counter:
            tower(torch.empty(1, 3, entry.size, entry.size))
    assert entry.vision == pytest.approx(counter.get_total_flops() / 1e9, abs=1e-3)


def test_the_page_is_what_the_script_makes():
    spec = importlib.util.spec_from_file_location("backbones", ROOT / "tools" / "backbones.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    assert script.page() == script.PAGE.read_text(encoding="utf-8")
