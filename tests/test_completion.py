"""Shell completion: what bash offers for the printed script."""

import shutil
import subprocess

import pytest

from tercet.cli.completion import completion
from tercet.cli.main import COMMANDS
from tercet.core.errors import ConfigError

pytestmark = pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")


def completed(*words: str) -> list[str]:
    """Return the completions of the last word."""
    script = f"""{completion("bash")}
COMP_WORDS=("$@"); COMP_CWORD=$(( $# - 1 )); _tercet; printf '%s\\n' "${{COMPREPLY[@]}}"
"""
    result = subprocess.run(["bash", "-c", script, "bash", *words], capture_output=True, text=True, check=True)
    assert result.stderr == ""
    return result.stdout.split()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["tercet", "tr"], ["train"]),
        (["tercet", ""], sorted(COMMANDS)),
        (["tercet", "train", "photos/", "--epo"], ["--epochs"]),
        (["tercet", "export", "run", "--form"], ["--format"]),
        (["tercet", "export", "run", "--format", ""], ["onnx", "torch"]),
        (["tercet", "train", "photos/", "--schedule", "cos"], ["cosine"]),
        (["tercet", "train", "--conf"], ["--config"]),
        (["tercet", "train", "pho"], []),  # the shell completes names of files
        (["tercet", "unknown", "--"], []),
    ],
)
def test_bash_completes_commands_options_and_choices(words: list[str], expected: list[str]) -> None:
    assert completed(*words) == expected


def test_zsh_uses_the_same_function() -> None:
    assert completion("zsh").endswith(completion("bash")) and "bashcompinit" in completion("zsh")


def test_other_shells_are_an_error() -> None:
    with pytest.raises(ConfigError, match="'fish': give bash or zsh"):
        completion("fish")
