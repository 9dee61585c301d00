from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from tests.fixtures.bundles import make_bundle

from tercet.core.errors import DataError
from tercet.data.input_batches import InputBatches
from tercet.data.inputs import ImageInputs
from tercet.ensemble.bundle import Bundle

SHARED = make_bundle("weighted")


def grey(seed: int = 0, size: tuple[int, int] = (15, 11)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, size, dtype=np.uint8)


def colour(seed: int = 0, size: tuple[int, int] = (15, 11)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "images" / "inner").mkdir(parents=True)
    for index, name in enumerate(("img10.png", "img9.png", "inner/deep.bmp", "note.txt")):
        if name.endswith(".txt"):
            (tmp_path / "images" / name).write_text("not an image")
        else:
            Image.fromarray(colour(index)).save(tmp_path / "images" / name)
    return tmp_path / "images"


def test_all_input_types_of_an_image_are_equal(bundles: dict[str, Bundle], tmp_path: Path) -> None:
    bundle, pixels = bundles["average"], colour()
    path = tmp_path / "one.png"
    Image.fromarray(pixels).save(path)
    expected = bundle.predict(pixels).probabilities
    assert expected.shape == (1, 3)
    forms = [str(path), path, [path], Image.open(path), [Image.fromarray(pixels)], pixels[None], [pixels], tmp_path]
    for form in forms:
        assert np.array_equal(bundle.predict(form).probabilities, expected)


def test_all_input_types_of_a_grey_image_are_equal(bundles: dict[str, Bundle], tmp_path: Path) -> None:
    bundle, pixels = bundles["average"], grey()
    expected = bundle.predict(pixels).probabilities
    for form in (
        pixels[..., None],
        pixels[None, ..., None],
        Image.fromarray(pixels),
        [
            pixels,
        ][:1],
    ):
        assert np.array_equal(bundle.predict(form).probabilities, expected)
    several = np.stack([pixels] * 4)  # N H W
    assert len(bundle.predict(several).ids) == 4
    assert np.array_equal(bundle.predict(several[..., None]).probabilities, bundle.predict(several).probabilities)
    repeated = np.repeat(pixels[..., None], 3, axis=2)
    assert np.allclose(bundle.predict(repeated).probabilities, expected, atol=1e-4)


@pytest.mark.parametrize(
    ("mode", "like"),
    [
        ("1", "L"),
        ("L", "L"),
        ("LA", "L"),
        ("P", "RGB"),
        ("RGB", "RGB"),
        ("RGBA", "RGB"),
        ("CMYK", None),
        ("I;16", None),
    ],
)
def test_pillow_images_of_every_mode(bundles: dict[str, Bundle], tmp_path: Path, mode: str, like: str | None) -> None:
    if mode == "I;16":
        image = Image.fromarray(grey().astype(np.uint16) * 257)
    elif mode in ("1", "L", "LA"):
        image = Image.fromarray(grey()).convert(mode)
    else:
        image = Image.fromarray(colour()).convert("RGB").convert(mode)
    predictions = bundles["average"].predict(image).probabilities
    if mode == "I;16":
        assert np.array_equal(predictions, bundles["average"].predict(grey()).probabilities)  # scaled, not clipped
    if like is not None:
        assert np.array_equal(predictions, bundles["average"].predict(image.convert(like)).probabilities)
    extension = "tif" if mode == "CMYK" else "png"
    image.save(tmp_path / f"one.{extension}")
    assert np.array_equal(bundles["average"].predict(tmp_path / f"one.{extension}").probabilities, predictions)


def test_exif_orientation_is_applied(bundles: dict[str, Bundle], tmp_path: Path) -> None:
    upright = Image.fromarray(colour())
    exif = Image.Exif()
    exif[0x0112] = 6  # rotated by 90 degrees
    upright.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "turned.png", exif=exif)
    rotated = bundles["average"].predict(tmp_path / "turned.png").probabilities
    assert np.array_equal(rotated, bundles["average"].predict(upright).probabilities)


@settings(max_examples=8, deadline=None)
@given(
    sizes=st.lists(st.tuples(st.integers(1, 50), st.integers(1, 50)), min_size=1, max_size=7),
    batch=st.integers(1, 9),
)
def test_predictions_do_not_depend_on_the_batch(sizes: list[tuple[int, int]], batch: int) -> None:
    images = [colour(index, size) if index % 2 else grey(index, size) for index, size in enumerate(sizes)]
    together = SHARED.predict(images, batch_size=batch)
    alone = np.concatenate([SHARED.predict(image, batch_size=1).probabilities for image in images])
    assert np.abs(together.probabilities - alone).max() < 1e-4  # kernels differ with the batch: 32-bit rounding
    assert np.allclose(together.probabilities.sum(1), 1)
    backwards = SHARED.predict(images[::-1], batch_size=batch).probabilities[::-1]
    assert np.abs(backwards - alone).max() < 1e-4


@pytest.mark.parametrize("shape", [(1, 1), (1, 300), (300, 1), (2, 3000, 3)])
def test_extreme_image_shapes_are_accepted(bundles: dict[str, Bundle], shape: tuple[int, ...]) -> None:
    assert np.isfinite(bundles["average"].predict(np.full(shape, 200, dtype=np.uint8)).probabilities).all()


def test_arrays_of_any_memory_layout_are_read_only(bundles: dict[str, Bundle]) -> None:
    pixels = colour(3)
    expected = bundles["average"].predict(pixels).probabilities
    locked = pixels.copy()
    locked.flags.writeable = False
    views = [
        locked,
        np.asfortranarray(pixels),
        pixels[::-1][::-1],
        np.repeat(pixels, 2, axis=0)[::2],
        memoryview(pixels),
    ]
    for view in views:
        array = np.asarray(view)
        before = array.copy()
        assert np.array_equal(bundles["average"].predict(array).probabilities, expected)
        assert np.array_equal(array, before)
    flipped = bundles["average"].predict(pixels[:, ::-1]).probabilities
    assert not np.array_equal(flipped, expected)


def test_ids_are_paths_or_indices(bundles: dict[str, Bundle], folder: Path) -> None:
    bundle = bundles["single"]
    assert bundle.predict(folder).ids == tuple(
        str(folder / name) for name in ("img9.png", "img10.png", "inner/deep.bmp")
    )
    assert bundle.predict([folder / "img9.png", grey(), Image.fromarray(grey(1))]).ids == (
        str(folder / "img9.png"),
        "1",
        "2",
    )
    assert bundle.predict(np.stack([grey()[..., None]] * 3)).ids == ("0", "1", "2")
    assert bundle.predict([folder / "inner", folder / "img9.png"]).ids == (
        str(folder / "inner/deep.bmp"),
        str(folder / "img9.png"),
    )


def test_predictions_of_images_have_no_labels(bundles: dict[str, Bundle], folder: Path) -> None:
    predictions = bundles["single"].predict(folder)
    assert not predictions.known.any()
    assert predictions.classes == bundles["single"].classes


def test_ids_keep_unusual_file_names(bundles: dict[str, Bundle], tmp_path: Path) -> None:
    names = [b"new\nline.png", "émeu 🐦.png".encode(), b"\xff\xfe.png", b"-rf.png", b"[bold]x[red].png", b"=1+1.png"]
    for name in names:
        with open(bytes(tmp_path) + b"/" + name, "wb") as stream:
            Image.fromarray(grey()).save(stream, "PNG")
    ids = bundles["single"].predict(tmp_path).ids
    assert {bytes(Path(name)).rpartition(b"/")[2] for name in ids} == set(names)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.full((5, 5), 0.3, dtype=np.float32), r"convert with \(image \* 255\)"),
        (np.zeros((3, 5, 6), dtype=np.uint8), r"\(3, 5, 6\)"),
        (np.zeros(5, dtype=np.uint8), r"\(5,\)"),
        (np.full((2, 5, 5, 3), 2, dtype=np.int64), "int64"),
        (np.zeros((1, 2, 5, 5, 3), dtype=np.uint8), r"\(2, 5, 5, 3\)"),
        (np.zeros((5, 0, 3), dtype=np.uint8), r"\(5, 0, 3\)"),
        ([b"bytes"], "bytes"),
        ([[[0, 1], [2, 3]]], "list"),
    ],
)
def test_invalid_images_are_errors(bundles: dict[str, Bundle], image: object, message: str) -> None:
    with pytest.raises(DataError, match=message):
        bundles["single"].predict(image)  # type: ignore[arg-type]


@pytest.mark.parametrize("images", [[], (), np.zeros((0, 5, 5, 3), dtype=np.uint8)])
def test_empty_input_is_an_error(bundles: dict[str, Bundle], images: object) -> None:
    with pytest.raises(DataError, match="no images"):
        bundles["single"].predict(images)  # type: ignore[arg-type]


def test_missing_files_and_empty_folders_are_errors(bundles: dict[str, Bundle], tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"absent\.png"):
        bundles["single"].predict(tmp_path / "absent.png")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="empty"):
        bundles["single"].predict([tmp_path / "empty"])


def test_duplicate_image_is_an_error(bundles: dict[str, Bundle], folder: Path) -> None:
    for images in ([folder / "img9.png", folder / "img9.png"], [folder, str(folder / "img9.png")]):
        with pytest.raises(DataError, match=r"img9\.png was given twice"):
            bundles["single"].predict(images)


@pytest.mark.parametrize("kind", ["text", "truncated", "empty", "svg", "eps"])
def test_damaged_files_are_named(bundles: dict[str, Bundle], tmp_path: Path, kind: str) -> None:
    good = tmp_path / "good.png"
    Image.fromarray(colour()).save(good)
    bad = tmp_path / "bad.png"
    content = {
        "text": b"not an image",
        "truncated": good.read_bytes()[:-200],
        "empty": b"",
        "svg": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        "eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
    }
    bad.write_bytes(content[kind])
    with pytest.raises(DataError, match=r"bad\.png"):
        bundles["single"].predict([good, bad])


def test_unreadable_pillow_image_raises_data_error(bundles: dict[str, Bundle], tmp_path: Path) -> None:
    path = tmp_path / "half.jpg"
    Image.fromarray(colour(0, (64, 64))).save(path)
    path.write_bytes(path.read_bytes()[:700])
    with Image.open(path) as image, pytest.raises(DataError, match="image 1"):
        # Pillow reads the pixels lazily
        bundles["single"].predict([grey(), image])
    with pytest.raises(DataError, match="mode F"):
        bundles["single"].predict(Image.fromarray(np.zeros((5, 5), dtype=np.float32)))


def test_skip_bad_lists_skipped_images(bundles: dict[str, Bundle], folder: Path) -> None:
    (folder / "broken.png").write_bytes(b"broken")
    bundle = bundles["average"]
    source = InputBatches(ImageInputs(folder, skip_bad=True), bundle.specs, batch_size=2)
    predictions = bundle.combine(bundle.predict_member_batches(source))
    assert len(predictions) == 3 and not any("broken" in name for name in predictions.ids)
    assert [(Path(bad.id).name, "not an image" in bad.reason) for bad in source.inputs.bad] == [("broken.png", True)]


def test_second_pass_lists_bad_images_once(bundles: dict[str, Bundle], folder: Path) -> None:
    (folder / "broken.png").write_bytes(b"broken")
    source = InputBatches(ImageInputs(folder, skip_bad=True), bundles["single"].specs, batch_size=2)
    for _ in range(2):
        assert sum(len(batch) for batch in source.epoch(0)) == 3
    assert len(source.inputs.bad) == 1


def test_epoch_can_start_at_any_batch(bundles: dict[str, Bundle]) -> None:
    source = InputBatches([grey(index) for index in range(5)], bundles["average"].specs, batch_size=2)
    assert len(source) == 3
    batches = list(source.epoch(0))
    assert [batch.ids for batch in source.epoch(0, 1)] == [batch.ids for batch in batches[1:]]
    assert [tuple(view.shape) for view in batches[2].images] == [(1, 1, 12, 12), (1, 3, 20, 16), (1, 3, 64, 64)]


def test_batch_size_must_be_positive(bundles: dict[str, Bundle]) -> None:
    with pytest.raises(ValueError, match="batch_size"):
        bundles["single"].predict(grey(), batch_size=0)
