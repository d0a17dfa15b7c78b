"""AttriPrompt on a frozen CLIP: retrieval, pool and prompted text put together, in the order of the method."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from attri.runtime.errors import UsageError
from attri.runtime.text.label_tokens import LabelTokens
from attri.train.config import PromptConfig
from attri.train.model.backbone import Backbone
from attri.train.model.pool import PromptPool
from attri.train.model.prompted_text import EmbeddedLabels, prompted_text, tables
from attri.train.model.retrieval import Retrieval
from attri.train.model.vision import VisionTower

ACTIVATIONS = 4 << 30  # bytes that the text encoder may keep for gradients before it goes chunk by chunk (our choice)
KEPT = 100  # bytes kept per token, block and unit of width, measured in float32


class AttriPrompt(nn.Module):
    """The whole model. Only `pool` learns; the towers are the backbone's own modules.

    Args:
        backbone: a frozen model that can be folded.
        config: shape of the pool and of retrieval.

    Raises:
        UsageError: the config does not fit the backbone.
    """

    def __init__(self, backbone: Backbone, config: PromptConfig) -> None:
        super().__init__()
        self.backbone, self.config = backbone, config
        self.text = backbone.text_tower()
        layers, width = len(self.text.blocks), self.text.positional_embedding.shape[1]
        self.depth = layers if config.depth is None else config.depth
        if not 1 <= self.depth <= layers:
            raise UsageError(f"depth is {config.depth}: {backbone.name} has {layers} text blocks")
        self.pool = PromptPool(config, self.depth, width, backbone.joint_width)
        try:
            retrieval = Retrieval(backbone.grid, config.clusters, config.lloyd_steps, config.kmeans_init)
        except ValueError as error:
            raise UsageError(f"clusters is {config.clusters}: {error}") from error
        self.vision = VisionTower.of(backbone.visual, retrieval, layers, self.depth)

    def embed(self, labels: LabelTokens) -> EmbeddedLabels:
        """Look the tokens up, on the model's device."""
        table = self.backbone.token_embedding
        ids = {name: torch.from_numpy(part).to(table.device) for name, part in vars(labels).items()}
        embedded = {name: table[ids[name]] for name in ("prefix", "suffix_tokens")}
        return EmbeddedLabels(**ids | embedded)

    def tables(self) -> tuple[Tensor, Tensor]:
        """Keys and values of pool entries [L, N, p, 2 W] and of static tokens [L, q, 2 W]."""
        return tables(self.text, self.pool.tokens_of_blocks()), tables(self.text, self.pool.static)

    def encode_image(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """pixels [B, 3, H, W] -> unit features [B, D], unit centres [B, L, K, D]"""
        features, centres = self.vision(pixels)
        assert centres is not None
        return features, centres

    def encode_text(self, labels: LabelTokens, retrieved: Tensor) -> Tensor:
        """Features of every class for every image. retrieved [B, L, M] -> [B, C, D]

        Many classes are encoded in chunks, and once more when gradients are asked for: memory stays bounded.
        """
        pool, static = self.tables()

        def encode(part: EmbeddedLabels) -> Tensor:
            return prompted_text(self.text, pool, static, retrieved, part)

        width = self.text.positional_embedding.shape[1]
        of_class = KEPT * retrieved.shape[0] * labels.token_rows.shape[1] * width * len(self.text.blocks)
        size = max(1, ACTIVATIONS // max(1, of_class))
        if size >= len(labels):
            return encode(self.embed(labels))
        chunks = [self.embed(labels.take(slice(start, start + size))) for start in range(0, len(labels), size)]
        if torch.is_grad_enabled():
            parts = [checkpoint(encode, part, use_reentrant=False, preserve_rng_state=False) for part in chunks]
        else:
            parts = [encode(part) for part in chunks]
        return torch.cat(parts, 1)

    @torch.no_grad()
    def plain_text(self, labels: LabelTokens) -> Tensor:
        """Frozen features without prompts, the tower's own: the same encoder with empty tables. -> [C, D]"""
        table = self.backbone.token_embedding
        pool, static = table.new_zeros(0, 1, 1, 2 * table.shape[1]), table.new_zeros(0, 0, 2 * table.shape[1])
        nothing = torch.zeros(1, 0, 0, dtype=torch.long, device=table.device)
        return prompted_text(self.text, pool, static, nothing, self.embed(labels))[0]

    def logits(self, features: Tensor, text: Tensor) -> Tensor:
        """features [B, D], text [B, C, D] -> logit scale * cosine [B, C]"""
        return self.backbone.logit_scale * (text @ features[:, :, None]).squeeze(-1)

    def forward(self, pixels: Tensor, labels: LabelTokens) -> Tensor:
        """Logits [B, C] of images, from pixels to the end."""
        features, centres = self.encode_image(pixels)
        return self.logits(features, self.encode_text(labels, self.pool.retrieve(centres)))
