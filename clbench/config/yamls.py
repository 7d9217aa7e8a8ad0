"""YAML as people mean it: the one reader of every YAML file and of every `key=value`. Imports no torch.

YAML 1.1 takes the last of two equal keys, `1:30` for 90, `010` for 8, `1_0` for 10, `1e-3` for a text. Here a key
stands once and is a word; dates and times are texts; `1e-3` is a number; and what may mean two things, or is nothing
that a setting can have, is refused by its line.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar

import yaml

from clbench.errors import ConfigError

_NOT_YAML = (yaml.YAMLError, ValueError, TypeError, LookupError, AttributeError, RecursionError)
"""What YAML's reader raises, for a thousand brackets, too."""

_BOOL, _INT, _FLOAT, _NULL, _MERGE = (
    f"tag:yaml.org,2002:{kind}" for kind in ("bool", "int", "float", "null", "merge")
)
_PLAIN = {
    _BOOL: (r"(?i:true|false|yes|no|on|off)", "tTfFyYnNoO"),
    _INT: (r"[-+]?(?:0x[0-9a-fA-F_]+|0b[01_]+|[0-9][0-9_]*)", "-+0123456789"),
    _FLOAT: (
        r"[-+]?(?:[0-9][0-9_]*\.[0-9_]*|\.[0-9][0-9_]*|[0-9][0-9_]*(?=[eE]))(?:[eE][-+]?[0-9]+)?"
        r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        "-+0123456789.",
    ),
    _NULL: (r"~|null|Null|NULL|", "~nN\0"),
    _MERGE: (r"<<", "<"),
}
"""What a word without quotes may be, beside a text, and how it begins."""


class _Refused(yaml.YAMLError):
    """What is YAML and is refused, with its line."""

    def __init__(self, mark: yaml.Mark, problem: str) -> None:
        super().__init__(problem)
        self.problem, self.problem_mark = problem, mark


Resolvers = dict[Any, list[tuple[str, re.Pattern[str]]]]


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers: ClassVar[Resolvers] = {}  # type: ignore[misc]
    _around: tuple[yaml.Node | None, ...] = ()

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """Return the node of the next events, which is not one that it lies in."""
        before = self._around
        self._around = (*before, parent)
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]
        if self.check_event(yaml.AliasEvent) and self.anchors.get(event.anchor) in self._around[1:]:
            raise _Refused(event.start_mark, f"*{event.anchor} lies within what it names")
        node = super().compose_node(parent, index)
        self._around = before
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Return a mapping whose keys are words, each once; what `<<` merges in lies under it."""
        lines: dict[str, int] = {}
        for key, _ in node.value:
            if key.tag == _MERGE:
                name = "<<"
            elif key.tag != "tag:yaml.org,2002:str":
                given = key.value if isinstance(key, yaml.ScalarNode) else "…"
                problem = (
                    f"the key {given or '…'} is read as {_kind(key)}; keys are words, so quote it: '{given}'"
                )
                raise _Refused(key.start_mark, problem)
            else:
                name = key.value
            if name in lines:
                raise _Refused(
                    key.start_mark,
                    f"the key '{name}' stands there twice, first in line {lines[name]}; keep one",
                )
            lines[name] = key.start_mark.line + 1
        return super().construct_mapping(node, deep)

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        if re.match(r"[-+]?0[0-9_]", node.value):
            raise _Refused(
                node.start_mark,
                f"{node.value} is an octal number to some readers and a decimal one to others; write "
                f"{int(node.value.replace('_', ''))}, or '{node.value}' for a text",
            )
        return int(_digits(node), 0)

    def construct_yaml_float(self, node: yaml.ScalarNode) -> float:
        text = _digits(node).lower()
        if text.endswith("nan"):
            raise _Refused(node.start_mark, f"{node.value} is no number that a setting can have")
        return float(text.replace(".inf", "inf"))

    def construct_refused(self, node: yaml.Node) -> Any:
        raise _Refused(
            node.start_mark,
            f"{node.tag.replace('tag:yaml.org,2002:', '!!')} is not read; there are texts, numbers, true and false, "
            "null, lists and mappings",
        )


for _tag, (_pattern, _first) in _PLAIN.items():
    for _letter in _first:
        key = "" if _letter == "\0" else _letter
        _Loader.yaml_implicit_resolvers.setdefault(key, []).append((_tag, re.compile(f"^(?:{_pattern})$")))
_Loader.add_constructor(_INT, _Loader.construct_yaml_int)
_Loader.add_constructor(_FLOAT, _Loader.construct_yaml_float)
for _kind_of in ("binary", "timestamp", "omap", "pairs", "set"):
    _Loader.add_constructor(f"tag:yaml.org,2002:{_kind_of}", _Loader.construct_refused)
_Loader.add_constructor(None, _Loader.construct_refused)


def _digits(node: yaml.ScalarNode) -> str:
    """Return a number without its underscores, which separate thousands, or digits of `0x` and `0b`."""
    text: str = node.value.replace("_", "")
    if text != node.value and not re.match(r"[-+]?(?:0[xb]|\d{1,3}(?:_\d{3})+(?![\d_])[^_]*$)", node.value):
        raise _Refused(
            node.start_mark,
            f"{node.value} is the number {text} to some readers and a text to others; write {text}, or "
            f"'{node.value}' for a text",
        )
    return text


class _Dumper(yaml.SafeDumper):
    """Quotes every text that this reader, or another one, would take for something else."""

    yaml_implicit_resolvers: ClassVar[Resolvers] = {  # type: ignore[misc]
        first: [*resolvers, *_Loader.yaml_implicit_resolvers.get(first, [])]
        for first, resolvers in yaml.SafeDumper.yaml_implicit_resolvers.items()
    }


def _kind(node: yaml.Node) -> str:
    names = {_BOOL: "true or false", _INT: "a number", _FLOAT: "a number", _NULL: "nothing"}
    return names.get(node.tag, "no word")


def dump(tree: Any, **how: Any) -> str:
    """YAML that `read_yaml` reads back as it is; `how` are options of PyYAML."""
    text: str = yaml.dump(tree, Dumper=_Dumper, **how)
    return text


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML file that holds a mapping.

    Raises:
        ConfigError: missing, unreadable, not a mapping, a key twice or a value that is refused; names file and line.
    """
    try:
        loaded = _copy(_parsed(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise ConfigError(f"There is no file {path}.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {error}.") from None
    except _Refused as error:
        raise ConfigError(f"{path}, line {error.problem_mark.line + 1}: {error.problem}.") from None
    except _NOT_YAML as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        raise ConfigError(f"{path}{line} is not YAML: {getattr(error, 'problem', error)}.") from None
    if loaded is None:
        return {}
    if not isinstance(loaded, dict):
        raise ConfigError(f"{path} must hold `key: value` lines; it holds a {type(loaded).__name__}.")
    return loaded


def _copy(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {key: _copy(value) for key, value in tree.items()}
    return [_copy(value) for value in tree] if isinstance(tree, list) else tree


@functools.lru_cache(maxsize=64)
def _parsed(text: str) -> Any:
    """Return the tree that a text holds, not to be changed: each of thousands of runs reads the same few files."""
    return yaml.load(text, _Loader)


def parse_pairs(pairs: Iterable[str]) -> dict[str, Any]:
    """`["memory=200", "optim.lr=1e-3"]` → values as YAML reads them; what is no YAML is text.

    Raises:
        ConfigError: a pair without `=`, a key given twice, or a value that is refused.
    """
    found: dict[str, Any] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals or not key:
            raise ConfigError(f"'{pair}' is not of the form key=value, such as lr=0.03.")
        if key in found:
            raise ConfigError(f"'{key}' is given twice: {found[key]} and {text}.")
        try:
            found[key] = _value(text)
        except _Refused as error:
            raise ConfigError(f"'{pair}': {error.problem}.") from None
        except _NOT_YAML:
            found[key] = text
    return found


def _value(text: str) -> Any:
    """Return what a text is to YAML, if it is that as a whole.

    Nobody comments on a command line, where `photos #2` is a folder.
    """
    loader = _Loader(text)
    node: yaml.Node | None = loader.get_single_node()
    if (text if node is None else text[node.end_mark.index :]).strip():
        return text
    return None if node is None else loader.construct_document(node)
