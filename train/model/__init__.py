"""AttriPrompt on a frozen CLIP: retrieval, prompt pool, prompted text encoder, losses."""

from attri.train.model.attriprompt import AttriPrompt

__all__ = ["AttriPrompt"]
