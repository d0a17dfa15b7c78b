"""What the fold is worth: literal and folded text encoder, vision with and without retrieval, and a cached frame.

    python benchmarks/fold.py [--model ViT-B-16] [--labels 100] [--threads 2] [--rounds 15]

Everything runs in ONNX Runtime on the CPU, in one process, the contestants taking turns; printed are medians and the
ratios of each round. Both text encoders must give the same features, or the script fails. Weights are random: time does
not depend on them. The table is kept in benchmarks/fold.md.
"""

from __future__ import annotations

import argparse
import platform
import tempfile
import time
from pathlib import Path

import numpy as np
import onnxruntime as ort
import torch
from torch import Tensor, nn

from attri.export.onnx import save, strip, trace_text, trace_vision
from attri.runtime.ort import OrtEngine
from attri.runtime.prompts import EOT, SOS, encode_labels
from attri.runtime.tokenizer import Tokenizer
from attri.train.backbone import load_backbone
from attri.train.config import TEMPLATE, PromptConfig
from attri.train.model import AttriPrompt

ADJECTIVES = ["red", "green", "small", "old", "wooden", "striped", "shiny", "broken", "wet", "ripe"]
NOUNS = ["apple", "bottle", "car", "dog", "chair", "bird", "flower", "shoe", "bridge", "teapot"]


class Literal(nn.Module):
    """open_clip's own text blocks over 77 tokens, prompts really concatenated: ids [C, 77], retrieved [1, L, M]"""

    def __init__(self, model: AttriPrompt) -> None:
        super().__init__()
        self.clip, self.tokens = model.backbone.clip, nn.Parameter(model.pool.tokens_of_blocks().detach().clone())

    def forward(self, ids: Tensor, eot: Tensor, retrieved: Tensor) -> Tensor:
        x = self.clip.token_embedding(ids) + self.clip.positional_embedding  # [C, 77, W]
        for index, block in enumerate(self.clip.transformer.resblocks):
            prompts = self.tokens[index][retrieved[0, index].long()].flatten(0, 1)  # [M p, W]
            x = torch.cat([x[:, :1], prompts.expand(x.shape[0], -1, -1), x[:, 1:]], 1)
            x = block(x, attn_mask=torch.full((x.shape[1],) * 2, -torch.inf).triu(1))
            x = torch.cat([x[:, :1], x[:, 1 + len(prompts) :]], 1)
        x = self.clip.ln_final(x)[torch.arange(len(ids)), eot] @ self.clip.text_projection
        return nn.functional.normalize(x, dim=-1)[None]


class Vision(nn.Module):
    """open_clip's own image tower, and nothing else."""

    def __init__(self, model: AttriPrompt) -> None:
        super().__init__()
        self.clip = model.backbone.clip

    def forward(self, pixels: Tensor) -> Tensor:
        return self.clip.encode_image(pixels, normalize=True)


def export(module: nn.Module, inputs: dict[str, Tensor], path: Path) -> None:
    with torch.no_grad():
        program = torch.onnx.export(
            module.eval(),
            tuple(inputs.values()),
            dynamo=True,
            input_names=list(inputs),
            opset_version=18,
            verbose=False,
        )
    strip(program.model_proto)
    save(program.model_proto, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="ViT-B-16")
    parser.add_argument("--labels", type=int, default=100)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=15)
    arguments = parser.parse_args()

    torch.manual_seed(0)
    model = AttriPrompt(load_backbone(arguments.model), PromptConfig()).eval()
    with torch.no_grad():
        model.pool.tokens.normal_()
    labels = [f"{a} {n}" for n in NOUNS for a in ADJECTIVES][: arguments.labels]
    words = encode_labels(Tokenizer(), labels, TEMPLATE)
    ids = np.zeros((len(labels), 77), np.int64)
    for row, own, length in zip(ids, words.tokens, words.lengths, strict=True):
        whole = [*words.stem, *own[:length]]
        row[: len(whole)] = whole
    assert (ids[:, 0] == SOS).all()
    eot = (ids == EOT).argmax(1)
    side = model.backbone.preprocess().size
    pixels = np.random.default_rng(0).standard_normal((1, 3, side, side), np.float32)

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        retrieved = torch.zeros(1, model.depth, model.config.retrieved, dtype=torch.int32)
        literal_inputs = {"ids": torch.from_numpy(ids), "eot": torch.from_numpy(eot), "retrieved": retrieved}
        export(Literal(model), literal_inputs, folder / "literal.onnx")
        export(Vision(model), {"pixels": torch.from_numpy(pixels)}, folder / "plain.onnx")
        save(trace_vision(model, "fp32", 18), folder / "vision.onnx")
        save(trace_text(model, "fp32", 18), folder / "text.onnx")
        engine = {f.stem: OrtEngine(f, "cpu", arguments.threads) for f in folder.glob("*.onnx")}

    features, entries = engine["vision"].run({"pixels": pixels})
    table = model.backbone.token_embedding.numpy()
    folded = {"retrieved": entries, "stem": table[words.stem], "own": table[words.tokens], "lengths": words.lengths}
    literal = {"ids": ids, "eot": eot, "retrieved": entries}
    text, slow = engine["text"].run(folded)[0], engine["literal"].run(literal)[0]
    difference = np.abs(text - slow).max()
    assert difference < 1e-4, f"the two text encoders differ by {difference}"
    plain = engine["plain"].run({"pixels": pixels})[0]
    assert np.abs(plain - features).max() < 1e-4, "the two vision graphs differ"

    contestants = {
        "literal text, 77 tokens": lambda: engine["literal"].run(literal),
        "folded text": lambda: engine["text"].run(folded),
        "vision with retrieval": lambda: engine["vision"].run({"pixels": pixels}),
        "vision alone": lambda: engine["plain"].run({"pixels": pixels}),
        "cached frame": lambda: text[0] @ engine["vision"].run({"pixels": pixels})[0][0],
    }
    for run in contestants.values():
        run()
    rounds = [{name: timed(run) for name, run in contestants.items()} for _ in range(arguments.rounds)]
    times = {name: np.array([r[name] for r in rounds]) for name in contestants}

    lines = [
        f"{arguments.model}, {len(labels)} labels, ONNX Runtime {ort.__version__}, CPU ({platform.machine()}),"
        f" {arguments.threads} threads, float32, batch 1, {arguments.rounds} rounds in turn.",
        f"Largest difference of text features, folded against literal: {difference:.1e}.",
        "",
        "| | median ms | against vision alone | literal text against it |",
        "|---|---|---|---|",
    ]
    for name, t in times.items():
        ratio, worth = np.median(t / times["vision alone"]), np.median(times["literal text, 77 tokens"] / t)
        lines.append(f"| {name} | {np.median(t):.1f} | {ratio:.3f} | {worth:.1f} |")
    print("\n".join(lines))
    Path(__file__).with_suffix(".md").write_text("# " + __doc__.splitlines()[0] + "\n\n" + "\n".join(lines) + "\n")


def timed(run) -> float:
    start = time.perf_counter()
    run()
    return 1000 * (time.perf_counter() - start)


if __name__ == "__main__":
    main()
