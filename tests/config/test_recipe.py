import copy
from typing import Any

import pytest

from tercet.config.recipe import Recipe, ResultSource
from tercet.core.errors import ConfigError

SOUND: dict[str, Any] = {
    "title": "A question",
    "source": "a paper",
    "scales": {
        "small": {
            "data": "digits",
            "parts": {
                "nets": {"verb": "train", "options": {"members": ["small-cnn"]}},
                "fused": {"verb": "ensemble", "of": ["nets"], "seeds": [0, 1]},
            },
            "pairs": [{"what": "one against the other", "a": "nets/small-cnn", "b": "fused/e2e"}],
        }
    },
    "rows": [{"what": "a network", "published": 0.9, "small": "nets/small-cnn"}],
}


def changed(path: str, value: Any) -> dict[str, Any]:
    """Return the sound recipe with one place set to a value; None takes the key away."""
    document = copy.deepcopy(SOUND)
    *way, last = [int(word) if word.isdigit() else word for word in path.split("/")]
    place: Any = document
    for word in way:
        place = place[word]
    if value is None:
        del place[last]
    else:
        place[last] = value
    return document


def test_a_sound_recipe_is_read_whole() -> None:
    recipe = Recipe.from_mapping("mine", SOUND)
    small = recipe.scales["small"]
    assert (recipe.name, list(small.parts), small.parts["fused"].of) == ("mine", ["nets", "fused"], ("nets",))
    assert recipe.rows[0].result_source("small") == ResultSource("nets", "small-cnn")
    assert recipe.rows[0].result_source("paper") is None
    assert str(small.pairs[0].b) == "fused/e2e"


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("title", None, "mine: 'title' is missing"),
        ("titel", "x", "unknown key 'titel', did you mean 'title'"),
        ("scales", ["small"], "scales must be a mapping"),
        ("scales/large", {"parts": {}}, "the scales are small, paper"),
        ("scales/small/parts", None, "scale small: 'parts' is missing"),
        ("scales/small/parts", ["nets"], "parts must be a mapping"),
        ("scales/small/data", None, "part nets: no data"),
        ("scales/small/parts/nets", "train", "part nets: expected a mapping, got 'train'"),
        ("scales/small/parts/nets/verb", "trian", "unknown verb 'trian', did you mean 'train'"),
        ("scales/small/parts/nets/verbs", "x", "part nets: unknown key 'verbs', did you mean 'verb'"),
        ("scales/small/parts/fused/of", None, "needs either of (parts) or files"),
        ("scales/small/parts/nets/of", ["fused"], "needs either of (parts) or files"),
        ("scales/small/parts/fused/of", ["later"], "'later' is no part before it"),
        ("scales/small/parts/fused/of", ["fused"], "'fused' is no part before it"),
        ("scales/small/parts/nets/files", ["a.npy"], "needs either of (parts) or files"),
        ("scales/small/parts/nets/verb", "ensemble", "needs either of (parts) or files"),
        ("scales/small/pairs/0/a", "nets", "'nets' is not of the form PART/NAME"),
        ("scales/small/pairs/0/a", "net/x", "'net/x' names no part, did you mean 'nets'"),
        ("rows/0/small", "fussed/e2e", "'fussed/e2e' names no part, did you mean 'fused'"),
        ("rows/0/paper", "nets/small-cnn", "row 1: there is no scale paper"),
        ("rows/0/metric", "accuracie", "unknown metric 'accuracie', did you mean 'accuracy'"),
        ("rows/0", "a row", "row 1: expected a mapping"),
    ],
)
def test_what_is_wrong_is_told_with_its_place(path: str, value: Any, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Recipe.from_mapping("mine", changed(path, value))
    assert message in str(caught.value)


def test_all_that_is_wrong_is_told_at_once() -> None:
    document = changed("rows/0/metric", "speed")
    document["scales"]["small"]["parts"]["nets"]["verb"] = "learn"
    with pytest.raises(ConfigError) as caught:
        Recipe.from_mapping("mine", document)
    assert "speed" in str(caught.value) and "learn" in str(caught.value)
