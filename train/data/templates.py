"""Prompt templates as published with CoOp and CLIP; the label goes into {}."""

from __future__ import annotations

DEFAULT = "a photo of a {}."

# CoOp's hand-written prompts (CUSTOM_TEMPLATES); datasets that are not named take DEFAULT there too.
CUSTOM = {
    "OxfordPets": "a photo of a {}, a type of pet.",
    "OxfordFlowers": "a photo of a {}, a type of flower.",
    "FGVCAircraft": "a photo of a {}, a type of aircraft.",
    "DescribableTextures": "{} texture.",
    "EuroSAT": "a centered satellite photo of {}.",
    "Food101": "a photo of {}, a type of food.",
    "UCF101": "a photo of a person doing {}.",
}

# The seven that CLIP's authors selected from their 80 for ImageNet; "itap" is "I took a picture". CoOp's ensemble for
# another dataset is these and the dataset's own.
ENSEMBLE = (
    "itap of a {}.",
    "a bad photo of the {}.",
    "a origami {}.",
    "a photo of the large {}.",
    "a {} in a video game.",
    "art of the {}.",
    "a photo of the small {}.",
)
