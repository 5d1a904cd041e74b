"""Settings as dataclasses: made of plain values, and each checked against its type, which says what is allowed.

Plain values are those of YAML, of the command line and of checkpoints. Only what loses nothing is converted: 7 is a
number with or without a point, "7" is none.
"""

import difflib
import inspect
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, is_dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, NoReturn, Self, Union, get_args, get_origin
from typing import get_type_hints as hints_of


@dataclass(frozen=True)
class Range:
    """Numbers that a setting may have, for use in `Annotated`.

    Attributes:
        least: the smallest one.
        most: the largest one.
        above: a bound that is not allowed itself.
        below: likewise.
    """

    least: float = -math.inf
    most: float = math.inf
    above: float = -math.inf
    below: float = math.inf

    def __contains__(self, value: float) -> bool:
        return self.least <= value <= self.most and self.above < value < self.below

    def __str__(self) -> str:
        if math.isfinite(self.least) and math.isfinite(self.most):
            return f"from {self.least} to {self.most}"
        bounds = {
            "{} or more": self.least,
            "{} or less": self.most,
            "more than {}": self.above,
            "less than {}": self.below,
        }
        return " and ".join(text.format(bound) for text, bound in bounds.items() if math.isfinite(bound))


class FolderName:
    """Texts that name one folder, for use in `Annotated`."""

    def __contains__(self, text: str) -> bool:
        return text not in ("", ".", "..") and "/" not in text

    def __str__(self) -> str:
        return "the name of a folder"


Share = Annotated[float, Range(0, 1)]
Positive = Annotated[float, Range(above=0)]
NotNegative = Annotated[float, Range(least=0)]
AtLeastOne = Annotated[int, Range(least=1)]
AtLeastZero = Annotated[int, Range(least=0)]


class Settings:
    """Base of a dataclass of settings: every value becomes what the type of its field says, or is refused.

    The keyword `group` of a subclass is where its settings stand, for messages: `data.warp`.
    """

    _group: ClassVar[str]
    _types: ClassVar[dict[str, Any]]

    def __init_subclass__(cls, group: str = "") -> None:
        cls._group = f"{group}." if group else ""
        hints = hints_of(cls, include_extras=True)
        cls._types = {name: hint for name, hint in hints.items() if get_origin(hint) is not ClassVar}

    def __post_init__(self) -> None:
        for name, hint in self._types.items():
            object.__setattr__(self, name, _convert(f"{self._group}{name}", getattr(self, name), hint))

    @classmethod
    def read(cls, values: Any) -> Self:
        """The settings that nested plain values stand for; what they do not name has its default.

        Raises:
            KeyError: a name does not exist; its argument is the name in full.
            ValueError: a value has the wrong type or is out of range; the message gives the name in full.
        """
        if not isinstance(values, Mapping):
            raise ValueError(f"{cls._group.rstrip('.')}={values}: is a group of settings; name one of them")
        for key in values:
            if key not in cls._types:
                raise KeyError(f"{cls._group}{key}")
        return cls(**values)

    def flat(self) -> dict[str, Any]:
        """All settings by their full names, such as optimizer.lr; groups come after their parent's own ones."""
        values = {name: getattr(self, name) for name in self._types}
        own = {f"{self._group}{name}": value for name, value in values.items() if not isinstance(value, Settings)}
        for value in values.values():
            if isinstance(value, Settings):
                own |= value.flat()
        return own

    def to_dict(self) -> dict[str, Any]:
        """Nested dictionaries, lists and scalars alone, which `read` understands; paths become text."""
        return _plain(asdict(self))  # type: ignore[call-overload]

    def described(self) -> list["Described"]:
        """Every setting with what its class says of it under `Attributes:`, in the order of `flat`."""
        meanings = _meanings(self)
        return [Described(name, _written(value), meanings[name]) for name, value in self.flat().items()]


class Described(NamedTuple):
    """One setting: its full name, its default as written in YAML, and its meaning."""

    name: str
    default: str
    meaning: str


def nearest(key: str, known: list[str]) -> str | None:
    """The full name that was probably meant by `key`, by its whole or by its last part."""
    tails = {name.rsplit(".", 1)[-1]: name for name in reversed(known)}
    near = difflib.get_close_matches(key, known, 1, 0.7)
    near += [tails[tail] for tail in difflib.get_close_matches(key.rsplit(".", 1)[-1], tails, 1, 0.7)]
    return near[0] if near else None


def refuse(key: str, value: Any, wanted: object) -> NoReturn:
    """Raise the ValueError that says what the setting `key` must be."""
    raise ValueError(f"{key}={value}: must be {wanted}")


def _convert(key: str, value: Any, hint: Any) -> Any:
    """`value` as the type `hint`; only what loses nothing is converted."""
    if isinstance(hint, type) and is_dataclass(hint):
        return value if isinstance(value, hint) else hint.read(value)  # type: ignore[attr-defined]
    origin, options = get_origin(hint), get_args(hint)
    if origin is Annotated:
        converted = _convert(key, value, options[0])
        return converted if converted in options[1] else refuse(key, converted, options[1])
    if origin in (Union, UnionType):
        return None if value is None else _convert(key, value, next(o for o in options if o is not NoneType))
    if origin is Literal:
        return value if value in options else refuse(key, value, "one of " + ", ".join(options))
    if origin is dict and isinstance(value, Mapping):
        return {_convert(key, k, options[0]): _convert(f"{key}.{k}", v, options[1]) for k, v in value.items()}
    if origin is tuple and isinstance(value, list | tuple):
        return tuple(_convert(key, item, options[0]) for item in value)
    return _convert_scalar(key, value, hint)


def _convert_scalar(key: str, value: Any, hint: Any) -> Any:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if hint is float and number:
        return float(value) if _is_finite(value) else refuse(key, value, "a finite number")
    if hint is int and number and _is_finite(value) and value == int(value):
        return int(value)
    if hint is Path and isinstance(value, str | Path):
        try:
            return Path(value).expanduser()
        except RuntimeError:  # ~name of nobody here
            refuse(key, value, "a path; there is no such user")
    if hint is str and (number or isinstance(value, str)):
        return str(value)  # a run may be named 7
    if hint is bool and isinstance(value, bool):
        return value
    wanted = {float: "a number", int: "a whole number", bool: "true or false", Path: "a path", str: "a text"}
    return refuse(key, value, wanted.get(hint, "a list or a mapping"))


def _is_finite(value: float) -> bool:
    """Whether a number is finite as a floating-point number, which whole ones may be too large for."""
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def _meanings(settings: Settings) -> dict[str, str]:
    section = (inspect.getdoc(type(settings)) or "").partition("Attributes:\n")[2]
    entries = re.findall(r"^    (\w+): (.*(?:\n {8}.*)*)", section, flags=re.MULTILINE)
    own = {f"{settings._group}{name}": " ".join(meaning.split()) for name, meaning in entries}
    for name in settings._types:
        if isinstance(value := getattr(settings, name), Settings):
            own |= _meanings(value)
    return own


def _written(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    return str(value)
