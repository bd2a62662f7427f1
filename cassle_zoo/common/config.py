"""Checks of the fields of a settings class, by their types and declared ranges.

A field declares its range in its annotation: `fraction: Annotated[float, Range(0, 1)] = 0.5`.
"""

import dataclasses
import math
import numbers
import types
import typing
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from cassle_zoo.common.errors import ConfigError, unknown_name


@dataclasses.dataclass(frozen=True)
class Range:
    """Bounds of a number, or of each number of a tuple. Infinity and NaN are never allowed.

    Attributes:
        low: Smallest value.
        high: Largest value.
        open_low: Whether `low` itself is not allowed.
    """

    low: float = -math.inf
    high: float = math.inf
    open_low: bool = False

    def __contains__(self, value: float) -> bool:
        """Return whether a finite number is within the bounds."""
        return self.low <= value <= self.high and not (self.open_low and value == self.low)

    def __str__(self) -> str:
        """Return the words that follow "must be a number"."""
        if self.high == math.inf:
            if self.low == -math.inf:
                return ""
            return f" greater than {self.low:g}" if self.open_low else f" of at least {self.low:g}"
        return f" within {'(' if self.open_low else '['}{self.low:g}, {self.high:g}]"


POSITIVE = Range(0, open_low=True)
NOT_NEGATIVE = Range(0)


@dataclasses.dataclass(frozen=True)
class OneOf:
    """Names to choose from."""

    names: tuple[str, ...]


def is_finite(value: float) -> bool:
    """Return whether a number is finite, and no whole number that is too large for a float."""
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


def check_fields(settings: Any, prefix: str = "") -> None:
    """Check all fields of a dataclass instance against their annotations.

    Whole numbers count as real numbers, but True and False do not. NumPy's numbers become Python's,
    and lists tuples, so that settings can be written as JSON and hashed.

    Args:
        settings: The instance; call this in its `__post_init__`.
        prefix: Prefix of the fields' names in messages, such as `"optim."`.

    Raises:
        ConfigError: If a value is not allowed; names the field, its value and the allowed ones.
        UnknownNameError: If a name is not among those to choose from.
    """
    hints = typing.get_type_hints(type(settings), include_extras=True)
    for field in dataclasses.fields(settings):
        name = f"{prefix}{field.name}"
        value = getattr(settings, field.name)
        _check(name, value, hints[field.name], Range())
        object.__setattr__(settings, field.name, _plain(value))


def _plain(value: Any) -> Any:
    if type(value) in (tuple, list):
        return tuple(map(_plain, value))
    return value.item() if isinstance(value, numbers.Number) and hasattr(value, "item") else value


def _check(name: str, value: Any, kind: Any, bounds: Range) -> None:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is Annotated:
        kind, *extras = arguments
        for extra in extras:
            if isinstance(extra, Range):
                bounds = extra
            elif isinstance(extra, OneOf):
                _check_name(name, value, extra)
        _check(name, value, kind, bounds)
    elif origin in (types.UnionType, typing.Union):
        if value is not None or type(None) not in arguments:
            _check_union(name, value, [a for a in arguments if a is not type(None)], bounds)
    elif origin is Literal:
        _check_name(name, value, OneOf(arguments))
    elif origin is tuple:
        _check_tuple(name, value, arguments, bounds)
    elif origin is Mapping:
        if not isinstance(value, Mapping):
            raise ConfigError(f"{name} must be a mapping, got {value!r}.")
        for key, item in value.items():
            _check(f"a key of {name}", key, arguments[0], bounds)
            _check(f"{name}[{key!r}]", item, arguments[1], bounds)
    elif kind in (int, float):
        _check_number(name, value, kind, bounds)
    elif not isinstance(value, kind):
        raise ConfigError(f"{name} must be {_WORDS.get(kind, kind.__name__)}, got {value!r}.")


def _check_union(name: str, value: Any, kinds: list[Any], bounds: Range) -> None:
    for place, kind in enumerate(kinds[:-1]):
        try:
            return _check(name, value, kind, bounds)
        except ConfigError:
            # For a number, report its bounds, not that it is of none of the other kinds.
            others = {int, float}.intersection(kinds[place + 1 :])
            if kind in (int, float) and isinstance(value, numbers.Real) and not others:
                raise
    return _check(name, value, kinds[-1], bounds)


def _check_name(name: str, value: Any, choice: OneOf) -> None:
    if not isinstance(value, str):
        raise ConfigError(f"{name} must be one of {', '.join(choice.names)}, got {value!r}.")
    if value not in choice.names:
        raise unknown_name(name, value, choice.names)


def _check_tuple(name: str, value: Any, kinds: tuple[Any, ...], bounds: Range) -> None:
    if not isinstance(value, tuple | list):
        raise ConfigError(f"{name} must be a tuple, got {value!r}.")
    if kinds[-1] is Ellipsis:
        kinds = kinds[:1] * len(value)
    if len(value) != len(kinds):
        raise ConfigError(f"{name} must be {len(kinds)} values, got {value!r}.")
    for item, kind in zip(value, kinds, strict=True):
        _check(name, item, kind, bounds)


def _check_number(name: str, value: Any, kind: type, bounds: Range) -> None:
    # NumPy's numbers are registered with these, and pass.
    number = numbers.Integral if kind is int else numbers.Real
    is_kind = isinstance(value, number) and not isinstance(value, bool)
    if not is_kind or not is_finite(value) or value not in bounds:
        word = "a whole number" if kind is int else "a number"
        raise ConfigError(f"{name} must be {word}{bounds}, got {value!r}.")


_WORDS = {str: "a text", bool: "True or False"}
