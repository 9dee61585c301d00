"""What a user gave, and everything that is wrong with it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from tercet.ground.errors import ConfigError

COMMAND_LINE = "--"


@dataclass(frozen=True)
class Entry:
    """One value that a user gave."""

    key: str
    """Dotted, with underscores."""
    value: Any
    """Text from the command line, anything from a file or from Python."""
    where: str = ""
    """`--` for the command line, else what messages put before the key, such as 'run.yaml: '."""

    @property
    def label(self) -> str:
        """The option as the user wrote it."""
        return self.spell(self.key) if self.where == COMMAND_LINE else self.where + self.key

    @property
    def text(self) -> bool:
        """Whether the value is text whatever its type, because it is a word of a command line."""
        return self.where == COMMAND_LINE

    def spell(self, key: str) -> str:
        """Return a key as the place of this entry writes it."""
        return "--" + key.replace("_", "-") if self.where == COMMAND_LINE else key


class Refused(Exception):
    """Everything that is wrong with one value."""

    def __init__(self, *messages: str) -> None:
        super().__init__(*messages)
        self.messages = messages


@dataclass
class Problems:
    """What is wrong, collected so that it is told at once."""

    messages: list[str] = field(default_factory=list)
    """One a problem."""
    doubtful: set[str] = field(default_factory=set)
    """Keys whose value could not be read: a rule that they seem to break may well be kept."""

    def add(self, *messages: str, doubtful: str | None = None) -> None:
        """Enter messages, and the key whose value is unknown because of them."""
        self.messages.extend(messages)
        if doubtful is not None:
            self.doubtful.add(doubtful)

    def raise_all(self) -> None:
        """Raise one `ConfigError` with a line a problem, if there is any."""
        if self.messages:
            raise ConfigError("\n".join(dict.fromkeys(self.messages)))


def shown(value: Any) -> str:
    """Return a value as a message quotes it: in YAML's words, and short."""
    text = "null" if value is None else str(value).lower() if isinstance(value, bool) else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
