"""Which images a bundle is compared on."""

from __future__ import annotations

from attri.export.parity.images import find_parity_images
from attri.train import pocket


def test_the_sample_is_even_over_the_folder():
    images = find_parity_images(pocket.IMAGES, 25)
    assert len({p.parent.name for p in images}) > 20
    assert all("test" in p.parts for p in images)
