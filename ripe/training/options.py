"""What each setting means, read from the `Attributes:` of the configuration's classes: the one place that says it."""

import inspect
import re
from dataclasses import fields, is_dataclass
from typing import Any, NamedTuple

from ripe.recipe.config import TrainConfig


class Option(NamedTuple):
    """One setting: its full name, its default as written in YAML, and its meaning."""

    name: str
    default: str
    meaning: str


def options(config: Any = None, prefix: str = "") -> list[Option]:
    """All settings, groups after their parent's own ones."""
    config = TrainConfig() if config is None else config
    meanings = _attributes(type(config))
    flat: list[Option] = []
    nested: list[Option] = []
    for f in fields(config):
        value = getattr(config, f.name)
        if is_dataclass(value):
            nested += options(value, f"{prefix}{f.name}.")
        else:
            flat.append(Option(f"{prefix}{f.name}", _written(value), meanings[f.name]))
    return flat + nested


def markdown_table(chosen: list[Option]) -> str:
    """The settings as a table in Markdown."""
    rows = [f"| `{option.name}` | `{option.default}` | {option.meaning} |" for option in chosen]
    return "\n".join(["| setting | default | meaning |", "|---|---|---|", *rows])


def _attributes(kind: type) -> dict[str, str]:
    text = inspect.getdoc(kind) or ""
    section = text.partition("Attributes:\n")[2]
    entries = re.findall(r"^    (\w+): (.*(?:\n {8}.*)*)", section, flags=re.MULTILINE)
    return {name: " ".join(meaning.split()) for name, meaning in entries}


def _written(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    return str(value)
