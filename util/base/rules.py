"""Rules: what an option's value may be, with the words that error messages use for it."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, get_origin, get_type_hints

MAX_WHOLE, MAX_NUMBER = 2**31 - 1, 1e30


@dataclass(frozen=True)
class Rule:
    """What a value may be.

    Attributes:
        description: follows "allowed:" in error messages.
        allows: returns whether a value is allowed.
    """

    description: str
    allows: Callable[[Any], bool]


def declared(section: type) -> dict[str, tuple[Any, ...]]:
    """Return what a dataclass declares of its options by name: a rule, and what else stands in `Annotated[type, rule, …]`."""
    return {name: hint.__metadata__ for name, hint in get_type_hints(section, include_extras=True).items()
            if get_origin(hint) is Annotated}


def rules_of(section: type) -> dict[str, Rule]:
    """Return the rule of each option that a dataclass declares, by name."""
    return {name: rule for name, (rule, *_) in declared(section).items()}


def is_whole(value: Any) -> bool:
    """Return whether a value is a whole number, and not true or false."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: Any) -> bool:
    """Return whether a value is a number from −MAX_NUMBER to MAX_NUMBER, and not true, false or NaN."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and -MAX_NUMBER <= value <= MAX_NUMBER


def whole(low: int, high: int = MAX_WHOLE) -> Rule:
    """Allow whole numbers from `low` to `high`."""
    limit = f"of at least {low} and at most {high}" if high == MAX_WHOLE else f"from {low} to {high}"
    return Rule(f"a whole number {limit}", lambda v: is_whole(v) and low <= v <= high)


def number(low: float, high: float = MAX_NUMBER, *, above: bool = False) -> Rule:
    """Allow numbers from `low` to `high`; without `low` itself if `above`."""
    return Rule(f"a number {'above' if above else 'of at least'} {low} and at most {high:g}",
                lambda v: is_number(v) and (v > low if above else v >= low) and v <= high)


def one_of(*values: Any) -> Rule:
    """Allow these values, each with its own type."""
    return Rule("one of " + ", ".join(repr(v) for v in values), lambda v: any(v == x and type(v) is type(x) for x in values))


def encoder(*names: str) -> Rule:
    """Allow these names, and those of timm's models."""
    return Rule(f"one of {', '.join(map(repr, names))}, or 'timm/' and the name of a model of the package timm",
                lambda v: v in names or (isinstance(v, str) and re.fullmatch(r"timm/[\w.]+", v) is not None))


def text() -> Rule:
    """Allow non-empty printable text."""
    return Rule("a non-empty text without control characters", lambda v: isinstance(v, str) and bool(v) and v.isprintable())


def boolean() -> Rule:
    """Allow true and false."""
    return Rule("true or false", lambda v: isinstance(v, bool))


def list_of(rule: Rule) -> Rule:
    """Allow non-empty lists of distinct items, each allowed by `rule`."""
    return Rule(f"a non-empty list without repeats, each item {rule.description}",
                lambda v: isinstance(v, (list, tuple)) and len(v) > 0 and all(map(rule.allows, v)) and len(set(v)) == len(v))


def optional(rule: Rule) -> Rule:
    """Allow null and what `rule` allows."""
    return Rule(f"null or {rule.description}", lambda v: v is None or rule.allows(v))


def either(first: Rule, second: Rule) -> Rule:
    """Allow what one of two rules allows."""
    return Rule(f"{first.description}, or {second.description}", lambda v: first.allows(v) or second.allows(v))


def path_weights() -> Rule:
    """Allow the weights of the fine and the coarse path (option `alpha`)."""
    return Rule("two numbers [fine, coarse], none negative, not both 0",
                lambda v: _is_pair(v) and all(is_number(x) and x >= 0 for x in v) and sum(v) > 0)


def windows() -> Rule:
    """Allow the sizes of ALPNet's pooling windows in training and testing (option `prototype_windows`)."""
    return Rule("two whole numbers [in training, in testing] of at least 1",
                lambda v: _is_pair(v) and all(is_whole(x) and x >= 1 for x in v))


def _is_pair(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and len(value) == 2


def device_name() -> Rule:
    """Allow the names of devices (option `device`)."""
    return Rule("'auto', 'cpu', 'cuda' or 'cuda:<number>'",
                lambda v: isinstance(v, str) and bool(re.fullmatch(r"auto|cpu|cuda(:(0|[1-9][0-9]?))?", v)))
