import io
import os
import struct
import threading
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from tercet.core.errors import DataError
from tercet.data.decode import decode, pillow_limits
from tercet.data.pixel_values import to_pixels

LIMIT = 10**6


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def noise(height: int = 7, width: int = 9) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "WEBP"])
def test_lossless_formats_come_back_exactly(kind: str) -> None:
    image = noise()
    pixels = decode(encoded(image, kind, **({"lossless": True} if kind == "WEBP" else {})), max_pixels=LIMIT)
    assert pixels.dtype == np.uint8 and pixels.flags.c_contiguous
    np.testing.assert_array_equal(pixels, np.asarray(image))


def test_grey_and_black_white_images_have_one_channel() -> None:
    grey = noise().convert("L")
    np.testing.assert_array_equal(decode(encoded(grey), max_pixels=LIMIT)[..., 0], np.asarray(grey))
    black_white = decode(encoded(grey.convert("1")), max_pixels=LIMIT)
    assert black_white.shape == (7, 9, 1) and set(np.unique(black_white)) <= {0, 255}


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bit_images_are_scaled(kind: str) -> None:
    ramp = np.linspace(0, 65535, 256 * 256).astype(np.uint16).reshape(256, 256)
    pixels = decode(encoded(Image.fromarray(ramp), kind), max_pixels=LIMIT)
    assert pixels.shape == (256, 256, 1)
    assert abs(pixels.mean() - 127.5) < 1
    assert (pixels.min(), pixels.max()) == (0, 255)
    np.testing.assert_allclose(pixels[..., 0], ramp / 257, atol=0.5)


@pytest.mark.parametrize(
    ("kind", "orientation"),
    [
        (kind, value)
        for kind in ("JPEG", "PNG", "TIFF")
        for value in (*range(1, 9), *(() if kind == "TIFF" else (0, 99)))
    ],
)
def test_exif_orientation_is_applied_once(kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = encoded(noise(), kind, exif=exif)
    with Image.open(io.BytesIO(content)) as image:
        expected = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    pixels = decode(content, max_pixels=LIMIT)
    assert pixels.shape[:2] == ((9, 7) if orientation in (5, 6, 7, 8) else (7, 9))
    np.testing.assert_array_equal(pixels, expected)


def test_damaged_exif_block_is_ignored() -> None:
    content = encoded(noise(), "JPEG", exif=b"Exif\0\0" + b"\xff\x13garbage" * 5)
    assert decode(content, max_pixels=LIMIT).shape == (7, 9, 3)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "PA"])
def test_transparent_pixels_become_white(mode: str) -> None:
    image = Image.new("RGBA", (4, 4), (200, 30, 30, 0))
    image.putpixel((0, 0), (10, 10, 10, 255))
    if mode == "LA":
        converted = image.convert("LA")
    elif mode == "RGBA":
        converted = image
    else:
        converted = image.convert("RGB").convert("P", dither=Image.Dither.NONE)
        converted.info["transparency"] = converted.getpixel((1, 1))
        converted = converted.convert("PA") if mode == "PA" else converted
    kind = "TIFF" if mode == "PA" else "PNG"
    pixels = to_pixels(converted) if mode == "PA" else decode(encoded(converted, kind), max_pixels=LIMIT)
    assert pixels.shape[2] == (1 if mode == "LA" else pixels.shape[2])
    assert (pixels[1:, 1:] == 255).all()
    assert pixels[0, 0].max() < 60


def test_compositing_in_strips_equals_one_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    image = noise(11, 5)
    image.putalpha(noise(11, 5).convert("L"))
    expected = decode(encoded(image), max_pixels=LIMIT)
    monkeypatch.setattr("tercet.data.pixel_values._STRIP", 17)  # three rows per strip, the last strip is shorter
    assert (decode(encoded(image), max_pixels=LIMIT) == expected).all() and len(np.unique(expected)) > 50


def test_half_transparent_pixels_are_blended_with_white() -> None:
    pixels = decode(encoded(Image.new("RGBA", (2, 2), (0, 100, 255, 128))), max_pixels=LIMIT)
    np.testing.assert_allclose(pixels[0, 0], [127, 177, 255], atol=1)


def test_transparent_value_becomes_white() -> None:
    grey = encoded(Image.new("L", (3, 3), 7), transparency=7)
    assert (decode(grey, max_pixels=LIMIT) == 255).all()
    colour = encoded(Image.new("RGB", (3, 3), (1, 2, 3)), transparency=(1, 2, 3))
    assert (decode(colour, max_pixels=LIMIT) == 255).all()


def test_cmyk_jpeg_is_close_to_its_rgb() -> None:
    smooth = Image.new("RGB", (16, 16), (200, 60, 30))
    pixels = decode(encoded(smooth.convert("CMYK"), "JPEG", quality=95), max_pixels=LIMIT)
    np.testing.assert_allclose(pixels[8, 8], [200, 60, 30], atol=6)


@pytest.mark.parametrize("mode", ["YCbCr", "LAB", "HSV"])
def test_other_colour_spaces_become_rgb(mode: str) -> None:
    assert to_pixels(Image.new(mode, (3, 4))).shape == (4, 3, 3)


@pytest.mark.parametrize("mode", ["I", "F"])
def test_32_bit_images_are_an_error(mode: str) -> None:
    with pytest.raises(DataError, match="unknown range"):
        decode(encoded(Image.new(mode, (3, 3)), "TIFF"), max_pixels=LIMIT)


def test_palette_images_are_grey_or_colour() -> None:
    grey = noise().convert("L").convert("P")
    assert decode(encoded(grey), max_pixels=LIMIT).shape[2] == 1
    colour = noise().convert("P", palette=Image.Palette.ADAPTIVE)
    assert decode(encoded(colour), max_pixels=LIMIT).shape[2] == 3


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_first_frame_of_an_animation_is_read(kind: str) -> None:
    first, second = Image.new("RGB", (4, 4), (255, 0, 0)), Image.new("RGB", (4, 4), (0, 0, 255))
    pixels = decode(encoded(first, kind, save_all=True, append_images=[second]), max_pixels=LIMIT)
    assert pixels[0, 0, 0] > 200 and pixels[0, 0, 2] < 60


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.95])
def test_truncated_images_are_errors(kind: str, share: float) -> None:
    content = encoded(noise(64, 64), kind)
    with pytest.raises(DataError):
        decode(content[: int(len(content) * share)], max_pixels=LIMIT)


@pytest.mark.parametrize(
    "content",
    [b"", b"hello", b"<html></html>", b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"%!PS-Adobe-3.0 EPSF-3.0\n"],
    ids=["empty", "text", "html", "svg", "eps"],
)
def test_other_files_are_not_images(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "renamed.jpg"
    path.write_bytes(content)
    with pytest.raises(DataError, match="not an image"):
        decode(path, max_pixels=LIMIT)


def test_format_is_detected_by_content(tmp_path: Path) -> None:
    path = tmp_path / "really_png.jpg"
    path.write_bytes(encoded(noise()))
    assert decode(path, max_pixels=LIMIT).shape == (7, 9, 3)
    eps = io.BytesIO()
    noise().save(eps, "EPS")
    with pytest.raises(DataError, match="not an image"):
        decode(eps.getvalue(), max_pixels=LIMIT)


def bomb(side: int) -> bytes:
    """A one-bit PNG of `side` x `side` pixels in some kilobytes."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    packer, rows = zlib.compressobj(9), []
    for _ in range(side):
        rows.append(packer.compress(bytes(1 + (side + 7) // 8)))
    body = b"".join(rows) + packer.flush()
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def test_decompression_bomb_is_detected_from_the_header() -> None:
    content = bomb(10_000)
    assert len(content) < 20_000
    with pytest.raises(DataError, match="too large"):
        decode(content, max_pixels=50_000_000)
    with pytest.raises(DataError, match="too large"):
        decode(content, max_pixels=99_999_999)
    with pytest.raises(DataError, match="too large"):
        decode(encoded(noise(20, 20)), max_pixels=399)
    assert decode(encoded(noise(20, 20)), max_pixels=400).shape == (20, 20, 3)


def test_max_pixels_overrides_pillows_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    assert decode(encoded(noise()), max_pixels=LIMIT).shape == (7, 9, 3)
    assert Image.MAX_IMAGE_PIXELS == 10


def test_pillow_settings_are_restored_after_threads_and_errors() -> None:
    before, limit = list(warnings.filters), Image.MAX_IMAGE_PIXELS
    content = encoded(noise())

    def work() -> None:
        for _ in range(20):
            decode(content, max_pixels=LIMIT)

    threads = [threading.Thread(target=work) for _ in range(4)]
    with pillow_limits(5):
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    with pytest.raises(DataError):
        decode(b"x", max_pixels=3)
    assert warnings.filters == before and limit == Image.MAX_IMAGE_PIXELS


@pytest.mark.timeout(5)
def test_pipes_folders_and_absent_files_do_not_block(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    for path in (tmp_path / "pipe.jpg", tmp_path, tmp_path / "none.png", Path("/dev/zero")):
        with pytest.raises(DataError):
            decode(path, max_pixels=LIMIT)


@settings(max_examples=60, deadline=None)
@given(data=st.data(), kind=st.sampled_from(["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP"]))
def test_damaged_images_raise_only_data_error(data: st.DataObject, kind: str) -> None:
    content = bytearray(encoded(noise(), kind))
    for _ in range(data.draw(st.integers(1, 8))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    try:
        pixels = decode(bytes(content), max_pixels=10_000)
    except DataError as error:
        assert "\n" not in str(error)
    else:
        assert pixels.dtype == np.uint8 and pixels.ndim == 3 and pixels.shape[2] in (1, 3)
