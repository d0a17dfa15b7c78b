"""Train the pocket backbone: a small CLIP, contrastive, on drawings and photographs and true phrases about them.

    python -m tools.pocket.pretrain pocket.npz --checkpoint run --output weights.safetensors

Each step takes BATCH concepts, an image of each, and a caption of each. An image and a caption are a positive pair
when the caption is true of the concept, whichever concept it was drawn for: "a picture of a bird." is true of every
bird in the batch, so shared words make no false negatives.

A run that was stopped goes on from its last checkpoint. The plan is a plateau and then a decline of the learning
rate; until the decline has begun, --steps may be given anew without changing what has been done.
"""

import argparse
import json
import math
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
from torch.utils.data import DataLoader

from attri.train.pocket import CONFIG, build, load
from tools.pocket.data import Batch, Data, Vocabulary
from tools.pocket.evaluate import encode_captions, prompts

BATCH, STEPS, WARMUP = 128, 4000, 100
DECLINE = 0.45  # The last part of training, when the learning rate falls.
WHOLE = 0.1  # The last part of training, when whole images are seen.
DROPPED = 0.5  # Before that, so many of the patches are left out: less time for a step, and little accuracy lost.
RATE, ANCHOR_RATE, DECAY, EMA = 1e-3, 1e-2, 0.1, 0.998


class Objective(torch.nn.Module):
    """Symmetric InfoNCE within the batch, and of the towers against learned anchors that are thrown away afterwards.

    One anchor per concept sets every image and caption against all concepts instead of the batch's; one per kind
    gives the image tower an easy task to begin with. Without them the towers wait for each other.
    """

    def __init__(self, data: Data) -> None:
        super().__init__()
        self.kind = data.kind
        self.concepts = torch.nn.Parameter(0.1 * torch.randn(len(data.concepts), CONFIG["embed_dim"]))  # [C, D]
        self.kinds = torch.nn.Parameter(0.1 * torch.randn(int(data.kind.max()) + 1, CONFIG["embed_dim"]))  # [K, D]

    def forward(self, images: Tensor, texts: Tensor, batch: Batch, scale: Tensor) -> Tensor:
        """images, texts: [B, D] unit rows, of the batch's images and captions."""
        pairs = (batch.true[:, batch.concepts] > 0).float()  # [B captions, B images]
        to_texts, to_images = pairs.T / pairs.T.sum(1, keepdim=True), pairs / pairs.sum(1, keepdim=True)
        contrast = toward(images, texts, to_texts, scale) + toward(texts, images, to_images, scale)
        anchors, kinds = F.normalize(self.concepts, dim=-1), F.normalize(self.kinds, dim=-1)
        named = F.cross_entropy(scale * images @ anchors.T, batch.concepts)
        sorted_out = F.cross_entropy(scale * images @ kinds.T, self.kind[batch.concepts], ignore_index=-1)
        return (contrast + named + sorted_out + toward(texts, anchors, batch.true, scale)) / 2


def toward(queries: Tensor, targets: Tensor, wanted: Tensor, scale: Tensor) -> Tensor:
    """Cross-entropy of each query's softmax over the targets with a distribution over them, [Q, T]."""
    logits = scale * queries @ targets.T
    return (logits.logsumexp(1) - (logits * wanted).sum(1)).mean()


class Run:
    """Everything that a step changes, and how it is kept."""

    def __init__(self, data: Data, vocabulary: Vocabulary, steps: int) -> None:
        self.data, self.vocabulary, self.steps, self.step = data, vocabulary, steps, 0
        self.model = build(len(vocabulary.ids))
        self.objective = Objective(data)
        self.average = AveragedModel(self.model, multi_avg_fn=follow)
        self.model.visual.patch_dropout = PatchDropout(DROPPED)
        for part in (self.model.visual.transformer, self.model.transformer, self.objective):
            part.compile(dynamic=False)  # takes a third of a step's time away
        self.optimizer = torch.optim.AdamW(groups(self.model, self.objective), betas=(0.9, 0.98), fused=True)

    def start_from(self, weights: Path) -> None:
        """Begin with trained weights; the anchors with the texts of their names."""
        trained = load(weights)
        tensors = trained.state_dict()
        rows = tensors["token_embedding.weight"][self.vocabulary.ids]  # [V, W], zeros where training saw none
        fresh = self.model.token_embedding.weight.detach()
        tensors["token_embedding.weight"] = torch.where(rows.any(1, keepdim=True), rows, fresh)
        self.model.load_state_dict(tensors)
        self.average.module.load_state_dict(tensors)
        numbers = zip(self.data.kind.tolist(), self.data.concepts, strict=True)
        kinds = {number: one.kinds[0] for number, one in numbers if one.kinds}
        with torch.no_grad():
            for anchors, words in (
                (self.objective.concepts, [one.names[0] for one in self.data.concepts]),
                (self.objective.kinds, [kinds[number] for number in range(len(kinds))]),
            ):
                anchors.copy_(encode_captions(self.model, self.vocabulary, prompts(words)))

    def advance(self, batch: Batch) -> float:
        """One batch, one update; returns the loss."""
        self.step += 1
        torch.manual_seed(self.data.seed * 1_000_003 + self.step)  # of the patches that are left out
        if self.step > (1 - WHOLE) * self.steps:
            self.model.visual.patch_dropout = torch.nn.Identity()
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak"] * rate(self.step, self.steps)
        # Without the fused attention, whose backward pass on a CPU takes half of the step at this size.
        with torch.autocast("cpu", torch.bfloat16), sdpa_kernel(SDPBackend.MATH):
            images = self.model.encode_image(batch.images, normalize=True)
            texts = encode_captions(self.model, self.vocabulary, batch.captions)
        loss: Tensor = self.objective(images.float(), texts.float(), batch, self.model.logit_scale.exp())
        self.optimizer.zero_grad()
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        with torch.no_grad():
            self.model.logit_scale.clamp_(0, math.log(100))
        self.average.update_parameters(self.model)
        return loss.item()

    def parts(self) -> dict[str, torch.nn.Module | torch.optim.Optimizer]:
        """What has a state, by name. The batches and the dropped patches follow from the seed and the step."""
        return {"model": self.model, "average": self.average, "objective": self.objective, "optimizer": self.optimizer}

    def keep(self, file: Path) -> None:
        """Write the exact state; a killed run leaves no half file."""
        state = {name: part.state_dict() for name, part in self.parts().items()}
        torch.save(state | {"step": self.step}, file.with_suffix(".tmp"))
        file.with_suffix(".tmp").replace(file)

    def resume(self, file: Path) -> None:
        """Go on from what `keep` wrote."""
        state = torch.load(file, weights_only=True)
        self.step = state["step"]
        for name, part in self.parts().items():
            part.load_state_dict(state[name])


def train(run: Run, folder: Path, output: Path, every: int) -> CLIP:
    """Train to the planned end and return the moving average of the weights."""
    folder.mkdir(parents=True, exist_ok=True)
    if (folder / "checkpoint.pt").exists():
        run.resume(folder / "checkpoint.pt")
    steps = range(run.step + 1, run.steps + 1)
    batches = DataLoader(run.data, batch_size=None, sampler=steps, num_workers=1, prefetch_factor=4)
    started, losses = time.monotonic(), list[float]()
    for batch in batches:
        losses.append(run.advance(batch))
        if run.step % 50 == 0:
            report(run, losses[-50:], folder / "log.txt", time.monotonic() - started)
        if run.step % every == 0 or run.step == run.steps:
            run.keep(folder / "checkpoint.pt")
            save(run.average.module, run.vocabulary, output)
    return run.average.module


def report(run: Run, losses: list[float], file: Path, seconds: float) -> None:
    """One line on stdout and in the log."""
    scale, loss = run.model.logit_scale.exp().item(), sum(losses) / len(losses)
    line = f"step {run.step} loss {loss:.3f} scale {scale:.1f} seconds {seconds:.0f} cpu {time.process_time():.0f}"
    print(line, flush=True)
    with file.open("a") as log:
        print(line, file=log)


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
        {"params": decayed, "weight_decay": DECAY, "peak": RATE},
        {"params": kept, "weight_decay": 0.0, "peak": RATE},
        {"params": list(objective.parameters()), "weight_decay": 0.0, "peak": ANCHOR_RATE},
    ]


def rate(step: int, steps: int) -> float:
    """The factor of RATE: a linear warm-up, a plateau, and a linear way down to nothing over the last part."""
    return min(step / WARMUP, 1.0, (steps - step) / (DECLINE * steps))


def save(model: CLIP, vocabulary: Vocabulary, output: Path) -> None:
    """Write a model whose token rows are those of the vocabulary."""
    write({name: tensor.detach() for name, tensor in model.state_dict().items()}, vocabulary.ids, output)


def write(tensors: dict[str, Tensor], token_ids: list[int], output: Path) -> None:
    """Write the tensors, the ids of the trained token rows, and the config; a killed run leaves no half file."""
    packed = pack({name: tensor.half() for name, tensor in tensors.items()})
    packed["token_ids"] = torch.tensor(token_ids, dtype=torch.int32)
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
    parser.add_argument("--checkpoint", type=Path, default=Path("run"), help="folder of the state and the log")
    parser.add_argument("--output", type=Path, default=Path("weights.safetensors"))
    parser.add_argument("--start", type=Path, help="trained weights to begin with")
    parser.add_argument(
        "--with", dest="more", nargs="*", default=[], metavar="SET=DIR", help="photographs to add, as caltech101=DIR"
    )
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--every", type=int, default=200, help="steps between two checkpoints")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(arguments.seed)
    more = {name: Path(folder) for name, _, folder in (text.partition("=") for text in arguments.more)}
    data = Data(arguments.cache, BATCH, arguments.seed, more)
    run = Run(data, Vocabulary(data.phrases), arguments.steps)
    if arguments.start and not (arguments.checkpoint / "checkpoint.pt").exists():
        run.start_from(arguments.start)
    train(run, arguments.checkpoint, arguments.output, arguments.every)


if __name__ == "__main__":
    main()
