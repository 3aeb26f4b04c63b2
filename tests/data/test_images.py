"""Resizing against torchvision, torch and closed cases; decoding of every kind of pixel, and refusal of what is no image."""

import io

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms.functional import center_crop
from torchvision.transforms.functional import resize as torchvision_resize

from data import decode as decoding
from data.decode import decode
from data.errors import DataError
from data.resize import RULES, pil_bicubic, pil_bilinear, short_side_crop, tf_bilinear


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8))


@pytest.mark.parametrize("shape", [(64, 64), (31, 90), (300, 200), (1, 1), (70, 70)])
def test_rules_against_other_implementations(shape):
    image = picture(*shape)
    assert np.array_equal(pil_bilinear(image, 70), np.asarray(torchvision_resize(image, [70, 70])))
    bicubic = torchvision_resize(image, [70, 70], InterpolationMode.BICUBIC)
    assert np.array_equal(pil_bicubic(image, 70), np.asarray(bicubic))
    cropped = center_crop(torchvision_resize(image, 70), [70, 70])
    assert np.array_equal(short_side_crop(image, 70), np.asarray(cropped))
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float()
    expected = torch.nn.functional.interpolate(pixels, (70, 70), mode="bilinear", antialias=False)[0].permute(1, 2, 0)
    assert np.abs(tf_bilinear(image, 70) - expected.numpy()).max() <= 0.5 + 0.01
    for rule in RULES.values():
        assert rule(image, 70).shape == (70, 70, 3) and rule(image, 70).dtype == np.uint8


def encoded(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def pixel(data: bytes, upright: bool = True) -> tuple:
    image = decode(data, "x", upright=upright)
    assert image.mode == "RGB"
    return image.getpixel((0, 0))


def test_every_kind_of_pixel_becomes_rgb():
    assert pixel(encoded(Image.new("L", (3, 2), 200))) == (200, 200, 200)
    assert pixel(encoded(Image.new("1", (3, 2), 1))) == (255, 255, 255)
    assert pixel(encoded(Image.new("RGBA", (3, 2), (10, 20, 30, 0)))) == (10, 20, 30)
    assert pixel(encoded(Image.new("LA", (3, 2), (77, 128)))) == (77, 77, 77)
    assert pixel(encoded(Image.new("RGB", (3, 2), (250, 0, 3)).quantize(4))) == (250, 0, 3)
    assert pixel(encoded(Image.new("CMYK", (8, 8), (255, 0, 0, 0)), "JPEG", quality=100)) == (0, 255, 255)


@pytest.mark.parametrize(("deep", "shallow"), [(0, 0), (256, 1), (257, 1), (32768, 128), (65535, 255)])
@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bit_grey_is_scaled_and_not_clipped(deep, shallow, kind):
    assert pixel(encoded(Image.fromarray(np.full((2, 3), deep, np.uint16)), kind)) == (shallow,) * 3


def test_exif_orientation_is_applied_on_request():
    image = Image.new("RGB", (20, 10), "blue")
    exif = Image.Exif()
    exif[0x0112] = 6  # turn clockwise to look at it
    data = encoded(image, "JPEG", exif=exif)
    assert decode(data, "x", upright=True).size == (10, 20)
    assert decode(data, "x", upright=False).size == (20, 10)


def test_what_is_no_whole_image_is_refused_in_one_line():
    jpeg, png = encoded(picture(64, 64), "JPEG"), encoded(picture(64, 64))
    for data in (b"", b"not an image", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"):
        with pytest.raises(DataError, match="^a/b.jpg is not an image of a known format"):
            decode(data, "a/b.jpg", upright=True)
    for data in (jpeg[: len(jpeg) // 2], png[: len(png) // 2], png[:60] + b"\0" * 40 + png[100:]):
        with pytest.raises(DataError, match="^a/b.jpg is truncated or broken: [^\n]+$"):
            decode(data, "a/b.jpg", upright=True)
    with pytest.raises(DataError, match="32-bit"):
        decode(encoded(Image.fromarray(np.ones((2, 3), np.float32)), "TIFF"), "a.tif", upright=True)


def test_a_decompression_bomb_is_refused_unread(monkeypatch):
    data = encoded(Image.new("1", (13_400, 13_400)))  # beyond PIL's own limit too; 22 kB
    with pytest.raises(DataError, match="^x has more than the 67108864 pixels"):
        decode(data, "x", upright=True)
    monkeypatch.setattr(decoding, "MAX_PIXELS", 99)
    with pytest.raises(DataError, match="^x has 10 x 10 pixels, at most 99 are read"):
        decode(encoded(picture(10, 10)), "x", upright=True)


@pytest.mark.parametrize(("largest", "deep", "shallow"), [(65535, 32768, 128), (65535, 65535, 255), (1023, 1023, 255), (4095, 0, 0)])
def test_a_pgm_of_more_than_8_bits_is_scaled(largest, deep, shallow):
    data = f"P5 2 1 {largest}\n".encode() + np.array([deep, deep], ">u2").tobytes()
    assert pixel(data) == (shallow,) * 3


@pytest.mark.parametrize("shape", [(200_000, 1), (1, 200_000)])
def test_an_image_too_elongated_to_crop_is_refused_before_memory_is_taken(shape):
    image = decode(encoded(Image.new("RGB", shape)), "a/b.png", upright=True)
    with pytest.raises(DataError, match=f"^a/b.png has {shape[0]} x {shape[1]} pixels: too elongated for short_side_crop"):
        short_side_crop(image, 224)
    assert pil_bilinear(image, 8).shape == (8, 8, 3)
    assert short_side_crop(Image.new("RGB", (300, 1)), 224).shape == (224, 224, 3)
