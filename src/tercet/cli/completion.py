"""Command completion: a shell script with the commands, options and choices of this installation.

The script is static, so that the shell completes at once, without starting Python.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from typing import Annotated

from tercet.cli.command import command, find_command
from tercet.config.parser import CONFIG
from tercet.core.errors import ConfigError
from tercet.core.registry import PARTS

_BASH = """\
_tercet() {{
  local current="${{COMP_WORDS[COMP_CWORD]}}" name="${{COMP_WORDS[1]}}" options="" choices=""
  COMPREPLY=()
  if [[ $COMP_CWORD -eq 1 ]]; then
    COMPREPLY=($(compgen -W {commands} -- "$current"))
    return
  fi
  case "$name" in
{options}
  esac
  case "$name ${{COMP_WORDS[COMP_CWORD-1]}}" in
{choices}
  esac
  if [[ -n $choices ]]; then
    COMPREPLY=($(compgen -W "$choices" -- "$current"))
  elif [[ $current == -* ]]; then
    COMPREPLY=($(compgen -W "$options" -- "$current"))
  fi
}}
complete -o bashdefault -o default -F _tercet tercet
"""
_ZSH = """\
autoload -U +X compinit && compinit
autoload -U +X bashcompinit && bashcompinit
"""


@command("Shell")
def completion(shell: Annotated[str, "bash or zsh"]) -> str:
    """Print a shell script that completes commands and options.

    For ~/.bashrc: eval "$(tercet completion bash)"; for ~/.zshrc: eval "$(tercet completion zsh)".

    Examples:
        bash
    """
    if shell not in ("bash", "zsh"):
        raise ConfigError(f"there is no completion for '{shell}': give bash or zsh")
    names = list(PARTS["command"])
    options, choices = [], []
    for name in names:
        fields = find_command(name).options.fields.values()
        words = ["--help", f"--{CONFIG}", *(field.option for field in fields)]
        options.append(f"    {shlex.quote(name)}) options={_quoted(words)} ;;")
        for field in fields:
            values = ("true", "false") if field.flag and field.default else field.choices
            if values and not field.many:
                choices.append(f"    {shlex.quote(f'{name} {field.option}')}) choices={_quoted(map(str, values))} ;;")
    script = _BASH.format(
        commands=_quoted(sorted(names)), options="\n".join(options), choices="\n".join(sorted(choices))
    )
    return (_ZSH + script if shell == "zsh" else script).rstrip("\n")


def _quoted(words: Iterable[str]) -> str:
    return shlex.quote(" ".join(words))
