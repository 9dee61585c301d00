import json

import pytest

from tercet.config.model import FREEZE_PRESETS, FreezeRule, ModelConfig, read_rules
from tercet.config.parser import CommandOptions
from tercet.core.errors import ConfigError

LAYER4, REST = FreezeRule("features.network.layer4.*", False), FreezeRule("*", True)


@pytest.mark.parametrize(
    "freeze",
    [
        ("features.network.layer4.*: open", "*: frozen"),
        ({"features.network.layer4.*": "open"}, {"*": "frozen"}),
        ({"features.network.layer4.*": "open", "*": "frozen"},),
        ("features.network.layer4.*:open", {"*": "frozen"}),
    ],
)
def test_a_table_is_the_same_however_it_is_written(freeze):
    assert read_rules(freeze) == (LAYER4, REST)


def test_presets_are_tables_and_may_end_one():
    for name, rules in FREEZE_PRESETS.items():
        assert read_rules((name,)) == rules
    assert read_rules(("features.network.layer4.*: open", "backbone")) == (LAYER4, *FREEZE_PRESETS["backbone"])


@pytest.mark.parametrize(
    ("freeze", "message"),
    [
        (("bckbone",), "did you mean 'backbone'"),
        (("head.*: closed",), "frozen|open"),
        ((": frozen",), "frozen|open"),
        (({"head.*": True},), "frozen|open"),
        ((5,), "got 5"),
        ((), "empty"),
    ],
)
def test_what_is_no_table_is_refused(freeze, message):
    with pytest.raises(ConfigError, match=message.replace("|", r"\|")):
        ModelConfig(freeze=freeze)


def test_command_line_file_and_json_agree():
    options = CommandOptions("any", groups=[("", ModelConfig)])
    words = options.parse_args(["--freeze", "features.network.layer4.*: open, *: frozen"]).of(ModelConfig)
    listed = options.parse_object({"freeze": [{"features.network.layer4.*": "open"}, {"*": "frozen"}]}).of(ModelConfig)
    assert read_rules(words.freeze) == read_rules(listed.freeze) == (LAYER4, REST)
    assert options.parse_args(["--freeze", "backbone"]).of(ModelConfig).freeze == ("backbone",)
    for config in (words, listed):
        stored = json.loads(json.dumps(config.to_dict()))
        assert ModelConfig.from_dict(stored) == config
        assert options.parse_object(options.to_dict(config)).of(ModelConfig) == config
    del stored["freeze"]  # as bundles were before there was such an option
    assert ModelConfig.from_dict(stored).freeze == ("none",)
