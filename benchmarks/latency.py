"""What a frame costs: image-conditioned prompts, literal and folded, against static-prompt CLIP, in one run.

    python -m benchmarks.latency [--models ViT-B-32 ViT-B-16] [--labels 10 100 1000] [--threads 2] [--rounds 9]

Every contestant takes a picture's pixels to the scores of all labels, on the CPU, in float32, a picture at a time. They
take turns, each with a frame before the measured one, so that ratios hold although the machine's speed drifts; printed
are medians. The floor is CLIP with static prompts in ONNX Runtime: the same traced vision tower without retrieval, and
a product with known text features. Those that prompt must agree in their scores and best label, and so must those that
do not, or the script fails. Labels are ImageNet's names. Weights are random: time does not depend on them. The tables
are kept in benchmarks/RESULTS.md.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path

import numpy as np
import onnxruntime
import open_clip
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from attri.export.graphs import to_trace
from attri.export.onnx import save, strip, trace_text, trace_vision
from attri.export.writer import copy_merges, describe, save_embedding, save_manifest
from attri.runtime import Classifier
from attri.runtime.bundle import EMBEDDING, MERGES, TEXT, VISION
from attri.runtime.ort import OrtEngine
from attri.runtime.prompts import LabelTokens
from attri.runtime.tokenizer import EOT
from attri.train.backbone import load_backbone
from attri.train.config import TEMPLATE, PromptConfig
from attri.train.model import AttriPrompt
from attri.train.pocket import IMAGES
from attri.train.vision import VisionTower

FLOOR, CACHED, UNCACHED = "static CLIP, ONNX Runtime (the floor)", "attri, cached", "attri, uncached"
LITERAL_ORT = "literal, ONNX Runtime"
SHORTLIST = 64
REST = 0.1  # seconds between contestants: threads of the one before still spin for a while, and there are few cores
STATIC_CLASSES = 10  # that it encodes at once, which is kind to its memory
PLAIN, LITERAL = "plain.onnx", "literal.onnx"
LITERAL_CLASSES = 100  # at a time: the literal encoder's activations would not fit otherwise
Contestants = dict[str, Callable[[], np.ndarray]]


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
        return nn.functional.normalize(x, dim=-1)


class Plain(nn.Module):
    """The same opened vision tower as attri's, without retrieval."""

    def __init__(self, model: AttriPrompt) -> None:
        super().__init__()
        self.vision = VisionTower(to_trace(model.backbone.visual, "fp32"), None, [])

    def forward(self, pixels: Tensor) -> Tensor:
        return self.vision(pixels)[0]


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


class Setting:
    """One model, its graphs and a picture."""

    def __init__(self, name: str, folder: Path, threads: int) -> None:
        torch.manual_seed(0)
        self.name, self.folder, self.threads = name, folder, threads
        self.model = AttriPrompt(load_backbone(name), PromptConfig()).eval()
        with torch.no_grad():
            self.model.pool.tokens.normal_()
        preprocess = self.model.backbone.preprocess()
        self.pixels = preprocess(sorted((IMAGES / "test").rglob("*.png"))[0])[None]
        self.write()
        self.plain = OrtEngine(folder / PLAIN, "cpu", threads)

    def write(self) -> None:
        """A bundle, and the graphs that attri is compared with."""
        folder, model = self.folder, self.model
        save(trace_vision(model, "fp32", 18), folder / VISION)
        save(trace_text(model, "fp32", 18), folder / TEXT)
        save_embedding(model.backbone.token_embedding, folder / EMBEDDING, "fp32")
        copy_merges(folder / MERGES)
        save_manifest(describe(model, ["bird"], TEMPLATE, "fp32", 18), folder)
        export(Plain(model), {"pixels": torch.from_numpy(self.pixels)}, folder / PLAIN)

    def literal(self, classes: int) -> OrtEngine:
        """The literal text encoder of so many classes; PyTorch's attention does not trace for any number of them."""
        model, path = self.model, self.folder / LITERAL
        inputs = {
            "ids": torch.zeros(classes, 77, dtype=torch.long),
            "eot": torch.ones(classes, dtype=torch.long),
            "retrieved": torch.zeros(1, model.depth, model.config.retrieved, dtype=torch.int32),
        }
        export(Literal(model), inputs, path)
        return OrtEngine(path, "cpu", self.threads)

    def contestants(self, labels: list[str]) -> tuple[Contestants, LabelTokens]:
        model, clip = self.model, self.model.backbone.clip
        loaded = {
            "cached": self.classifier(labels),
            "uncached": self.classifier(labels, cache_bytes=0),
            "shortlist": self.classifier(labels, cache_bytes=0, shortlist=SHORTLIST),
        }
        words = loaded["cached"]._set.tokens.take(loaded["cached"]._set.prompt)
        ids = np.zeros((len(labels), 77), np.int64)
        for row, whole in zip(ids, words.whole(), strict=True):
            row[: len(whole)] = whole
        eot = (ids == EOT).argmax(1)
        pixels, picture = self.pixels, torch.from_numpy(self.pixels)
        static = model.plain_text(words).numpy()  # [C, D]
        literal, engine = Literal(model), self.literal(min(len(labels), LITERAL_CLASSES))

        def literal_scores(encode: Callable[..., np.ndarray]) -> np.ndarray:
            feature, entries = loaded["cached"].encode_image(pixels)
            parts = [slice(start, start + LITERAL_CLASSES) for start in range(0, len(ids), LITERAL_CLASSES)]
            return np.concatenate([encode(ids[part], eot[part], entries) for part in parts]) @ feature[0]

        def attri(which: str) -> np.ndarray:
            classifier = loaded[which]
            return classifier._text.cosines(classifier._set, *classifier.encode_image(pixels))[0][0]

        @torch.no_grad()
        def folded() -> np.ndarray:
            features, centres = model.encode_image(picture)
            text = model.encode_text(words, model.pool.retrieve(centres))
            return (text[0] @ features[0]).numpy()

        @torch.no_grad()
        def literal_torch(*arrays: np.ndarray) -> np.ndarray:
            return literal(*map(torch.from_numpy, arrays)).numpy()

        @torch.no_grad()
        def open_clip_scores() -> np.ndarray:
            return static @ clip.encode_image(picture, normalize=True)[0].numpy()

        def literal_ort(some: np.ndarray, ends: np.ndarray, entries: np.ndarray) -> np.ndarray:
            return engine.run({"ids": some, "eot": ends, "retrieved": entries})[0]

        result: Contestants = {
            FLOOR: lambda: np.einsum("cd,d->c", static, self.plain.run({"pixels": pixels})[0][0]),  # as attri does
            "open_clip, PyTorch": open_clip_scores,
            CACHED: lambda: attri("cached"),
            UNCACHED: lambda: attri("uncached"),
            f"attri, uncached, shortlist of {SHORTLIST}": lambda: attri("shortlist"),
            "folded, PyTorch": folded,
            LITERAL_ORT: lambda: literal_scores(literal_ort),
            "literal, PyTorch": lambda: literal_scores(literal_torch),
        }
        if len(labels) <= SHORTLIST:
            del result[f"attri, uncached, shortlist of {SHORTLIST}"]
        return result, words

    def classifier(self, labels: list[str], **options: int) -> Classifier:
        return Classifier.load(self.folder, labels, device="cpu", threads=self.threads, **options)

    def check(self, scores: dict[str, np.ndarray]) -> float:
        """The largest difference of those that prompt; they, and those that do not, agree in the best label."""
        plain = {name for name in scores if name.startswith(("static", "open_clip"))}
        prompted = scores.keys() - plain - {name for name in scores if "shortlist" in name}
        differences = []
        for group in (sorted(plain), sorted(prompted)):
            first = scores[group[0]]
            differences.append(max(float(np.abs(scores[name] - first).max()) for name in group))
            best = {int(scores[name].argmax()) for name in group}
            assert len(best) == 1, f"{group} differ in their best label by up to {differences[-1]}"
        return max(differences)

    def gflop(self, words: LabelTokens) -> dict[str, float]:
        """Floating-point operations of the products of a frame, as PyTorch counts them: two for a multiply-add."""
        picture, literal = torch.from_numpy(self.pixels), Literal(self.model)
        retrieved = torch.zeros(1, self.model.depth, self.model.config.retrieved, dtype=torch.long)
        few = torch.zeros(1, 77, dtype=torch.long), torch.ones(1, dtype=torch.long), retrieved
        plain = gflop(lambda: Plain(self.model)(picture))
        vision = gflop(lambda: self.model.encode_image(picture))
        text = gflop(lambda: self.model.encode_text(words, retrieved))
        one = gflop(lambda: literal(*few))
        whole = {"static": plain, "open_clip": plain, CACHED: vision, UNCACHED: vision + text, "folded": vision + text}
        return whole | {"literal": vision + one * len(words)}


@torch.no_grad()
def gflop(run: Callable[[], object]) -> float:
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops() / 1e9


def peak_gflops(size: int = 1536) -> float:
    """What PyTorch's matrix product makes of this machine, best of a few."""
    a, b = torch.randn(size, size), torch.randn(size, size)
    return max(2 * size**3 / timed(lambda: a @ b) / 1e6 for _ in range(8))


def timed(run: Callable[[], object]) -> float:
    """Milliseconds."""
    start = time.perf_counter()
    run()
    return 1000 * (time.perf_counter() - start)


def measure(setting: Setting, labels: list[str], rounds: int) -> list[str]:
    contestants, words = setting.contestants(labels)
    difference = setting.check({name: run() for name, run in contestants.items()})
    times: dict[str, list[float]] = {name: [] for name in contestants}
    ratios: dict[str, list[float]] = {name: [] for name in contestants}
    for number in range(rounds):
        now = {}
        for name, run in contestants.items():
            if name.startswith("literal") and number >= max(1, rounds // (1 + len(labels) // 100)):
                continue  # each takes minutes with many labels
            time.sleep(REST)
            if not name.startswith("literal"):
                run()  # as in a video, where the frame before was the same work
            now[name] = timed(run)
        for name, milliseconds in now.items():
            times[name].append(milliseconds)
            ratios[name].append(milliseconds / now[FLOOR])
    counts, peak = setting.gflop(words), peak_gflops()
    lines = [
        f"{setting.name}, {len(labels)} labels ({len(words.own)} distinct tokens after the stem). Largest difference of"
        f" scores between those that prompt: {difference:.0e}.",
        "",
        "| | median ms | against the floor | GFLOP | of the peak |",
        "|---|---|---|---|---|",
    ]
    for name, milliseconds in times.items():
        count = next((value for start, value in counts.items() if name == start), None)
        if count is None and "shortlist" not in name:
            count = next(value for start, value in counts.items() if name.startswith(start))
        share = f"{count:.1f} | {count / np.median(milliseconds) * 1000 / peak:.0%}" if count else "- | -"
        lines.append(f"| {name} | {np.median(milliseconds):.1f} | {np.median(ratios[name]):.2f} | {share} |")
    literal, folded = (np.median(times[name]) - np.median(times[CACHED]) for name in (LITERAL_ORT, UNCACHED))
    text = f"Text alone, a frame less a cached one: literal in ONNX Runtime {literal:.0f} ms, attri {folded:.0f} ms"
    return [*lines, "", f"{text}, {literal / folded:.1f} times less.", ""]


def memory(folder: Path, static: bool, threads: int) -> float:
    """Peak resident memory, MiB, of a process that encodes labels and classifies: attri 100 of them, static CLIP 10."""
    options = ["--memory", str(folder), "--threads", str(threads), *["--static"] * static]
    done = subprocess.run([sys.executable, __file__, *options], check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout)


def use_memory(folder: Path, static: bool, threads: int) -> None:
    pixels = np.zeros((1, 3, 224, 224), np.float32)
    if static:
        engines = [OrtEngine(folder / name, "cpu", threads) for name in (PLAIN, LITERAL)]
        ids, nothing = np.zeros((STATIC_CLASSES, 77), np.int64), np.zeros((1, 12, 2), np.int32)
        text = engines[1].run({"ids": ids, "eot": ids[:, 0] + 5, "retrieved": nothing})[0]
        for _ in range(20):
            text @ engines[0].run({"pixels": pixels})[0][0]
    else:
        classifier = Classifier.load(folder, names(100), device="cpu", threads=threads)
        for value in range(20):
            classifier(np.full((224, 224, 3), 12 * value, np.uint8))
    # Not getrusage, whose maximum a child inherits from the process that started it.
    print(int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]) / 2**10)


def names(count: int) -> list[str]:
    """ImageNet's names, evenly over their order."""
    every = open_clip.IMAGENET_CLASSNAMES
    return [every[i * len(every) // count] for i in range(count)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["ViT-B-32", "ViT-B-16"])
    parser.add_argument("--labels", nargs="+", type=int, default=[10, 100, 1000])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--memory", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--static", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.memory:
        use_memory(arguments.memory, arguments.static, arguments.threads)
        return
    torch.set_num_threads(arguments.threads)
    lines = [
        f"{date.today()}, CPU ({platform.machine()}), {arguments.threads} threads, PyTorch {torch.__version__},"
        f" ONNX Runtime {onnxruntime.__version__}, float32, one picture at a time, {arguments.rounds} rounds",
        "in turn (the literal encoder fewer with many labels).",
        "",
    ]
    for name in arguments.models:
        with tempfile.TemporaryDirectory() as folder:
            setting = Setting(name, Path(folder), arguments.threads)
            for count in arguments.labels:
                lines += measure(setting, names(count), arguments.rounds)
                print("\n".join(lines[-16:]), flush=True)
            setting.literal(STATIC_CLASSES)
            ours, theirs = (memory(Path(folder), static, arguments.threads) for static in (False, True))
            lines += [
                f"Peak memory of a process with 100 labels, {name}: attri {ours:.0f} MiB, CLIP with static prompts and"
                f" a text encoder for them {theirs:.0f} MiB, ratio {ours / theirs:.2f}.",
                "",
            ]
            print(lines[-2])
    Path(__file__).with_name("RESULTS.md").write_text("# " + __doc__.splitlines()[0] + "\n\n" + "\n".join(lines))


if __name__ == "__main__":
    main()
