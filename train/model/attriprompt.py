"""The AttriPrompt model: retrieval, prompt pool and prompted text encoder on a frozen CLIP."""

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

MAX_ACTIVATIONS = 4 << 30  # bytes the text encoder may keep for gradients before classes are encoded in chunks
BYTES_PER_ACTIVATION = 100  # kept per token, block and channel, measured in float32


class AttriPrompt(nn.Module):
    """AttriPrompt on a frozen CLIP. Only `pool` is trained; both towers are the backbone's own modules.

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
        tower = backbone.tower
        self.pool = PromptPool(config, self.depth, width, tower.joint_width)
        try:
            retrieval = Retrieval(tower.grid, tower.prefix, config.clusters, config.lloyd_steps, config.kmeans_init)
        except ValueError as error:
            raise UsageError(f"clusters is {config.clusters}: {error}") from error
        self.vision = VisionTower.of(tower, retrieval, layers, self.depth)

    def embed(self, labels: LabelTokens) -> EmbeddedLabels:
        """Look up the token embeddings, on the model's device."""
        table = self.backbone.token_embedding
        ids = {name: torch.from_numpy(part).to(table.device) for name, part in vars(labels).items()}
        embedded = {name: table[ids[name]] for name in ("prefix", "suffix_tokens")}
        return EmbeddedLabels(**ids | embedded)

    def tables(self) -> tuple[Tensor, Tensor]:
        """Return the key/value tables of the pool entries [L, N, p, 2 W] and of the static tokens [L, q, 2 W]."""
        return tables(self.text, self.pool.tokens_of_blocks()), tables(self.text, self.pool.static)

    def encode_image(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Encode images. pixels [B, 3, H, W] -> unit features [B, D], unit centres [B, L, K, D]."""
        features, centres = self.vision(pixels)
        assert centres is not None
        return features, centres

    def encode_text(self, labels: LabelTokens, retrieved: Tensor) -> Tensor:
        """Encode every class for every image. retrieved [B, L, M] -> unit features [B, C, D].

        Many classes are encoded in chunks, with checkpointing where gradients are needed, so that memory stays bounded.
        """
        pool, static = self.tables()

        def encode(part: EmbeddedLabels) -> Tensor:
            return prompted_text(self.text, pool, static, retrieved, part)

        width = self.text.positional_embedding.shape[1]
        of_class = BYTES_PER_ACTIVATION * len(retrieved) * labels.token_rows.shape[1] * width * len(self.text.blocks)
        size = max(1, MAX_ACTIVATIONS // max(1, of_class))
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
        """Encode every class without prompts: the same encoder with empty tables. -> unit features [C, D]."""
        table = self.backbone.token_embedding
        pool, static = table.new_zeros(0, 1, 1, 2 * table.shape[1]), table.new_zeros(0, 0, 2 * table.shape[1])
        nothing = torch.zeros(1, 0, 0, dtype=torch.long, device=table.device)
        return prompted_text(self.text, pool, static, nothing, self.embed(labels))[0]

    def logits(self, features: Tensor, text: Tensor) -> Tensor:
        """Return logit scale * cosine. features [B, D], text [B, C, D] -> [B, C]."""
        return self.backbone.logit_scale * (text @ features[:, :, None]).squeeze(-1)

    def forward(self, pixels: Tensor, labels: LabelTokens) -> Tensor:
        """Classify images. pixels [B, 3, H, W] -> logits [B, C]."""
        features, centres = self.encode_image(pixels)
        return self.logits(features, self.encode_text(labels, self.pool.retrieve(centres)))
