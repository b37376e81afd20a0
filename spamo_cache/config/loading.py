"""YAML -> strict models: a base, changes to it, errors that name the key and the nearest one."""

from __future__ import annotations

import difflib
import json
import re
import reprlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import ValidationError

from spamo_cache import bounded
from spamo_cache.config.paths import expanded, named_file, shipped_or_given
from spamo_cache.config.strict import StrictModel
from spamo_cache.errors import ConfigError

# Far beyond any spec or pipeline.
_MAX_BYTES = 1 << 18
_MAX_VALUES = 10_000
_MAX_DEPTH = 32
_MAX_KEY = 200
_MAX_BITS = 64
_PATHS = {"spec", "weights"}
"""Keys whose values may be paths from the folder of their file."""


Model = TypeVar("Model", bound=StrictModel)


def load(path: Path, model: type[Model], overrides: Sequence[str] = ()) -> Model:
    """Read a YAML file into ``model``, with ``a.b=c`` overrides (values are YAML too).

    A file may begin with ``base:``, the path of another file, relative to this one, or the name of
    one that comes with the project; it takes over that file's keys and changes them.

    Raises:
        ConfigError: missing or broken file, unknown key, wrong type, malformed override, bases that
            lead round in a circle.
    """
    document = _with_base(path, model, ())
    for override in overrides:
        _override(document, override)
    return parse(document, model, where=path)


def overrides(changes: Mapping[str, Any]) -> list[str]:
    """Dotted key -> value, as :func:`load` and ``--set`` take it."""
    return [f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in changes.items()]


def _with_base(path: Path, model: type[StrictModel], above: Sequence[Path]) -> dict[str, Any]:
    """The keys of a file over those of its base, if it has one.

    Args:
        above: the files that stand on this one, the first of them first.
    """
    document = read_yaml(path)
    base = document.pop("base", None)
    if base is None:
        return document
    chain = [*above, path]
    file, folder = _base_of(path, base, model)
    if file.resolve() in {one.resolve() for one in chain}:
        raise ConfigError(
            f"`base:` leads back to where it began: {' -> '.join(map(str, [*chain, file]))}",
            where=path,
            remedy="a file cannot stand on itself: name another base, or leave it out",
        )
    below = _with_base(file, model, chain)
    if file.parent.resolve() != path.parent.resolve():
        below = _moved(below, file.parent, folder)
    return merged(below, document)


def _base_of(path: Path, base: object, model: type[StrictModel]) -> tuple[Path, Path]:
    """The file that a file's ``base`` names, and its folder as seen from that file's."""
    remedy = "name a file by its path from this one, or one that comes with the project"
    if not isinstance(base, str) or not base.strip():
        raise ConfigError(f"base: {base!r} is no name of a file", where=path, remedy=remedy)
    given = expanded(base)
    beside = path.parent / given
    is_path = given.suffix in {".yaml", ".yml"}
    if is_path and beside.is_file():
        return beside, given.parent
    if model.shipped_in is None or is_path:
        file = shipped_or_given(given, model.shipped_in[0]) if model.shipped_in else given
        if file == given:
            raise ConfigError(f"base: {base!r} is no file", where=path, remedy=remedy)
        return file, file.parent
    try:
        file = named_file(base, *model.shipped_in)
    except ConfigError as error:
        raise ConfigError(f"base: {error.what}", where=path, remedy=error.remedy) from None
    return file, file.parent


def _moved(document: Mapping[str, Any], place: Path, folder: Path) -> dict[str, Any]:
    """A base's keys as they read from a file in another folder: what is beside it is still found.

    Args:
        place: where the base lies.
        folder: the same as seen from the other file.
    """

    def moved(key: str, value: Any) -> Any:
        if isinstance(value, Mapping):
            return _moved(value, place, folder)
        if key in _PATHS and isinstance(value, str) and value and (place / value).exists():
            return str(folder / value)
        return value

    return {key: moved(key, value) for key, value in document.items()}


def merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """``base`` with ``changes`` put over it, group by group; lists are replaced whole."""
    result = dict(base)
    for key, value in changes.items():
        old = result.get(key)
        groups = isinstance(old, Mapping) and isinstance(value, Mapping)
        result[key] = merged(result[key], value) if groups else value
    return result


def read_yaml(path: Path) -> dict[str, Any]:
    """Parse a YAML mapping; no tag can construct an object, and no key may stand twice.

    Raises:
        ConfigError: missing, unreadable, no YAML mapping, too large or too deep.
    """
    try:
        document = _from_yaml(bounded.read_text(path, _MAX_BYTES))
    except FileNotFoundError:
        raise ConfigError("no such file", where=path, remedy="check the name") from None
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror}", where=path) from None
    except ValueError as error:
        raise ConfigError(f"cannot be read: {error}", where=path) from None
    except ConfigError as error:
        raise ConfigError(f"is not valid YAML: {error.what}", where=path) from None
    if not isinstance(document, dict):
        raise ConfigError("holds no YAML mapping", where=path, remedy="start with `name: ...`")
    return document


def parse(document: Mapping[str, Any], model: type[Model], *, where: object) -> Model:
    """Validate a mapping; the error names every fault with its dotted key."""
    try:
        return model.model_validate(document)
    except ValidationError as error:
        faults = [_fault(document, model, item) for item in error.errors(include_url=False)]
        raise ConfigError("; ".join(faults), where=where) from None


def assignment(text: str, option: str = "--set") -> tuple[str, Any]:
    """Dotted key and value of ``a.b=value``; the value is YAML.

    Raises:
        ConfigError: ``text`` is not of that form.
    """
    key, sign, value = text.partition("=")
    if not sign or not all(key.split(".")) or key.count(".") >= _MAX_DEPTH:
        shown = reprlib.repr(text)
        raise ConfigError(f"{option} {shown} is not of the form key=value or a.b=value")
    try:
        return key, _from_yaml(value)
    except ConfigError:
        shown = reprlib.repr(value)
        raise ConfigError(f"{option} {key}: {shown} is not a YAML value") from None


def _override(document: dict[str, Any], text: str) -> None:
    key, value = assignment(text)
    *parents, leaf = key.split(".")
    node = document
    for parent in parents:
        child = node.setdefault(parent, {})
        if not isinstance(child, dict):
            raise ConfigError(f"--set {key}: {parent!r} holds a value, not a group of keys")
        node = child
    node[leaf] = value


class _Loader(yaml.SafeLoader):
    """The safe loader, with numbers as YAML 1.2 has them, and bounds.

    Keys that stand twice, tags, and what is too deep or too large are refused. An alias counts
    with all that it stands for: 415 bytes of them can describe more values than any memory holds.
    """

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._values = 0
        self._depth = 0
        self._deepest = 0
        self._anchored: dict[str, tuple[int, int]] = {}
        """Anchor -> how many values it stands for, how deep they are nested."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]
        if self.check_event(yaml.AliasEvent):
            if event.anchor in self.anchors and event.anchor not in self._anchored:
                raise _fault_at(event, f"*{event.anchor} stands for a part of itself")
            self._grow(event, *self._anchored.get(event.anchor, (0, 0)))
            return super().compose_node(parent, index)
        if event.tag is not None:
            raise _fault_at(event, f"the tag {event.tag}: only plain values are read")
        values, deepest, self._deepest = self._values, self._deepest, self._depth
        self._grow(event, 1, 1)
        self._depth += 1
        node = super().compose_node(parent, index)
        self._depth -= 1
        if event.anchor is not None:
            self._anchored[event.anchor] = self._values - values, self._deepest - self._depth
        self._deepest = max(deepest, self._deepest)
        return node

    def _grow(self, event: Any, values: int, depth: int) -> None:
        self._values += values
        self._deepest = max(self._deepest, self._depth + depth)
        if self._values > _MAX_VALUES:
            raise _fault_at(event, f"more than {_MAX_VALUES:,} values")
        if self._deepest > _MAX_DEPTH:
            raise _fault_at(event, f"nested deeper than {_MAX_DEPTH}")

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    raise _fault_at(key, f"{key.value!r:.{_MAX_KEY}} twice")
                if len(key.value) > _MAX_KEY:
                    raise _fault_at(key, f"a key of {len(key.value)} characters")
                seen.add(key.value)
        return node

    def construct_yaml_int(self, node: Any) -> int:
        value: int = super().construct_yaml_int(node)
        if value.bit_length() > _MAX_BITS:
            raise _fault_at(node, f"a number of {value.bit_length()} bits")
        return value


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_yaml_int)


def _fault_at(node: Any, what: str) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=what, problem_mark=node.start_mark)


# SafeLoader takes 1e-3 for text, because it lacks the dot that YAML 1.1 asks for.
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9]+[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def _from_yaml(text: str) -> Any:
    """The value of a YAML text.

    Raises:
        ConfigError: it is no YAML, or out of bounds.
    """
    try:
        return yaml.load(text, Loader=_Loader)  # noqa: S506 (a safe loader's subclass)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise ConfigError(_flat(error)) from None


def _flat(error: object) -> str:
    return " ".join(str(error).split()).replace('in "<unicode string>", ', "at ")


def _fault(document: Mapping[str, Any], model: type[StrictModel], item: Any) -> str:
    # Discriminated unions put the tag into the location; users know only their own keys.
    location = _user_location(document, item["loc"])
    key = ".".join(str(part) for part in location)
    if item["type"] == "value_error":
        return str(item["ctx"]["error"])
    if item["type"] != "extra_forbidden":
        given = item.get("input")
        shown = "" if isinstance(given, Mapping | tuple) else f" (got {reprlib.repr(given)})"
        return f"{key}: {item['msg']}{shown}"
    known = _known_keys(model, item["loc"][:-1])
    nearest = difflib.get_close_matches(str(location[-1]), known, n=1, cutoff=0.0)
    hint = f"; nearest is {nearest[0]!r}" if nearest else ""
    return f"unknown key {key!r}{hint}"


def _user_location(document: Any, location: Sequence[str | int]) -> list[str | int]:
    kept: list[str | int] = []
    node = document
    for index, part in enumerate(location):
        last = index == len(location) - 1
        if isinstance(node, Mapping) and part not in node and not last:
            continue
        kept.append(part)
        if isinstance(node, Mapping):
            node = node.get(part)
        elif isinstance(node, list) and isinstance(part, int) and part < len(node):
            node = node[part]
    return kept


def _known_keys(model: type[StrictModel], location: Sequence[str | int]) -> list[str]:
    """Keys of the (nested) model at ``location``; tags of unions pick their member."""
    candidates: list[type[StrictModel]] = [model]
    for part in location:
        step: list[type[StrictModel]] = []
        for candidate in candidates:
            field = candidate.model_fields.get(str(part))
            if field is not None:
                step += _models_in(field.annotation)
            elif part in _tags(candidate):
                step.append(candidate)
        candidates = step or candidates
    return sorted({name for candidate in candidates for name in candidate.model_fields})


def _tags(model: type[StrictModel]) -> tuple[Any, ...]:
    encoder = model.model_fields.get("encoder")
    return () if encoder is None else get_args(encoder.annotation)


def _models_in(annotation: Any) -> list[type[StrictModel]]:
    if isinstance(annotation, type) and issubclass(annotation, StrictModel):
        return [annotation]
    return [model for argument in get_args(annotation) for model in _models_in(argument)]
