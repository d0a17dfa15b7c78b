"""Teach an image tower of timm what the pocket backbone sees: a small CLIP of another family, with pocket's own text.

    python -m tools.pocket.distill OUTPUT --images DIR [DIR ...] [--tower test_vit2] [--steps 3000]
    attri-train --model local-dir:OUTPUT

Each step takes random views of BATCH images, and the tower learns pocket's unit features of them by their cosine. No
labels are needed. OUTPUT is a folder as open_clip writes it; a run that was stopped goes on from its last checkpoint.
The default tower is one of timm's test models: 8 blocks of width 64, a mean over 100 patches, a register token.
"""

import argparse
import json
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from open_clip.model import CustomTextCLIP
from safetensors.torch import save_file
from timm.models import get_pretrained_cfg
from torch import Tensor

from attri.runtime.images import list_images
from attri.train.pocket import CONFIG, MEAN, STD, load
from tools.pocket.augment import photograph
from tools.pocket.data import normal
from tools.pocket.render import open_square

BATCH, WARMUP, RATE, DECAY = 48, 100, 2e-3, 0.05
SIDE = 128  # pixels that an image is kept with


class Run:
    """A student, its teacher, and the state of the training."""

    def __init__(self, tower: str, steps: int) -> None:
        torch.manual_seed(0)
        self.teacher, self.steps, self.step = load().requires_grad_(False), steps, 0
        self.config = config_of(tower)
        self.student = CustomTextCLIP(**self.config)
        self.student.text.load_state_dict(text_of(self.teacher), strict=False)
        with torch.no_grad():
            self.student.logit_scale.copy_(self.teacher.logit_scale)
            for name, tensor in self.student.visual.named_parameters():
                if name.endswith(".gamma"):  # of layer scale, which begins at next to nothing and takes long to grow
                    tensor.fill_(0.2)
        self.optimizer = torch.optim.AdamW(self.student.visual.parameters(), RATE, (0.9, 0.98), weight_decay=DECAY)

    def advance(self, photos: Tensor) -> float:
        """Learn from one batch of images, [B, SIDE, SIDE, 3] uint8; returns its mean cosine."""
        self.step += 1
        free = torch.ones(len(photos), dtype=torch.bool)
        size = self.config["vision_cfg"]["image_size"]
        views = photograph(photos.permute(0, 3, 1, 2).float() / 255, free, ~free, size)
        small = F.interpolate(views, CONFIG["vision_cfg"]["image_size"], mode="bicubic", antialias=True).clamp(0, 1)
        with torch.no_grad():
            taught = self.teacher.encode_image(normal(small), normalize=True)
        cosine: Tensor = (self.student.encode_image(normal(views), normalize=True) * taught).sum(1).mean()
        for group in self.optimizer.param_groups:
            group["lr"] = RATE * min(self.step / WARMUP, 0.5 + 0.5 * math.cos(math.pi * self.step / self.steps))
        self.optimizer.zero_grad()
        torch.autograd.backward(1 - cosine)
        torch.nn.utils.clip_grad_norm_(self.student.visual.parameters(), 1.0)
        self.optimizer.step()
        return cosine.item()

    def keep(self, folder: Path) -> None:
        """Write the state to go on from, and the model; a killed run leaves no half file."""
        state = {"student": self.student.visual.state_dict(), "optimizer": self.optimizer.state_dict()}
        torch.save(state | {"step": self.step}, folder / "checkpoint.tmp")
        (folder / "checkpoint.tmp").replace(folder / "checkpoint.pt")
        tensors = {name: tensor.contiguous() for name, tensor in self.student.state_dict().items()}
        save_file(tensors, folder / "model.tmp")
        (folder / "model.tmp").replace(folder / "open_clip_model.safetensors")
        about = {"model_cfg": self.config | {"custom_text": True}, "preprocess_cfg": {"mean": MEAN, "std": STD}}
        (folder / "open_clip_config.json").write_text(json.dumps(about, indent=2))

    def resume(self, file: Path) -> None:
        """Go on from what `keep` wrote."""
        state = torch.load(file, weights_only=True)
        self.step = state["step"]
        self.student.visual.load_state_dict(state["student"])
        self.optimizer.load_state_dict(state["optimizer"])


def config_of(tower: str) -> dict[str, Any]:
    """open_clip's config of a CLIP with this tower of timm, at its own image size, and pocket's text tower."""
    known: Any = get_pretrained_cfg(tower, allow_unregistered=False)
    vision = {"timm_model_name": tower, "timm_model_pretrained": False, "timm_pool": "", "timm_proj": "linear"}
    return {
        "embed_dim": CONFIG["embed_dim"],
        "vision_cfg": vision | {"image_size": known.input_size[-1]},
        "text_cfg": CONFIG["text_cfg"],
    }


def text_of(clip: torch.nn.Module) -> dict[str, Tensor]:
    """The text tower's tensors of a model that has them beside those of the image tower."""
    return {
        name: tensor
        for name, tensor in clip.state_dict().items()
        if not name.startswith("visual.") and name not in ("logit_scale", "logit_bias")
    }


def read(folders: list[Path]) -> Tensor:
    """All images in and below folders, [N, SIDE, SIDE, 3] uint8."""
    files = [file for folder in folders for file in list_images(folder)]
    return torch.from_numpy(np.stack([open_square(file, SIDE) for file in files]))


def train(run: Run, photos: Tensor, folder: Path, every: int) -> None:
    """Train to the planned end."""
    folder.mkdir(parents=True, exist_ok=True)
    if (folder / "checkpoint.pt").exists():
        run.resume(folder / "checkpoint.pt")
    cosines = list[float]()
    while run.step < run.steps:
        torch.manual_seed(run.step + 1)  # a run that was stopped sees what it would have seen
        cosines.append(run.advance(photos[torch.randint(len(photos), (BATCH,))]))
        if run.step % 50 == 0:
            print(f"step {run.step}  cosine {np.mean(cosines[-50:]):.4f}  cpu {time.process_time():.0f} s", flush=True)
        if run.step % every == 0 or run.step == run.steps:
            run.keep(folder)


def main() -> None:
    """Read the images and train."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path)
    parser.add_argument("--images", type=Path, nargs="+", required=True, help="folders of images, of any kind")
    parser.add_argument("--tower", default="test_vit2", help="a model of timm [test_vit2]")
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--every", type=int, default=250, help="steps between checkpoints")
    given = parser.parse_args()
    train(Run(given.tower, given.steps), read(given.images), given.output, given.every)


if __name__ == "__main__":
    main()
