import pytest
from hypothesis import given
from hypothesis import strategies as st

from tercet.config.run import RunConfig
from tercet.config.tta import NO_TTA, TTAConfig
from tercet.core.errors import ConfigError

SCALES = st.one_of(st.integers(1, 20_000), st.integers(100, 2000).map(lambda percent: percent / 100))
CROPPED = st.tuples(
    st.sets(st.integers(1, 1000), min_size=1, max_size=4).map(lambda counts: tuple(sorted(counts))), SCALES
)
VIEWS = st.builds(
    lambda crop, flip, vflip, shift, seed: TTAConfig(*crop, flip=flip, vflip=vflip, shift=shift, seed=seed),
    st.one_of(st.just(((), 1.0)), CROPPED),
    st.booleans(),
    st.booleans(),
    st.integers(0, 1000),
    st.integers(0, 2**40),
)


@given(VIEWS)
def test_the_text_form_contains_everything_except_the_seed(views: TTAConfig) -> None:
    assert TTAConfig.parse(str(views), seed=views.seed) == views


@pytest.mark.parametrize(
    ("text", "normalized", "passes"),
    [
        ("none", "none", 1),
        ("flip", "flip", 2),
        ("vflip + flip", "flip+vflip", 4),
        ("shifts:2+flip", "flip+shifts:2", 10),
        ("crops:3@540", "crops:3@540", 3),
        ("crops:9,1,3,3@540+flip", "crops:1,3,9@540+flip", 18),
        ("crops:5@1.10x", "crops:5@1.1x", 5),
    ],
)
def test_terms_are_accepted_in_any_order(text: str, normalized: str, passes: int) -> None:
    views = TTAConfig.parse(text)
    assert (str(views), views.passes) == (normalized, passes)


def test_each_number_of_crops_is_a_level() -> None:
    levels = TTAConfig.parse("crops:1,3,5@1.1x+flip", seed=4).levels()
    assert [str(level) for level in levels] == [f"crops:{count}@1.1x+flip" for count in (1, 3, 5)]
    assert {level.seed for level in levels} == {4}
    assert TTAConfig.parse("flip").levels() == (TTAConfig.parse("flip"),) and NO_TTA.levels() == (NO_TTA,)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("mirror", "unknown view 'mirror'"),
        ("flpi", "did you mean 'flip'"),
        ("none+flip", "unknown view 'none'"),
        ("flip+flip", "twice"),
        ("flip:2", "not of the form flip"),
        ("crops", "not of the form crops:3@540"),
        ("crops:3@1.1", "not of the form"),
        ("crops:٣@540", "not of the form"),
        ("crops:1,0@540", "must be positive"),
        ("crops:5000@540", "at most 1000"),
        ("crops:3@0.9x", "larger than the image"),
        ("crops:3@99999999", "at most 20000"),
        ("crops:3@21x", "at most 20$"),
        ("shifts:0", "not of the form shifts:2"),
        ("shifts:2000", "from 1 to 1000"),
    ],
)
def test_invalid_texts_raise_with_one_line(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        RunConfig(tta=text)
    assert "\n" not in str(error.value) and f"tta '{text}'" in str(error.value)


def test_images_are_enlarged_for_crops_only() -> None:
    assert TTAConfig.parse("crops:3@540").enlarged_size((501, 501)) == (540, 540)
    assert TTAConfig.parse("crops:3@128").enlarged_size((64, 96)) == (128, 192)
    assert TTAConfig.parse("crops:3@1.25x").enlarged_size((64, 96)) == (80, 120)
    assert TTAConfig.parse("flip+shifts:3").enlarged_size((64, 96)) == (64, 96)


def test_crops_must_fit_into_the_image() -> None:
    with pytest.raises(ConfigError, match="give at least 224"):
        TTAConfig.parse("crops:3@200").enlarged_size((224, 320))
    assert TTAConfig.parse("crops:3@224").enlarged_size((224, 320)) == (224, 320)
