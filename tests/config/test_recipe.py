import copy
from typing import Any

import pytest

from tercet.config.recipe import Recipe, ResultSource
from tercet.core.errors import ConfigError

VALID: dict[str, Any] = {
    "title": "A question",
    "source": "a paper",
    "scales": {
        "small": {
            "data": "digits",
            "steps": {
                "nets": {"command": "train", "options": {"members": ["small-cnn"]}},
                "fused": {"command": "ensemble", "of": ["nets"], "seeds": [0, 1]},
            },
            "pairs": [{"what": "ensemble against member", "a": "nets/small-cnn", "b": "fused/e2e"}],
        }
    },
    "rows": [{"what": "a network", "published": 0.9, "small": "nets/small-cnn"}],
}


def changed(path: str, value: Any) -> dict[str, Any]:
    """Return the valid recipe with one value replaced; None deletes the key."""
    recipe = copy.deepcopy(VALID)
    *parents, last = [int(key) if key.isdigit() else key for key in path.split("/")]
    target: Any = recipe
    for key in parents:
        target = target[key]
    if value is None:
        del target[last]
    else:
        target[last] = value
    return recipe


def test_a_valid_recipe_is_read_completely() -> None:
    recipe = Recipe.from_mapping("mine", VALID)
    small = recipe.scales["small"]
    assert (recipe.name, list(small.steps), small.steps["fused"].of) == ("mine", ["nets", "fused"], ("nets",))
    assert recipe.rows[0].result_source("small") == ResultSource("nets", "small-cnn")
    assert recipe.rows[0].result_source("paper") is None
    assert str(small.pairs[0].b) == "fused/e2e"


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("title", None, "mine: 'title' is missing"),
        ("titel", "x", "unknown key 'titel', did you mean 'title'"),
        ("scales", ["small"], "scales must be a mapping"),
        ("scales/large", {"steps": {}}, "the scales are small, paper"),
        ("scales/small/steps", None, "scale small: 'steps' is missing"),
        ("scales/small/steps", ["nets"], "steps must be a mapping"),
        ("scales/small/data", None, "step nets: no data"),
        ("scales/small/steps/nets", "train", "step nets: expected a mapping, got 'train'"),
        ("scales/small/steps/nets/command", "trian", "unknown command 'trian', did you mean 'train'"),
        ("scales/small/steps/nets/commands", "x", "step nets: unknown key 'commands', did you mean 'command'"),
        ("scales/small/steps/fused/of", None, "needs either of (steps) or files"),
        ("scales/small/steps/nets/of", ["fused"], "needs either of (steps) or files"),
        ("scales/small/steps/fused/of", ["later"], "'later' is not an earlier step"),
        ("scales/small/steps/fused/of", ["fused"], "'fused' is not an earlier step"),
        ("scales/small/steps/nets/files", ["a.npy"], "needs either of (steps) or files"),
        ("scales/small/steps/nets/command", "ensemble", "needs either of (steps) or files"),
        ("scales/small/pairs/0/a", "nets", "'nets' is not of the form STEP/NAME"),
        ("scales/small/pairs/0/a", "net/x", "'net/x' is not a result of a step, did you mean 'nets'"),
        ("rows/0/small", "fussed/e2e", "'fussed/e2e' is not a result of a step, did you mean 'fused'"),
        ("rows/0/paper", "nets/small-cnn", "row 1: the recipe has no scale paper"),
        ("rows/0/metric", "accuracie", "unknown metric 'accuracie', did you mean 'accuracy'"),
    ],
)
def test_invalid_recipes_raise_with_the_location(path: str, value: Any, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Recipe.from_mapping("mine", changed(path, value))
    assert message in str(caught.value)


def test_all_problems_are_reported_together() -> None:
    recipe = changed("rows/0/metric", "speed")
    recipe["scales"]["small"]["steps"]["nets"]["command"] = "learn"
    with pytest.raises(ConfigError) as caught:
        Recipe.from_mapping("mine", recipe)
    assert "speed" in str(caught.value) and "learn" in str(caught.value)
