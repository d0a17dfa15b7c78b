"""One backbone of each family: time of a frame and of labels, as ratios to ViT-B-32, and memory of the runtime.

    python -m benchmarks.backbones [--models ViT-B-32,RN50,...] [--rounds 7] [--labels 100]

Real widths and depths, float32, ONNX Runtime, one image at a time; all models in turn in one process. A frame is an
image in memory: preprocessing, the vision graph, and text features of all labels, known (cached) or computed
(uncached). Labels that are set are tokenized and, where the text tower is not causal, run through the label graph.
Memory is that of a fresh process that has classified one image. The table is kept in benchmarks/backbones.md.
"""

from __future__ import annotations

import functools
import itertools
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import open_clip
import torch
from numpy.typing import NDArray
from open_clip.model import CLIP, CustomTextCLIP

from attri.export.onnx import ExportOptions, export_bundle
from attri.export.parity.gates import Gates
from attri.runtime import Classifier
from attri.runtime.images import list_images, load_image
from attri.runtime.text.tokenizer_file import FileTokenizer
from attri.train.config import PromptConfig
from attri.train.model import AttriPrompt
from attri.train.model.backbone import freeze
from attri.train.model.catalogue import entries, number
from attri.train.model.vocabulary import CLIP_VOCABULARY
from attri.train.pocket import IMAGES
from benchmarks.common import CORES, in_turn, keep, names, timed
from benchmarks.models import command_line

FIRST = "ViT-B-32"  # that ratios are to
MODELS = (
    f"{FIRST},ViT-B-16,RN50,convnext_base,swin_base_patch4_window7_224,PE-Core-T-16-384,EVA02-B-16,ViTamin-S,"
    "MobileCLIP2-S0,MobileCLIP-B,ViT-B-32-SigLIP2-256"
)
MEMORY = """
import sys
from attri.runtime import Classifier
from benchmarks.common import process_status
Classifier.load(sys.argv[1], open(sys.argv[2]).read().splitlines(), device="cpu")(sys.argv[3])
print(process_status("VmHWM"))
"""


def letters() -> FileTokenizer:
    """A vocabulary of bytes, in the place of one that would have to be fetched: ids matter to no time."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    symbols = ["</s>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(models.BPE({symbol: i for i, symbol in enumerate(symbols)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 0)])
    tokenizer.enable_padding(pad_id=0, pad_token="</s>")
    return FileTokenizer(tokenizer.to_str().encode(), "canonicalize")


def export(name: str, path: Path, labels: list[str]) -> None:
    """Export a bundle of random weights; its random classes are all alike, so top-1 is not asked for."""
    torch.manual_seed(0)
    config = open_clip.get_model_config(name)
    own = config["text_cfg"].get("vocab_size", CLIP_VOCABULARY) != CLIP_VOCABULARY
    clip = (CustomTextCLIP if config.pop("custom_text", False) else CLIP)(**config)
    model = AttriPrompt(freeze(clip, name, "random", letters() if own else None), PromptConfig()).eval()
    with torch.no_grad():
        model.pool.tokens.normal_()
    images = list_images(IMAGES / "test")[:4]
    export_bundle(model, path, labels, images, ExportOptions(gates=Gates(0.999, 0.9, 0.0)))


def contestants(bundle: Path, labels: list[str], image: NDArray[np.uint8]) -> dict[str, Callable[[], float]]:
    """What is measured of one model, by the names of the columns."""
    cached = Classifier.load(bundle, labels, device="cpu")
    uncached = Classifier.load(bundle, labels, device="cpu", cache_bytes=0)
    numbers = itertools.count()

    def set_labels(words: list[str]) -> None:
        uncached.labels = words

    def frame() -> float:
        uncached.labels = labels
        return timed(functools.partial(uncached, image))

    return {
        "cached": lambda: timed(functools.partial(cached, image), before=1),
        "uncached": frame,
        # Words that were never there: what the label graph says of others is kept.
        "labels set": lambda: timed(functools.partial(set_labels, [f"{label} {next(numbers)}" for label in labels])),
    }


def main() -> None:
    """Measure, and keep the table."""
    parser = command_line(__doc__ or "")
    parser.add_argument("--labels", type=int, default=100)
    parser.set_defaults(models=MODELS, rounds=7)
    arguments = parser.parse_args()
    labels, file = names(arguments.labels), list_images(IMAGES / "test")[5]
    image = np.asarray(load_image(file))
    costs = {entry.name: entry for entry in entries()}
    turns: dict[tuple[str, str], Callable[[], float]] = {}
    memory = {}
    with tempfile.TemporaryDirectory() as folder:
        words = Path(folder) / "labels.txt"
        words.write_text("\n".join(labels))
        for name in arguments.models.split(","):
            bundle = Path(folder) / name
            export(name, bundle, labels)
            command = [sys.executable, "-c", MEMORY, str(bundle), str(words), str(file)]
            memory[name] = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout) / 2**10
            turns |= {(name, column): run for column, run in contestants(bundle, labels, image).items()}
        found = {key: np.array(times) for key, times in in_turn(turns, arguments.rounds).items()}
    first = arguments.models.split(",")[0]
    lines = [
        f"Float32, {len(labels)} labels (ImageNet's names), ONNX Runtime on {CORES} cores, {arguments.rounds} rounds in"
        f" turn. Weights are random: time does not depend on them. Ratios are medians of those to {first} within a"
        " round; what another processor or a GPU makes of them is not said by this.",
        "",
        "| model | vision GFLOP | label GFLOP | cached ms | ratio | uncached ms | ratio | labels set ms | MiB |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name in arguments.models.split(","):
        cells = [number(costs[name].vision), number(costs[name].label)]
        for column in ("cached", "uncached"):
            times = found[name, column]
            cells += [f"{np.median(times):.1f}", f"{np.median(times / found[first, column]):.2f}"]
        cells += [f"{np.median(found[name, 'labels set']):.0f}", f"{memory[name]:.0f}"]
        lines.append(f"| {' | '.join([name, *cells])} |")
    keep(Path(__file__), __doc__ or "", "\n".join(lines))


if __name__ == "__main__":
    main()
