"""Images of more than 8 bits, and file formats beside those of the web."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, features
from tests.fixtures.tiff import tiff

from tercet.config.run import DataConfig, parse_value_range
from tercet.core.errors import ConfigError, DataError, ModelError
from tercet.data.data_module import read_data
from tercet.data.decode import EXTENSIONS, FORMATS, WEB_FORMATS, decode
from tercet.data.decoding import Decoding
from tercet.data.image_store import open_cache
from tercet.data.inputs import ImageInputs

LIMIT = 10**6


def encoded(values: np.ndarray, kind: str = "PNG", **options: object) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(values).save(stream, kind, **options)
    return stream.getvalue()


def ramp(high: int, kind: str = "u2") -> np.ndarray:
    """Return values 0..high, 8 x 32."""
    return np.linspace(0, high, 256).round().astype(kind).reshape(8, 32)


def read(content: bytes, value_range: str = "auto") -> np.ndarray:
    return decode(content, max_pixels=LIMIT, decoding=Decoding(value_range).fresh())[..., 0]


def png_of_16_bit_colours(values: np.ndarray) -> bytes:
    """Return a PNG file of values H W 3 in 16 bits, which Pillow does not write."""
    height, width, _ = values.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    parts = (
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


# ------------------------------------------------------------------------------------------ scale of grey values


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_a_range_maps_its_ends_to_black_and_white(bits: int, kind: str) -> None:
    high = 2**bits - 1
    pixels = read(encoded(ramp(high), kind), f"0,{high}")
    np.testing.assert_array_equal(pixels, np.rint(ramp(high) * (255 / high)))


@pytest.mark.parametrize("value_range", ["auto", "full"])
def test_the_full_range_is_that_of_16_bits(value_range: str) -> None:
    values = ramp(4095)
    np.testing.assert_array_equal(read(encoded(values), value_range), (values.astype(int) + 128) // 257)


@given(st.integers(-1000, 60000), st.integers(1, 60000), st.integers(0, 2**31))
def test_values_outside_a_range_are_clipped(low: int, width: int, seed: int) -> None:
    values = np.random.default_rng(seed).integers(0, 65536, (5, 7)).astype(np.uint16)
    expected = np.rint((values.astype(float) - low) * (255 / width)).clip(0, 255)
    np.testing.assert_array_equal(read(encoded(values), f"{low},{low + width}"), expected)


def test_a_range_does_not_apply_to_8_bits() -> None:
    values = ramp(255, "u1")
    np.testing.assert_array_equal(read(encoded(values), "0,4095"), values)


@pytest.mark.parametrize(("kind", "low", "high"), [("f4", -0.5, 1.5), ("i4", -70000, 70000), ("i2", -300, 500)])
def test_32_bit_and_signed_images_need_a_range(kind: str, low: float, high: float) -> None:
    values = np.linspace(low, high, 256).astype(kind).reshape(8, 32)
    content = tiff(values[..., None])
    for value_range in ("auto", "full"):
        with pytest.raises(DataError, match=r"unknown range.*--data\.value-range MIN,MAX"):
            read(content, value_range)
    expected = np.rint((values.astype(float) - low) * (255 / (high - low))).clip(0, 255)
    np.testing.assert_array_equal(read(content, f"{low},{high}"), expected)


def test_values_that_are_not_finite_are_an_error() -> None:
    values = np.full((4, 4, 1), np.nan, dtype="f4")
    with pytest.raises(DataError, match="not finite"):
        read(tiff(values), "0,1")


def test_a_tiff_file_of_12_bits_states_its_range() -> None:
    values = ramp(4095)
    pixels = read(tiff(values[..., None], bits=12))
    np.testing.assert_array_equal(pixels, np.rint(values * (255 / 4095)))


@pytest.mark.parametrize(
    ("kind", "high", "value_range"), [("u1", 255, "auto"), ("u2", 65535, "auto"), ("f4", 1, "0,1")]
)
def test_white_is_zero_is_inverted_at_every_depth(kind: str, high: float, value_range: str) -> None:
    values = np.linspace(0, high, 256).astype(kind).reshape(8, 32)[..., None]
    plain, inverted = (read(tiff(values, photometric=photometric), value_range) for photometric in (1, 0))
    np.testing.assert_array_equal(inverted, 255 - plain)
    assert plain[0, 0] == 0 and plain[-1, -1] == 255


@pytest.mark.parametrize("maximum", [4095, 65535])
def test_a_pgm_file_states_its_range(maximum: int) -> None:
    values = ramp(maximum)
    content = f"P5\n32 8\n{maximum}\n".encode() + values.astype(">u2").tobytes()
    np.testing.assert_array_equal(read(content), np.rint(values * (255 / maximum)))
    half = np.rint(values * (255 / (maximum // 2))).clip(0, 255)
    assert np.abs(read(content, f"0,{maximum // 2}") - half).max() <= 1  # Pillow rounds the values once


@pytest.mark.parametrize("text", ["", "dark", "5", "5,5", "9,1", "0,nan", "0,inf", "1,2,3"])
def test_invalid_ranges_are_errors(text: str) -> None:
    with pytest.raises(ConfigError, match="must be auto, full, or two increasing numbers"):
        DataConfig(value_range=text)


def test_ranges_may_be_negative_and_fractional() -> None:
    assert parse_value_range("-0.5, 1e3") == (-0.5, 1000)


# ------------------------------------------------------------------------------------------ warnings


def folder_of(root: Path, *contents: bytes, suffix: str = "png") -> Path:
    for number, content in enumerate(contents):
        path = root / "ab"[number % 2] / f"{number}.{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return root


@pytest.mark.parametrize(("high", "advice"), [(200, "0,255"), (900, "0,1023"), (4000, "0,4095"), (16000, "0,16383")])
def test_a_data_set_that_uses_little_of_16_bits_is_reported(tmp_path: Path, high: int, advice: str) -> None:
    data = folder_of(tmp_path, *[encoded(ramp(value)) for value in (high // 2, high, high // 3, high)])
    with pytest.warns(
        UserWarning, match=rf"4 images of 16 bits: values from 0 to {high} only.*--data\.value-range {advice}"
    ):
        module = read_data(data, DataConfig())
    assert any(f"0 to {high} only" in note for note in module.table.notes)
    read_data(data, DataConfig(value_range="full"))
    assert read_data(data, DataConfig(value_range=advice)).images.read(2).max() > 190


def test_the_range_is_that_of_the_data_set_and_not_of_an_image(tmp_path: Path) -> None:
    data = folder_of(tmp_path, *[encoded(ramp(value)) for value in (100, 300, 40000, 200)])
    module = read_data(data, DataConfig())
    assert module.images.read(0).max() <= 1 and not module.table.notes


def test_values_outside_the_range_are_reported(tmp_path: Path) -> None:
    data = folder_of(tmp_path, *[encoded(ramp(value)) for value in (4095, 5000, 4000, 4095)])
    with pytest.warns(UserWarning, match="1 of 4 images .* values outside the value range 0,4095.*0 to 5000"):
        read_data(data, DataConfig(value_range="0,4095"))


def test_colours_of_16_bits_are_reported_and_not_scaled(tmp_path: Path) -> None:
    colours = np.stack([ramp(4095)] * 3, axis=-1)
    for content in (png_of_16_bit_colours(colours), tiff(colours, photometric=2)):
        assert decode(content, max_pixels=LIMIT).max() == 15
        with pytest.raises(DataError, match=r"colours of 16 bits per channel.*convert it to 8 bits"):
            decode(content, max_pixels=LIMIT, decoding=Decoding("0,4095"))
    data = folder_of(tmp_path, *[png_of_16_bit_colours(colours)] * 4)
    with pytest.warns(UserWarning, match="4 images of 16 bits.*convert them to 8 bits"):
        read_data(data, DataConfig())
    bright = png_of_16_bit_colours(np.stack([ramp(65535)] * 3, axis=-1))
    read_data(folder_of(tmp_path / "bright", *[bright] * 4), DataConfig())


def test_images_for_a_model_are_reported_once(tmp_path: Path) -> None:
    data = folder_of(tmp_path, encoded(ramp(4095)))
    inputs = ImageInputs(data)
    with pytest.warns(UserWarning, match=r"predict --value-range 0,4095"):
        assert [pixels.max() for _, pixels in inputs.pixels()] == [16]
    assert len(list(inputs.pixels())) == 1
    scaled = ImageInputs(data, decoding=Decoding("0,4095"))
    assert [pixels.max() for _, pixels in scaled.pixels()] == [255]


def test_saved_images_are_decoded_alike_in_other_processes(tmp_path: Path) -> None:
    data = folder_of(tmp_path / "data", *[encoded(ramp(4095))] * 4)
    module = read_data(data, DataConfig(value_range="0,4095", memory_budget=1))
    (tmp_path / "cache").mkdir()
    module.images.save(tmp_path / "cache")
    np.testing.assert_array_equal(open_cache(tmp_path / "cache").read(2), module.images.read(2))
    assert module.images.read(2).max() == 255


@pytest.mark.parametrize(
    "record", [5, {}, {"value_range": "x", "truncated": False}, {"value_range": 3, "truncated": 1}]
)
def test_a_damaged_record_of_a_model_is_an_error(record: object) -> None:
    with pytest.raises(ModelError, match="how images are decoded is damaged"):
        Decoding.of_card({"data": {"decoding": record}})


def test_models_without_a_record_use_the_default() -> None:
    assert Decoding.of_card({}) == Decoding.of_card({"data": {}}) == Decoding()
    assert Decoding.from_dict(Decoding("0,9", truncated=True).to_dict()) == Decoding("0,9", truncated=True)


# ------------------------------------------------------------------------------------------ formats


@pytest.mark.parametrize(
    ("kind", "mode", "feature"),
    [
        ("PPM", "RGB", None),
        ("PPM", "L", None),
        ("PPM", "1", None),
        ("AVIF", "RGB", "avif"),
        ("JPEG2000", "L", "jpg_2000"),
    ],
)
def test_further_formats_are_read(kind: str, mode: str, feature: str | None) -> None:
    if feature is not None and not features.check(feature):
        pytest.skip(f"Pillow was built without {feature}")
    noise = np.random.default_rng(0).integers(0, 256, (2, 2, 3), dtype=np.uint8)
    image = Image.fromarray(noise.repeat(8, axis=0).repeat(8, axis=1)).convert(mode)
    stream = io.BytesIO()
    image.save(stream, kind)
    pixels = decode(stream.getvalue(), max_pixels=LIMIT)
    assert pixels.shape == (16, 16, 3 if mode == "RGB" else 1)
    expected = np.asarray(image.convert("RGB" if mode == "RGB" else "L")).reshape(pixels.shape).astype(int)
    assert np.abs(pixels - expected).mean() < 12
    with pytest.raises(DataError, match=r"more than data\.max_pixels 255"):
        decode(stream.getvalue(), max_pixels=255)
    with pytest.raises(DataError, match="not an image in an accepted format"):
        decode(stream.getvalue(), max_pixels=LIMIT, formats=WEB_FORMATS)


def test_heic_is_read_with_its_extra_or_explained(tmp_path: Path) -> None:
    content = struct.pack(">I4s4s", 24, b"ftyp", b"heic") + bytes(100)
    assert ".heic" in EXTENSIONS
    if "HEIF" not in FORMATS:
        with pytest.raises(DataError, match=r"it is HEIC; .*pip install 'tercet\[heic\]'"):
            decode(content, max_pixels=LIMIT)
        return
    import pillow_heif

    image = Image.fromarray(np.full((16, 16, 3), (200, 100, 50), dtype=np.uint8))
    pillow_heif.from_pillow(image).save(tmp_path / "a.heic", quality=90)
    pixels = decode(tmp_path / "a.heic", max_pixels=LIMIT)
    assert pixels.shape == (16, 16, 3) and np.abs(pixels.astype(int) - np.asarray(image)).max() < 12
    with pytest.raises(DataError, match=r"more than data\.max_pixels 255"):
        decode(tmp_path / "a.heic", max_pixels=255)


@pytest.mark.parametrize(
    ("channels", "kind", "photometric"),
    [(2, "u2", 1), (4, "u2", 1), (5, "u1", 1), (8, "u1", 1), (5, "u2", 2), (3, "f4", 2)],
)
def test_tiff_files_of_other_channels_are_described(channels: int, kind: str, photometric: int) -> None:
    content = tiff(np.ones((4, 4, channels), dtype=kind), photometric=photometric)
    bits = np.dtype(kind).itemsize * 8
    with pytest.raises(DataError, match=rf"TIFF file of an unsupported kind \({channels} channels of {bits} bits\)"):
        decode(content, max_pixels=LIMIT)


def test_tiff_files_of_four_channels_that_are_colours_are_read() -> None:
    content = tiff(np.full((4, 4, 4), 255, dtype="u1"), photometric=2, extra=2)
    assert decode(content, max_pixels=LIMIT).shape == (4, 4, 3)


# ------------------------------------------------------------------------------------------ truncated files


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_rows": 1}], ids=str)
def test_truncated_jpeg_files_are_read_on_request(tmp_path: Path, options: dict[str, int]) -> None:
    values = np.tile(np.arange(0, 256, 4, dtype=np.uint8), (64, 1))
    content = encoded(values, "JPEG", quality=90, **options)
    decoding = Decoding(truncated=True).fresh()
    pixels = decode(content, max_pixels=LIMIT, decoding=decoding)
    assert decoding.observed.truncated == 0
    for length in range(len(content) - 20, len(content) * 3 // 4, -7):
        (tmp_path / "cut.jpg").write_bytes(content[:length])
        with pytest.raises(DataError, match="truncated"):
            decode(tmp_path / "cut.jpg", max_pixels=LIMIT)
        cut = decode(tmp_path / "cut.jpg", max_pixels=LIMIT, decoding=decoding)
        assert np.abs(cut[:16].astype(int) - pixels[:16]).mean() < 9
    assert "truncated images read as far as the file goes" in next(decoding.warnings())


def test_files_without_pixels_and_other_formats_stay_truncated() -> None:
    decoding, values = Decoding(truncated=True).fresh(), ramp(255, "u1")
    for content in (encoded(values, "JPEG")[:40], encoded(values, "PNG")[:45], b"\xff\xd8", b"\xff\xd8\xff", b""):
        with pytest.raises(DataError):
            decode(content, max_pixels=LIMIT, decoding=decoding)
    assert not decoding.observed.truncated


@given(st.data())
def test_any_damage_of_a_jpeg_file_is_at_most_a_data_error(data: st.DataObject) -> None:
    content = bytearray(encoded(ramp(255, "u1"), "JPEG", progressive=data.draw(st.booleans())))
    for position in data.draw(st.lists(st.integers(0, len(content) - 1), max_size=4)):
        content[position] = data.draw(st.integers(0, 255))
    cut = bytes(content[: data.draw(st.integers(0, len(content)))])
    try:
        pixels = decode(cut, max_pixels=LIMIT, decoding=Decoding(truncated=True).fresh())
    except DataError:
        return
    assert pixels.ndim == 3
