"""Latency of a frame: per-image prompts, literal and folded, against CLIP with static prompts, in one run.

    python -m benchmarks.latency [--models ViT-B-32 ViT-B-16] [--labels 10 100 1000] [--threads 2] [--rounds 9]

Every contestant takes an image's pixels to the scores of all labels, on the CPU, in float32, an image at a time. They
take turns, all but the literal ones with a frame before the measured one. The floor is CLIP with static prompts in ONNX
Runtime: the same traced vision tower without retrieval, and a product with known text features. The exact ones that
prompt must agree in their scores and best label, and so must those that do not prompt, or the script fails. A shortlist
is not exact: how often it finds the best label of all is printed. Memory is that of processes without PyTorch
(benchmarks/footprint.py). The tables are kept in benchmarks/RESULTS.md.
"""

from __future__ import annotations

import argparse
import dataclasses
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from attri.export.bundle.writer import describe, save, save_embedding, save_tokenizer
from attri.export.graph.modules import to_trace
from attri.export.graph.trace import strip_metadata, trace_text, trace_vision
from attri.export.onnx import save_graph
from attri.export.parity.compare import compare
from attri.export.parity.gates import Gates
from attri.export.parity.reference import save_reference
from attri.export.prompt import make_prompt
from attri.runtime import Classifier
from attri.runtime.bundle import EMBEDDING, TEXT, VISION, Bundle
from attri.runtime.engines.onnxruntime import OrtEngine
from attri.runtime.images import list_images
from attri.runtime.text.label_tokens import LabelTokens, encode_labels
from attri.runtime.tokenizer import Tokenizer
from attri.train.config import TEMPLATE, PromptConfig
from attri.train.model import AttriPrompt
from attri.train.model.backbone import load_backbone
from attri.train.model.vision import VisionTower
from attri.train.pocket import IMAGES
from benchmarks.common import REST, in_turn, keep, names, timed
from benchmarks.footprint import AT_ONCE, KINDS, LABELS, LITERAL, PLAIN
from benchmarks.literal import CONTEXT, Literal, padded

SHORTLIST = 64
FLOOR, OPEN_CLIP = "static CLIP, ONNX Runtime (the floor)", "open_clip, PyTorch"
CACHED, UNCACHED, SHORT = "attri, cached", "attri, uncached", f"attri, uncached, shortlist of {SHORTLIST}"
FOLDED, LITERAL_ORT, LITERAL_TORCH = "folded, PyTorch", "literal, ONNX Runtime", "literal, PyTorch"
STATIC, EXACT = (FLOOR, OPEN_CLIP), (CACHED, UNCACHED, FOLDED, LITERAL_ORT, LITERAL_TORCH)
AGREE = 1e-5  # float32 rounds to 6e-8, and each of 12 blocks sums it over hundreds of products in an order of its own
PEAK = 1536  # rows and columns of the product that shows what the machine can do
COMPARED = 16  # for the agreement of the shortlist
LITERAL_CLASSES = 100  # at a time: the literal encoder's activations would not fit otherwise
ATTRI = {CACHED: {}, UNCACHED: {"cache_bytes": 0}, SHORT: {"cache_bytes": 0, "shortlist": SHORTLIST}}
Scores = Callable[[], np.ndarray]
EXPLANATION = f"""Weights are random: time does not depend on them, and the agreement of scores is checked with them.
Labels are ImageNet's class names.

- n: rounds that were measured. With many labels the literal contestants are too slow to take part in every round.
- median ms: of a frame, over n rounds. All but the literal contestants run a frame before the measured one.
- against the floor: the median over n rounds of the ratio within a round. It differs from the ratio of the medians,
  because the machine's speed drifts.
- GFLOP: floating-point operations of a frame's matrix products as PyTorch counts them; a multiply-add counts as two.
- of the peak: GFLOP over median time, as a share of what a product of two {PEAK} x {PEAK} float32 matrices reaches
  on as many threads right after the rounds: the best of 8 in PyTorch and 8 in ONNX Runtime, shown above each table."""


class Plain(nn.Module):
    """The same opened vision tower as attri's, without retrieval."""

    def __init__(self, model: AttriPrompt) -> None:
        super().__init__()
        self.vision = VisionTower(to_trace(model.backbone.tower, "fp32"), None, [])

    def forward(self, pixels: Tensor) -> Tensor:
        """Pixels [B, 3, S, S] -> unit features [B, D]."""
        return self.vision(pixels)[0]


def export(module: nn.Module, inputs: dict[str, Tensor], path: Path) -> None:
    """Trace a module to ONNX with a static batch."""
    with torch.no_grad():
        program = torch.onnx.export(
            module.eval(),
            tuple(inputs.values()),
            dynamo=True,
            input_names=list(inputs),
            opset_version=18,
            verbose=False,
        )
    assert program is not None
    strip_metadata(program.model_proto)
    save_graph(program.model_proto, path)


class Setting:
    """One model, its graphs and some images; the first is the one that is timed."""

    def __init__(self, name: str, folder: Path, threads: int) -> None:
        torch.manual_seed(0)
        self.name, self.folder, self.threads = name, folder, threads
        self.model = AttriPrompt(load_backbone(name), PromptConfig()).eval()
        with torch.no_grad():
            self.model.pool.tokens.normal_()
        preprocess, files = self.model.backbone.preprocess(), list_images(IMAGES / "test")
        self.images = [preprocess(file)[None] for file in files[:: len(files) // COMPARED][:COMPARED]]
        self.write()
        self.plain = OrtEngine(folder / PLAIN, "cpu", threads)

    def write(self) -> None:
        """A bundle, and the graphs that attri is compared with."""
        folder, model = self.folder, self.model
        save_graph(trace_vision(model, "fp32", 18), folder / VISION)
        save_graph(trace_text(model, "fp32", 18), folder / TEXT)
        save_embedding(model.backbone.token_embedding, folder / EMBEDDING, "fp32")
        save_tokenizer(model.backbone.reader, folder)
        prompt = make_prompt(model, names(LABELS), TEMPLATE)
        bundle, pixels = Bundle(folder, describe(model, "fp32", 18), prompt), np.concatenate(self.images)
        save_reference(model, bundle, pixels)
        parity = compare(model, bundle, pixels, Gates.of("fp32")).to_dict()
        save(dataclasses.replace(bundle, manifest=dataclasses.replace(bundle.manifest, parity=parity)))
        export(Plain(model), {"pixels": torch.from_numpy(self.images[0])}, folder / PLAIN)

    def literal(self, classes: int) -> OrtEngine:
        """The literal text encoder of so many classes; PyTorch's attention does not trace for any number of them."""
        model, path = self.model, self.folder / LITERAL
        inputs = {
            "ids": torch.zeros(classes, CONTEXT, dtype=torch.long),
            "retrieved": torch.zeros(1, model.depth, model.config.retrieved, dtype=torch.int32),
        }
        export(Literal(model), inputs, path)
        return OrtEngine(path, "cpu", self.threads)

    def attri(self, labels: list[str]) -> dict[str, Callable[[np.ndarray], np.ndarray]]:
        """Ways of attri from pixels [1, 3, S, S] to scores [C]."""

        def scores(classifier: Classifier, pixels: np.ndarray) -> np.ndarray:
            return classifier.cosines(*classifier.encode_image(pixels))[0]

        ways = [way for way in ATTRI if way != SHORT or len(labels) > SHORTLIST]
        return {way: partial(scores, self.classifier(labels, **ATTRI[way])) for way in ways}

    def classifier(self, labels: list[str], **options: Any) -> Classifier:
        """Load a classifier on the CPU with the setting's threads."""
        return Classifier.load(self.folder, labels, device="cpu", threads=self.threads, **options)

    def contestants(
        self, words: LabelTokens, attri: dict[str, Callable[[np.ndarray], np.ndarray]]
    ) -> dict[str, Scores]:
        """What gives the first image's scores [C], by name."""
        model, pixels, ids = self.model, self.images[0], padded(words)
        tensor, static = torch.from_numpy(pixels), model.plain_text(words).numpy()  # [C, D]
        clip: Any = model.backbone.clip
        literal, engine = Literal(model), self.literal(min(len(ids), LITERAL_CLASSES))
        see = self.classifier(["nothing"]).encode_image

        def literal_scores(encode: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> np.ndarray:
            feature, entries = see(pixels)
            parts = [ids[start : start + LITERAL_CLASSES] for start in range(0, len(ids), LITERAL_CLASSES)]
            return np.concatenate([encode(part, entries)[0] for part in parts]) @ feature[0]

        @torch.no_grad()
        def literal_torch(*arrays: np.ndarray) -> np.ndarray:
            return literal(*map(torch.from_numpy, arrays)).numpy()

        def literal_ort(part: np.ndarray, entries: np.ndarray) -> np.ndarray:
            return engine.run({"ids": part, "retrieved": entries})[0]

        @torch.no_grad()
        def folded() -> np.ndarray:
            features, centres = model.encode_image(tensor)
            text = model.encode_text(words, model.pool.retrieve(centres))
            return (text[0] @ features[0]).numpy()

        @torch.no_grad()
        def open_clip() -> np.ndarray:
            return static @ clip.encode_image(tensor, normalize=True)[0].numpy()

        return {
            FLOOR: lambda: np.einsum("cd,d->c", static, self.plain.run({"pixels": pixels})[0][0]),  # as attri does
            OPEN_CLIP: open_clip,
            **{name: partial(scores, pixels) for name, scores in attri.items()},
            FOLDED: folded,
            LITERAL_ORT: lambda: literal_scores(literal_ort),
            LITERAL_TORCH: lambda: literal_scores(literal_torch),
        }

    def gflop(self, words: LabelTokens) -> dict[str, float]:
        """Of a frame, by contestant; the shortlist's depends on which labels it takes."""
        tensor, literal = torch.from_numpy(self.images[0]), Literal(self.model)
        retrieved = torch.zeros(1, self.model.depth, self.model.config.retrieved, dtype=torch.long)
        plain = gflop(lambda: Plain(self.model)(tensor))
        vision = gflop(lambda: self.model.encode_image(tensor))
        text = gflop(lambda: self.model.encode_text(words, retrieved))
        one = gflop(lambda: literal(torch.zeros(1, CONTEXT, dtype=torch.long), retrieved))
        prompted = dict.fromkeys((UNCACHED, FOLDED), vision + text)
        word_for_word = dict.fromkeys((LITERAL_ORT, LITERAL_TORCH), vision + one * len(words))
        return dict.fromkeys(STATIC, plain) | {CACHED: vision} | prompted | word_for_word


@torch.no_grad()
def gflop(run: Callable[[], object]) -> float:
    """Count the floating-point operations of a run, in 1e9."""
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops() / 1e9


def peak_gflops(setting: Setting) -> float:
    """A second, by the library that is better at it: on some processors that is one, on some the other."""
    a, b = torch.randn(PEAK, PEAK), torch.randn(PEAK, PEAK)
    path = setting.folder / "product.onnx"
    shape = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, (PEAK, PEAK)) for name in "ac"]
    node = onnx.helper.make_node("MatMul", ["a", "b"], ["c"])
    graph = onnx.helper.make_graph(
        [node], "product", shape[:1], shape[1:], [onnx.numpy_helper.from_array(b.numpy(), "b")]
    )
    save_graph(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=10), path)
    engine, fed = OrtEngine(path, "cpu", setting.threads), {"a": a.numpy()}
    best = []
    for product in (lambda: a @ b, lambda: engine.run(fed)):
        time.sleep(REST)
        best.append(min(timed(product) for _ in range(8)))
    return 2 * PEAK**3 / min(best) / 1e6


def difference(scores: dict[str, np.ndarray], group: tuple[str, ...]) -> float:
    """The largest between scores of contestants that must agree."""
    first = scores[group[0]]
    found = max(float(np.abs(scores[name] - first).max()) for name in group)
    assert found < AGREE, f"{group} differ in their scores by {found}"
    assert len({int(scores[name].argmax()) for name in group}) == 1, f"{group} differ in their best label"
    return found


def measure(setting: Setting, labels: list[str], rounds: int) -> str:
    """Time all contestants with these labels, check that they agree, and return the section."""
    words = encode_labels(Tokenizer(), labels, TEMPLATE)
    attri = setting.attri(labels)
    contestants = setting.contestants(words, attri)
    scores = {name: run() for name, run in contestants.items()}
    prompted, static = difference(scores, EXACT), difference(scores, STATIC)
    few = dict.fromkeys((LITERAL_ORT, LITERAL_TORCH), max(1, rounds // (1 + len(labels) // 100)))
    turns = {name: partial(timed, run, before=name not in few) for name, run in contestants.items()}
    times = in_turn(turns, rounds, few)
    peak = peak_gflops(setting)
    lines = [
        f"{setting.name}, {len(labels)} labels ({len(words.suffix_tokens)} distinct tokens after the prefix)."
        f" A product of large matrices: {peak:.0f} GFLOP/s.",
        "",
        *table(times, setting.gflop(words), peak),
        "",
        f"Largest difference of scores: {prompted:.0e} between the {len(EXACT)} exact ones that prompt, {static:.0e}"
        f" between the {len(STATIC)} that do not.",
    ]
    if SHORT in attri:
        same = [attri[SHORT](pixels).argmax() == attri[UNCACHED](pixels).argmax() for pixels in setting.images]
        lines.append(
            f"The shortlist is not exact: its best label is that of all labels for {sum(same)} of {len(same)} images"
            " (of random weights, to which all labels are alike; trained ones: benchmarks/shortlist.md)."
        )
    literal, folded = (float(np.median(times[name]) - np.median(times[CACHED])) for name in (LITERAL_ORT, UNCACHED))
    text = f"Text alone, a frame less a cached one: literal in ONNX Runtime {literal:.0f} ms, attri {folded:.0f} ms"
    return "\n".join([*lines, f"{text}, {literal / folded:.1f} times less."])


def table(times: dict[str, list[float]], counts: dict[str, float], peak: float) -> list[str]:
    """Rows of the latency table."""
    lines = ["| | n | median ms | against the floor | GFLOP | of the peak |", "|---|---|---|---|---|---|"]
    for name, found in times.items():
        median = np.median(found)
        ratio = np.median(np.array(found) / times[FLOOR][: len(found)])
        work = f"{counts[name]:.1f} | {counts[name] / median * 1000 / peak:.0%}" if name in counts else "- | -"
        lines.append(f"| {name} | {len(found)} | {median:.1f} | {ratio:.2f} | {work} |")
    return lines


def memory(setting: Setting) -> str:
    """Of processes that have the labels encoded and classify some images."""
    setting.literal(AT_ONCE)
    peaks = {}
    for kind, what in KINDS.items():
        command = [sys.executable, "-m", "benchmarks.footprint", kind, str(setting.folder), str(setting.threads)]
        peaks[what] = float(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
    ours = next(iter(peaks.values()))
    lines = [f"| {setting.name}, {LABELS} labels, without PyTorch | peak MiB | attri against it |", "|---|---|---|"]
    return "\n".join(lines + [f"| {what} | {peak:.0f} | {ours / peak:.2f} |" for what, peak in peaks.items()])


def main() -> None:
    """Parse the command line, measure, and keep the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["ViT-B-32", "ViT-B-16"])
    parser.add_argument("--labels", nargs="+", type=int, default=[10, 100, 1000])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=9)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    sections = [
        f"{arguments.threads} threads, PyTorch {torch.__version__}, ONNX Runtime {onnxruntime.__version__}, float32,"
        " an image at a time.",
        EXPLANATION,
    ]
    for name in arguments.models:
        with tempfile.TemporaryDirectory() as folder:
            setting = Setting(name, Path(folder), arguments.threads)
            for count in arguments.labels:
                sections.append(measure(setting, names(count), arguments.rounds))
                print(sections[-1], "\n", file=sys.stderr, flush=True)
            sections.append(memory(setting))
    keep(Path(__file__).with_name("RESULTS"), __doc__, "\n\n".join(sections))


if __name__ == "__main__":
    main()
