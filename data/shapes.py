"""Images of coloured shapes with a class for each pixel, drawn on the spot."""

import numpy as np

#: The classes: the background, and the three shapes of dSprites.
SHAPES = ("background", "square", "ellipse", "heart")


def draw(count: int, size: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Images (count, size, size, 3) in uint8 and classes (count, size, size) in int64, fixed by the seed.

    Each image has one to three shapes of random place, size, angle and colour on a noisy ground.
    """
    random = np.random.default_rng(seed)
    down, right = np.mgrid[0:size, 0:size] * (2 / size) - 1 + 1 / size
    images, masks = np.empty((count, size, size, 3), np.uint8), np.zeros((count, size, size), np.int64)
    for image, mask in zip(images, masks, strict=True):
        canvas = np.full((size, size, 3), random.uniform(0, 255, 3))
        for _ in range(random.integers(1, 4)):
            kind, angle, scale = random.integers(1, len(SHAPES)), random.uniform(0, 2 * np.pi), random.uniform(0.2, 0.45)
            x, y = right - random.uniform(-0.7, 0.7), down - random.uniform(-0.7, 0.7)
            u, v = (np.cos(angle) * x + np.sin(angle) * y) / scale, (np.cos(angle) * y - np.sin(angle) * x) / scale
            inside = _inside(SHAPES[kind], u, v)
            mask[inside], canvas[inside] = kind, random.uniform(0, 255, 3)
        image[:] = (canvas + random.normal(0, 12, canvas.shape)).clip(0, 255)
    return images, masks


def _inside(shape: str, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """A mask of the points (u, v) of the plane that the shape, of about unit size, covers."""
    if shape == "square":
        return (abs(u) < 0.8) & (abs(v) < 0.8)
    if shape == "ellipse":
        return u**2 + (2 * v) ** 2 < 1
    return (u**2 + v**2 - 0.6) ** 3 < u**2 * v**3  # the sextic heart
