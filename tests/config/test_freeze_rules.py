import json

import pytest

from tercet.cli.command import find_command
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
def test_all_notations_give_the_same_rules(freeze):
    assert read_rules(freeze) == (LAYER4, REST)


def test_presets_are_rules_and_can_follow_other_rules():
    for name, rules in FREEZE_PRESETS.items():
        assert read_rules((name,)) == rules
    assert read_rules(("features.network.layer4.*: open", "backbone")) == (LAYER4, *FREEZE_PRESETS["backbone"])


@pytest.mark.parametrize(
    ("freeze", "message"),
    [
        (("bckbone",), "did you mean 'backbone'"),
        (("head.*: closed",), "frozen|open"),
        ((5,), "got 5"),
        ((), "empty"),
    ],
)
def test_invalid_rules_raise(freeze, message):
    with pytest.raises(ConfigError, match=message.replace("|", r"\|")):
        ModelConfig(freeze=freeze)


def test_command_line_file_and_json_give_the_same_rules():
    options = CommandOptions(ModelConfig)
    command = find_command("models")
    parsed = command.parse_args(["--freeze", "features.network.layer4.*: open, *: frozen"]).of(ModelConfig)
    listed = options.parse_object({"freeze": [{"features.network.layer4.*": "open"}, {"*": "frozen"}]}).of(ModelConfig)
    assert read_rules(parsed.freeze) == read_rules(listed.freeze) == (LAYER4, REST)
    assert command.parse_args(["--freeze", "backbone"]).of(ModelConfig).freeze == ("backbone",)
    for config in (parsed, listed):
        stored = json.loads(json.dumps(config.to_dict()))
        assert ModelConfig.from_dict(stored) == config
        assert options.parse_object(options.to_dict(config)).of(ModelConfig) == config
    del stored["freeze"]  # as in bundles from before this option
    assert ModelConfig.from_dict(stored).freeze == ("none",)
