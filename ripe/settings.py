"""Nested plain values (of YAML, of the command line, of a checkpoint) as dataclasses, and back.

Only what loses nothing is converted: 7 is a number with or without a point, "7" is none.
"""

import math
from collections.abc import Mapping
from dataclasses import is_dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, NoReturn, Union, get_args, get_origin, get_type_hints


def build(kind: type, values: Any, prefix: str = "") -> Any:
    """The dataclass `kind` of `values`; what they do not name has its default.

    Args:
        kind: a dataclass whose fields may be dataclasses themselves.
        values: a mapping of the fields' names to plain values or mappings.
        prefix: of the names in messages.

    Raises:
        KeyError: a name does not exist; its argument is the name in full.
        ValueError: a value has the wrong type; the message gives the name in full.
    """
    if not isinstance(values, Mapping):
        raise ValueError(f"{prefix.rstrip('.')}={values}: is a group of settings; name one of them")
    hints = get_type_hints(kind)
    for key in values:
        if key not in hints:
            raise KeyError(f"{prefix}{key}")
    return kind(**{key: _convert(f"{prefix}{key}", value, hints[key]) for key, value in values.items()})


def plain(value: Any) -> Any:
    """Dictionaries, lists and scalars alone: tuples become lists, paths text."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, tuple):
        return [plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def refuse(key: str, value: Any, wanted: str) -> NoReturn:
    """Raise the ValueError that says what the setting `key` must be."""
    raise ValueError(f"{key}={value}: must be {wanted}")


def _convert(key: str, value: Any, hint: Any) -> Any:
    """`value` as the type `hint`; only what loses nothing is converted."""
    if isinstance(hint, type) and is_dataclass(hint):
        return build(hint, value, f"{key}.")
    origin, options = get_origin(hint), get_args(hint)
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
        return float(value) if math.isfinite(value) else refuse(key, value, "a finite number")
    if hint is int and number and float(value).is_integer():
        return int(value)
    if hint is Path and isinstance(value, str | Path):
        return Path(value).expanduser()
    if hint is str and (number or isinstance(value, str)):
        return str(value)  # a run may be named 7
    if hint is bool and isinstance(value, bool):
        return value
    wanted = {float: "a number", int: "a whole number", bool: "true or false", Path: "a path", str: "a text"}
    return refuse(key, value, wanted.get(hint, "a list or a mapping"))
