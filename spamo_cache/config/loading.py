"""YAML -> models: a base, changes to it, and faults that name key and nearest known one."""

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

from spamo_cache.config.strict import StrictModel
from spamo_cache.errors import ConfigError

Model = TypeVar("Model", bound=StrictModel)


def load(path: Path, model: type[Model], overrides: Sequence[str] = ()) -> Model:
    """Read a YAML file into ``model``, with ``a.b=c`` overrides (values are YAML too).

    A file may begin with ``base: other.yaml``, a file beside it whose keys it takes over and
    changes; a base has none of its own.

    Raises:
        ConfigError: missing or broken file, unknown key, wrong type, malformed override.
    """
    document = read_yaml(path)
    if (base := document.pop("base", None)) is not None:
        document = merged(read_yaml(_beside(path, base)), document)
    for override in overrides:
        _override(document, override)
    return parse(document, model, where=path)


def overrides(changes: Mapping[str, Any]) -> list[str]:
    """Dotted key -> value, as :func:`load` and ``--set`` take it."""
    return [f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in changes.items()]


def _beside(path: Path, base: object) -> Path:
    if not isinstance(base, str) or Path(base).name != base:
        raise ConfigError(f"base: {base!r} is not the name of a file beside this one", where=path)
    return path.with_name(base)


def merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """``base`` with ``changes`` put over it, group by group; lists are replaced whole."""
    result = dict(base)
    for key, value in changes.items():
        old = result.get(key)
        groups = isinstance(old, Mapping) and isinstance(value, Mapping)
        result[key] = merged(result[key], value) if groups else value
    return result


def read_yaml(path: Path) -> dict[str, Any]:
    """Parse a YAML mapping; no tag can construct an object, and no key may stand twice."""
    try:
        document = _from_yaml(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError("no such file", where=path, remedy="check the name") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot be read: {error}", where=path) from None
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise ConfigError(f"is not valid YAML: {_flat(error)}", where=path) from None
    if not isinstance(document, dict):
        raise ConfigError("holds no YAML mapping", where=path, remedy="start with `name: ...`")
    return document


def parse(document: Mapping[str, Any], model: type[Model], *, where: object) -> Model:
    """Validate a mapping; every fault found is named with its dotted key."""
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
    if not sign or not all(key.split(".")):
        raise ConfigError(f"{option} {text!r} is not of the form key=value or a.b=value")
    try:
        return key, _from_yaml(value)
    except (yaml.YAMLError, RecursionError, ValueError):
        raise ConfigError(f"{option} {key}: {value!r} is not a YAML value") from None


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
    """The safe loader, with numbers as YAML 1.2 has them and duplicate keys refused."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        twice = [key for index, key in enumerate(keys) if key in keys[:index]]
        if twice:
            raise yaml.composer.ComposerError(None, None, f"{twice[0]!r} twice", node.start_mark)
        return node


# SafeLoader takes 1e-3 for text, because it lacks the dot that YAML 1.1 asks for.
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9]+[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def _from_yaml(text: str) -> Any:
    return yaml.load(text, Loader=_Loader)  # noqa: S506 (a safe loader's subclass)


def _flat(error: object) -> str:
    return " ".join(str(error).split())


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
    return [found for argument in get_args(annotation) for found in _models_in(argument)]
