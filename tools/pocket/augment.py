"""Augmentation of a batch of RGBA images: strong enough that what is learned carries over to art never seen.

Images are premultiplied, [B, 4, H, W] float in [0, 1], so that moving, colouring and blurring never pull in the
colour of transparent pixels. Every step draws its own random numbers per image.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor


def augment(rgba: Tensor, flippable: Tensor, coloured: Tensor, behind: Tensor) -> Tensor:
    """RGBA images [B, 4, H, W] to RGB [B, 3, H, W] on random backgrounds.

    flippable, coloured: [B] bool. An image is mirrored only if flippable; it keeps its hue if coloured.
    behind: photographs [B, 3, H', W'], parts of which are the background of some images.
    """
    rgba = recolour(move(rgba, flippable), coloured)
    rgba = outline(rgba)
    image = rgba[:, :3] + (1 - rgba[:, 3:]) * backgrounds(rgba, behind)
    return degrade(image, coloured).clamp(0, 1)


def photograph(images: Tensor, flippable: Tensor, coloured: Tensor, side: int) -> Tensor:
    """Photographs [B, 3, H', W'] to random parts of them, [B, 3, side, side], in other light."""
    if not len(images):
        return images.new_empty(0, 3, side, side)
    opaque = torch.cat([crop(images, flippable, side, 0.6, 1.0), torch.ones(len(images), 1, side, side)], 1)
    return degrade(recolour(opaque, coloured)[:, :3], coloured).clamp(0, 1)


def crop(images: Tensor, flippable: Tensor, side: int, low: float, high: float) -> Tensor:
    """A part of each image whose sides are between two fractions of the image's, a little turned, at another size."""
    width = uniform(images, low, high)
    height = (width * torch.exp(uniform(images, -0.2, 0.2))).clamp(max=1)
    mirror = 1 - 2 * (flippable & (torch.rand(len(images)) < 0.5)).float()
    turn = uniform(images, -1, 1) ** 3 * math.radians(25)
    row_x = torch.stack([width * mirror, -turn * height, uniform(images, -1, 1) * (1 - width)], 1)
    row_y = torch.stack([turn * width, height, uniform(images, -1, 1) * (1 - height)], 1)
    shape = [len(images), images.shape[1], side, side]
    grid = F.affine_grid(torch.stack([row_x, row_y], 1), shape, align_corners=False)  # [B, side, side, 2]
    return F.grid_sample(images, grid, align_corners=False, padding_mode="reflection")


def chance(like: Tensor, probability: float) -> Tensor:
    """[B, 1, 1, 1] bool, true with the probability given."""
    return (torch.rand(len(like)) < probability)[:, None, None, None]


def uniform(like: Tensor, low: float, high: float) -> Tensor:
    """[B] numbers."""
    return low + (high - low) * torch.rand(len(like))


def move(rgba: Tensor, flippable: Tensor) -> Tensor:
    """Rotate, scale, stretch, shear, shift and mirror."""
    angle = uniform(rgba, -1, 1) ** 3 * math.radians(30)  # the cube makes large turns rare
    zoom = torch.exp(uniform(rgba, math.log(0.9), math.log(1.4)))
    stretch, shear = torch.exp(uniform(rgba, -0.12, 0.12)), uniform(rgba, -0.1, 0.1)
    mirror = 1 - 2 * (flippable & (torch.rand(len(rgba)) < 0.5)).float()
    cos, sin = torch.cos(angle) * zoom, torch.sin(angle) * zoom
    room = (zoom - 0.85).clamp(min=0.05) * 0.8
    row_x = torch.stack([cos * stretch * mirror, (shear * cos - sin) * stretch, uniform(rgba, -1, 1) * room], 1)
    row_y = torch.stack([sin / stretch * mirror, (shear * sin + cos) / stretch, uniform(rgba, -1, 1) * room], 1)
    grid = F.affine_grid(torch.stack([row_x, row_y], 1), list(rgba.shape), align_corners=False)  # [B, H, W, 2]
    return F.grid_sample(rgba, grid + bend(rgba), align_corners=False)


def bend(rgba: Tensor) -> Tensor:
    """[B, H, W, 2]: smooth shifts, for half of the images: no two artists draw a thing with the same proportions."""
    shift = 0.06 * torch.randn(len(rgba), 2, 4, 4) * chance(rgba, 0.5)
    smooth = F.interpolate(shift, list(rgba.shape[-2:]), mode="bicubic", align_corners=True)
    return smooth.permute(0, 2, 3, 1)


def recolour(rgba: Tensor, coloured: Tensor) -> Tensor:
    """Turn the hue, scale saturation, contrast and brightness. Linear, so it commutes with premultiplication."""
    freely = (torch.rand(len(rgba)) < 0.2) & ~coloured
    hue = uniform(rgba, -1, 1) * torch.where(freely, math.pi, torch.where(coloured, 0.08, 0.35))
    saturation = uniform(rgba, 0.5, 1.5) * (1 - ((torch.rand(len(rgba)) < 0.1) & ~coloured).float())
    matrix = hue_matrix(hue, saturation) * torch.exp(uniform(rgba, -0.3, 0.3))[:, None, None]  # [B, 3, 3]
    alpha = rgba[:, 3:]
    colours = torch.einsum("bij,bjhw->bihw", matrix, rgba[:, :3])
    colours = colours + uniform(rgba, -0.12, 0.12)[:, None, None, None] * alpha
    return torch.cat([torch.minimum(colours.clamp(min=0), alpha), alpha], 1)


def hue_matrix(hue: Tensor, saturation: Tensor) -> Tensor:
    """[B, 3, 3]: a turn around the grey axis by `hue` radians, and the distance from that axis scaled."""
    grey = torch.full((3, 3), 1 / 3)
    cross = torch.tensor([[0.0, -1.0, 1.0], [1.0, 0.0, -1.0], [-1.0, 1.0, 0.0]]) / math.sqrt(3)
    cos, sin = torch.cos(hue)[:, None, None], torch.sin(hue)[:, None, None]
    turn = cos * (torch.eye(3) - grey) + sin * cross
    return grey + saturation[:, None, None] * turn


def some(rgba: Tensor, probability: float, change: Callable[[Tensor], Tensor], may: Tensor | None = None) -> Tensor:
    """Change a random part of the batch, among those that `may` [B] bool: the costly steps pay for few images."""
    chosen = torch.rand(len(rgba)) < probability
    rows = (chosen if may is None else chosen & may).nonzero()[:, 0]
    return rgba.index_copy(0, rows, change(rgba[rows])) if len(rows) else rgba


def outline(rgba: Tensor) -> Tensor:
    """Draw some images' silhouettes, and some images' inner edges, as dark lines: many art styles are drawn so."""
    rgba = some(some(rgba, 0.12, draw_edges), 0.25, draw_silhouette)
    return some(rgba, 0.05, draw_silhouette)  # a second time is a thick line


def draw_silhouette(rgba: Tensor) -> Tensor:
    """A dark line around the outside, two pixels thick."""
    alpha = rgba[:, 3:]
    thick = F.max_pool2d(alpha, 5, 1, 2)
    ink = 0.3 * torch.rand(len(rgba), 3, 1, 1) * chance(rgba, 0.5)
    return torch.cat([rgba[:, :3] + (thick - alpha) * ink, thick], 1)


def draw_edges(rgba: Tensor) -> Tensor:
    """Dark lines where colours change; sometimes on white, as a line drawing."""
    alpha, colours = rgba[:, 3:], rgba[:, :3]
    edges = (F.max_pool2d(colours, 3, 1, 1) + F.max_pool2d(-colours, 3, 1, 1)).amax(1, keepdim=True)
    paper = torch.where(chance(rgba, 0.3), alpha, colours)
    return torch.cat([paper * (1 - (2.5 * edges - 0.4).clamp(0, 1)), alpha], 1)


def backgrounds(rgba: Tensor, behind: Tensor) -> Tensor:
    """[B, 3, H, W]: white for half of them, else part of a photograph, one colour, a gradient, or soft noise."""
    size = list(rgba.shape[-2:])
    colour = torch.rand(len(rgba), 3, 1, 1)
    gradient = F.interpolate(torch.rand(len(rgba), 3, 2, 2), size, mode="bilinear", align_corners=True)
    noise = F.interpolate(torch.rand(len(rgba), 3, 8, 8), size, mode="bilinear", align_corners=True)
    scene = crop(behind, torch.ones(len(rgba), dtype=torch.bool), size[0], 0.25, 0.7)
    busy = torch.where(chance(rgba, 0.6), gradient, noise)
    painted = torch.where(chance(rgba, 0.5), colour, busy)
    other = torch.where(chance(rgba, 0.5), scene * (0.4 + 0.6 * torch.rand(len(rgba), 1, 1, 1)), painted)
    return torch.where(chance(rgba, 0.5), torch.ones(()), other)


def degrade(image: Tensor, coloured: Tensor) -> Tensor:
    """Blur, make grey, posterize, invert or add noise, each to a few."""
    image = some(image, 0.15, blur)
    image = some(image, 0.06, lambda x: x.mean(1, keepdim=True).expand_as(x), ~coloured)
    image = some(image, 0.08, lambda x: (x * 3).round() / 3, ~coloured)
    image = some(image, 0.03, lambda x: 1 - x, ~coloured)
    return some(image, 0.1, lambda x: x + 0.06 * torch.randn_like(x))


def blur(image: Tensor) -> Tensor:
    """What half the resolution leaves."""
    return F.interpolate(F.avg_pool2d(image, 2), scale_factor=2.0, mode="bilinear", align_corners=False)
