"""What was run: a configuration as immutable plain data, and the key that names its record.

Everything that decides a run's numbers is in a :class:`Configuration`. Its key is a hash of one canonical
text, so that a run done twice, here or on another machine, is found under the same name.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import math
import numbers
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

_SLUG = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


def plain(value: object, where: str) -> Any:
    """``value`` as immutable plain JSON: whole numbers become integers (25.0 becomes 25), lists tuples."""
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, numbers.Real):
        number = float(value)
        if not math.isfinite(number):
            raise ValueError(f"{where} is {number}; a record accepts finite numbers only.")
        return int(number) if number.is_integer() else number
    if isinstance(value, Mapping):
        for name in value:
            if not isinstance(name, str):
                raise ValueError(f"{where} has the key {name!r}; keys must be strings.")
        return MappingProxyType({name: plain(value[name], f"{where}.{name}") for name in sorted(value)})
    if isinstance(value, list | tuple):
        return tuple(plain(item, where) for item in value)
    kind = type(value).__name__
    raise ValueError(f"{where} is a {kind}; accepted are None, bool, numbers, strings, lists and mappings of them.")


def thaw(value: Any) -> Any:
    """The inverse of ``plain``'s freezing: mappings as dicts and tuples as lists, for `json`."""
    if isinstance(value, Mapping):
        return {name: thaw(item) for name, item in value.items()}
    return [thaw(item) for item in value] if isinstance(value, tuple) else value


def canonical_json(value: object) -> str:
    """The one text of a plain JSON value, the same on every platform; hashes are taken of it.

    Keys are sorted, there is no white space, and all but ASCII is escaped. A float that equals a whole number
    is written as that integer, so 25, 25.0 and -0.0 have the texts 25, 25 and 0; any other float is written
    as the shortest decimal that reads back to the same float64. ``true`` and 1 stay different.

    Args:
        value: None, a bool, a finite number, a string, or lists and mappings of these.

    Returns:
        The canonical text.

    Raises:
        ValueError: for NaN, infinities, keys that are not strings and values that JSON does not have.
    """
    return json.dumps(thaw(plain(value, "value")), sort_keys=True, separators=(",", ":"), allow_nan=False)


def digest(value: object) -> str:
    return hashlib.sha256(canonical_json(value).encode("ascii")).hexdigest()[:16]


def checked_number(value: object, where: str, least: float = -math.inf) -> int | float:
    """A finite number of at least ``least``, with its type kept (an int stays an int)."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real) or not math.isfinite(value):
        raise ValueError(f"{where} is {value!r}; a finite number is needed.")
    if value < least:
        raise ValueError(f"{where} is {value!r}; it must be at least {least:g}.")
    return int(value) if isinstance(value, numbers.Integral) else float(value)


def checked_string(value: object, where: str) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError(f"{where} is {value!r}; a non-empty string is needed.")
    return value


@dataclass(frozen=True, eq=False)
class Configuration:
    """Everything that decides a run's numbers. Device and threads do not belong here: they are provenance.

    Attributes:
        method: kind of experiment, such as ``"nystrom"``, ``"exact"``, ``"baseline"`` or ``"training"``.
        image: name of the image, such as ``"house"``. Method and image name files: letters, digits, ``_.-``
            only.
        noise_seed: seed of the noise, a whole number of at least 0.
        sigma: standard deviation of the noise on the scale 0 to 255.
        architecture: name of the network's specification, or None where there is none.
        input: ``"image"`` or ``"noise"``, or None where the method has no such choice.
        precision: name of the floating-point type, such as ``"float32"``.
        settings: method-specific plain JSON values (columns, learning rate, weights' seed, ...); made
            immutable.

    Raises:
        ValueError: for a value of the wrong type or range, by name.
    """

    method: str
    image: str
    noise_seed: int
    sigma: float
    architecture: str | None
    input: str | None
    precision: str
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("method", "image"):
            value = getattr(self, name)
            if not isinstance(value, str) or not _SLUG.fullmatch(value):
                raise ValueError(f"{name} is {value!r}; accepted are letters, digits and _.- (not first).")
        if checked_number(self.noise_seed, "noise_seed", 0) % 1:
            raise ValueError(f"noise_seed is {self.noise_seed!r}; a whole number is needed.")
        checked_number(self.sigma, "sigma", 0)
        checked_string(self.precision, "precision")
        if self.architecture is not None:
            checked_string(self.architecture, "architecture")
        if self.input not in ("image", "noise", None):
            raise ValueError(f"input is {self.input!r}; accepted are 'image', 'noise' and None.")
        if not isinstance(self.settings, Mapping):
            raise ValueError(f"settings is a {type(self.settings).__name__}; a mapping is needed.")
        for item in dataclasses.fields(self):
            object.__setattr__(self, item.name, plain(getattr(self, item.name), item.name))

    @functools.cached_property
    def key(self) -> str:
        """First 16 hexadecimal digits of the SHA-256 of the configuration's :func:`canonical_json`."""
        return digest(self.as_dict())

    def as_dict(self) -> dict[str, Any]:
        """The configuration as plain dicts and lists, in the order of the fields."""
        return {item.name: thaw(getattr(self, item.name)) for item in dataclasses.fields(self)}

    # Equality is that of the canonical text: True and 1 differ, as their keys do, and 25 equals 25.0.
    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Configuration):
            return NotImplemented
        return canonical_json(self.as_dict()) == canonical_json(other.as_dict())

    def __hash__(self) -> int:
        return hash(self.key)

    def __reduce__(
        self,
    ) -> tuple[Any, ...]:  # a mapping proxy can be neither copied deeply nor sent to a process
        return Configuration, tuple(self.as_dict().values())
