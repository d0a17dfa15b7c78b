"""Train the pocket backbone from scratch: a small CLIP, contrastive, on drawn emoji and true phrases about them.

    python -m tools.pocket.pretrain emoji.npz --output weights.safetensors

Each step takes BATCH emoji, one image of each in a random style, and one caption of each. An image and a caption
are a positive pair when the caption is true of the emoji, whichever emoji it was drawn for: "a picture of a bird." is
true of every bird in the batch, so shared words make no false negatives.
"""

import argparse
import functools
import json
import math
import random
import time
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from open_clip.model import CLIP
from open_clip.transformer import PatchDropout
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.optim.swa_utils import AveragedModel

from attri.train.pocket import CONFIG, build
from tools.pocket.data import Data, Vocabulary
from tools.pocket.evaluate import encode_captions, evaluate

BATCH, STEPS, WARMUP = 128, 3560, 100
DECLINE = 0.3  # The last part of training, when the learning rate falls and whole images are seen.
DROPPED = 0.4  # Before that, so many of the patches are left out: less time for a step, and little accuracy lost.
RATE, ANCHOR_RATE, DECAY, EMA = 1e-3, 1e-2, 0.1, 0.998


class Objective(torch.nn.Module):
    """Symmetric InfoNCE within the batch, and of the towers against learned anchors that are thrown away afterwards.

    One anchor per emoji sets every image and caption against all emoji instead of the batch's; one per sub-category
    gives the image tower an easy task to begin with. Without them the towers wait for each other.
    """

    def __init__(self, data: Data) -> None:
        super().__init__()
        self.kind = data.kind
        self.emoji = torch.nn.Parameter(0.1 * torch.randn(len(data.emoji), CONFIG["embed_dim"]))  # [E, D]
        self.kinds = torch.nn.Parameter(0.1 * torch.randn(int(data.kind.max()) + 1, CONFIG["embed_dim"]))  # [K, D]

    def forward(self, images: Tensor, texts: Tensor, emoji: Tensor, true: Tensor, scale: Tensor) -> Tensor:
        """images, texts: [B, D] unit rows; emoji: [B]; true: [B, E], of which emoji each caption is true."""
        pairs = true[:, emoji]  # [B captions, B images]
        batch = toward(images, texts, pairs.T, scale) + toward(texts, images, pairs, scale)
        anchors, kinds = F.normalize(self.emoji, dim=-1), F.normalize(self.kinds, dim=-1)
        named = F.cross_entropy(scale * images @ anchors.T, emoji)
        sorted_out = F.cross_entropy(scale * images @ kinds.T, self.kind[emoji])
        return (batch + named + sorted_out + toward(texts, anchors, true, scale)) / 2


def toward(queries: Tensor, targets: Tensor, true: Tensor, scale: Tensor) -> Tensor:
    """Cross-entropy of each query's softmax over the targets with the uniform distribution over its true ones."""
    wanted = true.float()
    return F.cross_entropy(scale * queries @ targets.T, wanted / wanted.sum(1, keepdim=True))


def train(data: Data, vocabulary: Vocabulary, steps: int, output: Path) -> CLIP:
    """Train for a fixed number of steps and return the moving average of the weights."""
    model = build(len(vocabulary.ids))
    model.visual.patch_dropout = PatchDropout(DROPPED)
    objective = Objective(data)
    average = AveragedModel(model, multi_avg_fn=follow)
    optimizer = torch.optim.AdamW(groups(model, objective), lr=RATE, betas=(0.9, 0.98), fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate(step, steps))
    started, total = time.monotonic(), 0.0
    for step in range(1, steps + 1):
        if step > WARMUP and rate(step, steps) < 1:
            model.visual.patch_dropout = torch.nn.Identity()
        total += train_step(model, objective, optimizer, data, vocabulary)
        schedule.step()
        average.update_parameters(model)
        if step % 100 == 0:
            scale, seconds = model.logit_scale.exp().item(), time.monotonic() - started
            print(f"step {step} loss {total / 100:.3f} scale {scale:.1f} seconds {seconds:.0f}", flush=True)
            total = 0.0
        if step % 250 == 0 or step == steps:
            save(average.module, vocabulary, output)
        if step % 1000 == 0 or step == steps:
            encode = functools.partial(encode_captions, average.module, vocabulary)
            with torch.autocast("cpu", torch.bfloat16):
                print(evaluate(average.module.eval(), data, encode), flush=True)
    return average.module


def train_step(
    model: CLIP, objective: Objective, optimizer: torch.optim.Optimizer, data: Data, vocabulary: Vocabulary
) -> float:
    """One batch, one update; returns the loss."""
    images, emoji, captions, true = data.sample(BATCH)
    # Without the fused attention, whose backward pass on a CPU takes half of the step at this size.
    with torch.autocast("cpu", torch.bfloat16), sdpa_kernel(SDPBackend.MATH):
        image_features = model.encode_image(images, normalize=True)
        text_features = encode_captions(model, vocabulary, captions)
    scale = model.logit_scale.exp()
    loss: Tensor = objective(image_features.float(), text_features.float(), emoji, true, scale)
    optimizer.zero_grad()
    torch.autograd.backward(loss)
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    with torch.no_grad():
        model.logit_scale.clamp_(0, math.log(100))
    return loss.item()


@torch.no_grad()
def follow(averages: Sequence[Tensor], currents: Sequence[Tensor], count: Tensor | int) -> None:
    """Move the averages towards the current weights: fast at first, so that they are never far behind."""
    weight = 1 - min(EMA, (1 + int(count)) / (10 + int(count)))
    for average, current in zip(averages, currents, strict=True):
        average.lerp_(current, weight)


def groups(model: CLIP, objective: Objective) -> list[dict[str, object]]:
    """Weight decay for matrices only, and not for the token rows, most of which are rarely seen."""
    decayed = [tensor for name, tensor in model.named_parameters() if tensor.ndim > 1 and "embedding" not in name]
    kept = [tensor for name, tensor in model.named_parameters() if tensor.ndim <= 1 or "embedding" in name]
    return [
        {"params": decayed, "weight_decay": DECAY},
        {"params": kept, "weight_decay": 0.0},
        {"params": list(objective.parameters()), "weight_decay": 0.0, "lr": ANCHOR_RATE},
    ]


def rate(step: int, steps: int) -> float:
    """The factor of RATE: a linear warm-up, a plateau, and a linear way down to nothing over the last part."""
    return min(step / WARMUP, 1.0, (steps - step) / (DECLINE * steps))


def save(model: CLIP, vocabulary: Vocabulary, output: Path) -> None:
    """Write the tensors, the ids of the trained token rows, and the config; a killed run leaves no half file."""
    tensors = {name: tensor.detach().half() for name, tensor in model.state_dict().items()}
    packed = pack(tensors) | {"token_ids": torch.tensor(vocabulary.ids, dtype=torch.int32)}
    temporary = output.with_suffix(".tmp")
    save_file(packed, temporary, {"format": "pt", "config": json.dumps(CONFIG)})
    temporary.replace(output)


def pack(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Matrices as int8 with one float32 scale per row, beside them as `NAME:scale`; the rest stays float16."""
    packed = {name: tensor.contiguous() for name, tensor in tensors.items() if tensor.ndim < 2}
    for name in tensors.keys() - packed.keys():
        rows = tensors[name].flatten(1).float()  # [R, ...]
        scale = (rows.abs().amax(1, keepdim=True) / 127).clamp(min=1e-9)  # [R, 1]
        packed[name] = (rows / scale).round().clamp(-127, 127).to(torch.int8).view_as(tensors[name])
        packed[f"{name}:scale"] = scale
    return packed


def main() -> None:
    """Parse the command line, seed, train."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cache", type=Path, help="the training array file that collect wrote")
    parser.add_argument("--output", type=Path, default=Path("weights.safetensors"))
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1, help="the published weights come from one")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    random.seed(arguments.seed)
    torch.manual_seed(arguments.seed)
    data = Data(arguments.cache)
    train(data, Vocabulary(data.phrases), arguments.steps, arguments.output)


if __name__ == "__main__":
    main()
