"""Registries, and suggestions for misspelled names."""

import pytest

from tercet.core.errors import ConfigError
from tercet.core.registry import Registry, did_you_mean, most_similar, register


def shapes() -> Registry[int]:
    registry: Registry[int] = Registry("shape")
    registry.register("square")(4)
    registry.register("circle")(0)
    return registry


def test_values_are_accessed_by_name_and_names_are_sorted() -> None:
    registry = shapes()
    assert registry["square"] == 4
    assert list(registry) == ["circle", "square"]
    assert len(registry) == 2
    assert "circle" in registry and "line" not in registry


def test_register_returns_its_argument() -> None:
    registry: Registry[type] = Registry("class")

    @registry.register("mine")
    class Mine:
        pass

    assert registry["mine"] is Mine


def test_repeated_names_raise_and_keep_the_first_value() -> None:
    registry = shapes()
    with pytest.raises(ConfigError, match="shape 'circle' is already registered"):
        registry.register("circle")(7)
    assert registry["circle"] == 0


def test_unknown_names_raise_with_a_suggestion() -> None:
    with pytest.raises(ConfigError, match=r"unknown shape 'sqare', did you mean 'square'\? \(known: circle, square\)"):
        shapes()["sqare"]
    with pytest.raises(ConfigError, match=r"unknown shape 'xyz' \(known"):
        shapes()["xyz"]


def test_suggestions_accept_any_iterable_and_ignore_case() -> None:
    assert did_you_mean("acuracy", iter(["loss", "accuracy"])) == ", did you mean 'accuracy'?"
    assert did_you_mean("A", ["a", "b"]) == ", did you mean 'a'?"
    assert did_you_mean("LOSSES", ["Loss", "accuracy"]) == ", did you mean 'Loss'?"
    assert did_you_mean("zzz", ["loss"]) == "" == did_you_mean("x", [])


@pytest.mark.parametrize(
    ("misspelled", "name"),
    [
        ("batch-siez", "batch_size"),
        ("fusion.widht", "fusion.width"),
        ("fuison.width", "fusion.width"),
        ("rtain", "train"),
        ("EfficientNet-B0", "efficientnet_b0"),
        ("lable_smothing", "label_smoothing"),
        ("warmup", "warmup_steps"),
        ("augmentation", "augment"),
    ],
)
def test_misspellings_and_abbreviations_are_recognized(misspelled: str, name: str) -> None:
    others = ["lr", "loss", "reset", "device", "data.limit", "fusion.slope", "classes"]
    assert most_similar(misspelled, [*others, name]) == name


@pytest.mark.parametrize(
    ("word", "name"),
    [
        ("preset", "reset"),
        ("fast", "last"),
        ("top", "tta"),
        ("data.lr", "data.limit"),
        ("fusion.width", "fusion.dropout"),
        ("noise", "voice"),
        ("scale", "scan"),
        ("lr", "ls"),
        ("x", "xception"),
    ],
)
def test_unrelated_names_are_not_suggested(word: str, name: str) -> None:
    assert most_similar(word, [name]) is None


def test_custom_parts_are_scoped_and_never_replace_built_in_ones() -> None:
    registry = shapes()
    with registry.scoped({"line": 2}):
        assert registry["line"] == 2 and registry.custom() == {"line": 2}
    assert "line" not in registry and registry.custom() == {}
    with pytest.raises(ConfigError, match="already registered"), registry.scoped({"line": 2, "square": 5}):
        pass
    assert registry["square"] == 4 and "line" not in registry


def test_custom_parts_replace_only_custom_ones() -> None:
    registry = shapes()
    registry.add_custom("line", 2)
    registry.add_custom("line", 3, replace=True)
    assert registry["line"] == 3
    for name in ("line", "square"):
        with pytest.raises(ConfigError, match="already registered"):
            registry.add_custom(name, 1, replace=name == "square")


def test_providers_are_imported_on_first_access() -> None:
    registry: Registry[object] = Registry("module", "this_module_does_not_exist")
    with pytest.raises(ModuleNotFoundError):
        len(registry)


def test_an_unknown_kind_of_part_raises() -> None:
    with pytest.raises(ConfigError, match="unknown kind of part 'haed', did you mean 'head'"):
        register("haed", "mine", object())
