"""Names: found without importing, refused with the nearest fix, registered once."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from clbench import Strategy, make_strategy
from clbench.errors import ConfigError, RegistryError
from clbench.parts import CrossEntropy
from clbench.registry import Registry, check_arguments, load_plugin, strategies


@pytest.fixture
def registry() -> Registry[Any]:
    """An empty registry of strategies."""
    return Registry(
        "strategy",
        plural="strategies",
        package="clbench._nothing",
        decorator="register",
        group="clbench.no-such-group",
        base="clbench.strategy.Strategy",
    )


@pytest.fixture
def forgetful() -> Iterator[None]:
    """Whatever a test registers is forgotten afterwards."""
    made, modules = dict(strategies._made), set(sys.modules)
    yield
    strategies._made.clear()
    strategies._made.update(made)
    for name in set(sys.modules) - modules:
        if name.startswith("clbench_plugin"):
            del sys.modules[name]


def plugin(folder: Path, body: str, name: str = "mine.py") -> Path:
    file = folder / name
    file.write_text(
        f"from clbench import Strategy, register\nfrom clbench.parts import CrossEntropy\n\n{body}\n"
    )
    return file


MINE = """
@register("mine", version=3)
def mine(weight: float = 1.0) -> Strategy:
    'Mine. And more.'
    return CrossEntropy()
"""


# --- finding ---


def test_names_are_known_without_importing_torch() -> None:
    code = (
        "import sys; from clbench.registry import strategies; "
        "print(strategies.peek('er').summary, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.endswith("batch of the stream. False\n")


@pytest.mark.parametrize("name", strategies.names())
def test_what_is_read_from_the_source_is_what_is_registered(name: str) -> None:
    """All fields but the factory, which only an import can give."""
    peeked, entry = strategies._builtin[name], strategies.entry(name)
    assert (peeked.version, peeked.paper, peeked.null, peeked.modifier, peeked.summary, peeked.module) == (
        entry.version,
        entry.paper,
        entry.null,
        entry.modifier,
        entry.summary,
        entry.module,
    )


def test_a_library_is_known_by_what_its_adapter_declares(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the adapter is imported when something of it is asked for, not before."""
    folder = tmp_path / "adapters_of_mine"
    folder.mkdir()
    (folder / "__init__.py").touch()
    (folder / "helper.py").write_text("1 / 0\n")
    (folder / "other.py").write_text(
        "from clbench.registry import Entry\nLIBRARY = 'lib'\ndef entry(name): return Entry(f'lib:{name}')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    own = Registry[Any](
        "strategy",
        plural="strategies",
        package="clbench._nothing",
        decorator="register",
        group="clbench.no-such-group",
        base="clbench.strategy.Strategy",
        adapters="adapters_of_mine",
    )
    assert own.libraries == {"lib": "adapters_of_mine.other"}
    assert (own.knows("lib:Method"), own.knows("bil:Method")) == (True, False)
    assert "adapters_of_mine.other" not in sys.modules
    assert own.entry("lib:Method").name == "lib:Method"


def test_names_match_wildcards() -> None:
    assert strategies.names("e?") == ["er"]


def test_an_unknown_name_is_refused_with_the_nearest() -> None:
    with pytest.raises(RegistryError) as error:
        make_strategy("derp")
    begins, ends = (
        "There is no strategy named 'derp'. Did you mean 'derpp'? Also near: der, er, aper; ",
        "shows all",
    )
    assert str(error.value).startswith(f"{begins}`clbench list strategies` {ends}")
    assert len(str(error.value)) < 150


# --- parameters ---


def test_an_unknown_parameter_is_refused_with_the_nearest() -> None:
    with pytest.raises(ConfigError) as error:
        make_strategy("ewc", strenght=1.0)
    assert str(error.value) == (
        "strategy 'ewc' has no parameter 'strenght'. Did you mean 'strength'? "
        "It takes: strength, fisher, online, decay, parameters."
    )


def test_a_value_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ConfigError, match="parameter 'memory' takes a whole number ≥ 0; 'many' was given"):
        make_strategy("er", memory="many")


def test_a_choice_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ConfigError, match="parameter 'columns' takes one of 'old', 'all'; 'new' was given"):
        make_strategy("lwf", columns="new")


def test_text_becomes_the_number_that_is_wanted() -> None:
    def build(memory: int, rate: float = 0.1) -> None: ...

    assert check_arguments("it", build, {"memory": "200", "rate": "1e-3"}) == {"memory": 200, "rate": 0.001}


def test_a_missing_value_is_named() -> None:
    def build(memory: int) -> None: ...

    with pytest.raises(ConfigError, match=r"it needs a value for 'memory' \(a whole number\)"):
        check_arguments("it", build, {})


# --- registering ---


def test_a_factory_is_registered_with_what_is_said_of_it(registry: Registry[Any]) -> None:
    @registry.register("mine", version=2, paper="arXiv:0000.00000", null={"weight": 0.0}, modifier=True)
    def mine(weight: float = 1.0) -> Strategy:
        """Does something. It does more."""
        return CrossEntropy()

    entry = registry.entry("mine")
    assert (entry.version, entry.paper, entry.null, entry.modifier) == (
        2,
        "arXiv:0000.00000",
        {"weight": 0.0},
        True,
    )
    assert (entry.summary, entry.build) == ("Does something.", mine)


def test_a_class_may_be_the_factory(registry: Registry[Any]) -> None:
    @registry.register("mine")
    class Mine(Strategy):
        """A part."""

        def __init__(self, weight: float = 1.0) -> None:
            self.weight = weight

    assert registry.make("mine", weight="2").weight == 2.0


def test_a_parameter_without_annotation_is_refused(registry: Registry[Any]) -> None:
    def mine(weight=1.0) -> Strategy:  # type: ignore[no-untyped-def]
        return CrossEntropy()

    with pytest.raises(RegistryError, match="parameter 'weight' has no annotation"):
        registry.register("mine")(mine)


def test_catch_all_parameters_are_refused(registry: Registry[Any]) -> None:
    def mine(**params: float) -> Strategy:
        return CrossEntropy()

    with pytest.raises(RegistryError, match=r"takes \*args or \*\*kwargs; name each parameter"):
        registry.register("mine")(mine)


def test_what_is_no_strategy_is_refused(registry: Registry[Any]) -> None:
    def mine() -> dict[str, int]:
        return {}

    registry.register("mine")(mine)
    with pytest.raises(RegistryError, match=r"strategy 'mine' must return a Strategy; .* returns a dict"):
        registry.make("mine")


@pytest.mark.usefixtures("forgetful")
def test_a_taken_name_is_refused(tmp_path: Path) -> None:
    file = plugin(tmp_path, MINE.replace("mine", "er"))
    with pytest.raises(
        RegistryError, match=r"strategy 'er' is already registered by clbench.strategies.er; rename"
    ):
        load_plugin(file)


# --- plugins ---


@pytest.mark.usefixtures("forgetful")
def test_a_plugin_file_registers(tmp_path: Path) -> None:
    load_plugin(plugin(tmp_path, MINE))
    assert (strategies.peek("mine").version, strategies.peek("mine").summary) == (3, "Mine.")


@pytest.mark.usefixtures("forgetful")
def test_a_plugin_may_be_loaded_twice(tmp_path: Path) -> None:
    file = plugin(tmp_path, MINE)
    assert load_plugin(file) == load_plugin(file)


@pytest.mark.usefixtures("forgetful")
@pytest.mark.parametrize(
    ("body", "says"),
    [("1 / 0", "line 4 raised ZeroDivisionError"), ("def (:", "line 4 raised SyntaxError")],
    ids=["raises", "is no Python"],
)
def test_a_plugin_that_fails_is_named_with_its_line(tmp_path: Path, body: str, says: str) -> None:
    with pytest.raises(RegistryError, match=says):
        load_plugin(plugin(tmp_path, body))


def test_a_plugin_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="There is no plugin file"):
        load_plugin(tmp_path / "absent.py")


@pytest.mark.usefixtures("forgetful")
def test_a_plugin_passes_the_contract_by_name(tmp_path: Path) -> None:
    from clbench.testing import check_strategy

    load_plugin(plugin(tmp_path, MINE))
    assert {result.status for result in check_strategy("mine", only=["builds", "learns"])} == {"passed"}


# --- points ---


BROKEN = """
class Mine(Strategy):
{body}

@register("mine")
def mine() -> Strategy:
    'Mine.'
    return chain({chain})
"""
MISSPELT = "    def end_experiance(self, exp): ..."


@pytest.mark.usefixtures("forgetful")
@pytest.mark.parametrize(
    ("body", "chain", "says"),
    [
        (
            MISSPELT,
            "CrossEntropy(), Mine()",
            r"Mine.end_experiance is never called; did you mean 'end_experience'",
        ),
        (
            "    need = frozenset()",
            "CrossEntropy(), Mine()",
            r"Mine.need is never read; did you mean 'needs'",
        ),
        (
            "    def after_step(self, batch): ...",
            "CrossEntropy(), Mine()",
            r"after_step\(batch\) does not fit; clbench ",
        ),
        (
            "    def setup(self, run): ...",
            "Mine()",
            r"no part of it defines losses\(\), so nothing would be learned",
        ),
        (
            "    needs = frozenset({'time'})",
            "CrossEntropy(), Mine()",
            r"it declares the need 'time'; needs are bound",
        ),
    ],
    ids=["a point", "an attribute", "arguments", "no losses", "a need"],
)
def test_a_mistake_in_points_is_told_with_file_and_class(
    tmp_path: Path, body: str, chain: str, says: str
) -> None:
    file = plugin(tmp_path, "from clbench import chain\n" + BROKEN.format(body=body, chain=chain))
    load_plugin(file)
    with pytest.raises(RegistryError, match=rf"strategy 'mine' of .*mine\.py: .*{says}"):
        make_strategy("mine")


@pytest.mark.usefixtures("forgetful")
@pytest.mark.parametrize(
    "body",
    [
        "    def by_experience(self): ...",
        "    def _end_experiance(self, exp): ...",
        "    def penalty(self, x, y): ...",
    ],
    ids=["other arguments", "underscore", "another name"],
)
def test_a_method_of_one_s_own_is_no_mistake(tmp_path: Path, body: str) -> None:
    text = "from clbench import chain\n" + BROKEN.format(body=body, chain="CrossEntropy(), Mine()")
    load_plugin(plugin(tmp_path, text))
    assert make_strategy("mine").parts


@pytest.mark.usefixtures("forgetful")
def test_of_a_plugin_that_fails_nothing_stays_registered(tmp_path: Path) -> None:
    with pytest.raises(RegistryError, match="raised ZeroDivisionError"):
        load_plugin(plugin(tmp_path, MINE + "\n1 / 0"))
    assert "mine" not in strategies.names()


@pytest.mark.parametrize(("name", "meant"), [("er+", "er"), ("+er", "er"), ("er++ema", "er\\+ema")])
def test_a_plus_without_a_name_is_told(name: str, meant: str) -> None:
    with pytest.raises(RegistryError, match=f"is missing beside a '\\+'. Did you mean '{meant}'"):
        make_strategy(name)


# --- many plug-ins, and what they leave behind ---


@pytest.mark.usefixtures("forgetful")
def test_a_plugin_costs_no_look_at_the_files_of_all_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = [plugin(tmp_path, "", name=f"mine{i}.py") for i in range(20)]
    load_plugin(files[0])  # the first one looks at all modules
    looked: list[str] = []
    stat = os.stat

    def counting(path: Any, *args: Any, **kwargs: Any) -> Any:
        looked.append(str(path))
        return stat(path, *args, **kwargs)

    monkeypatch.setattr(os, "stat", counting)
    for file in files[1:]:
        load_plugin(file)
    assert len(looked) < 20 * len(files) < len(sys.modules) * len(files)


@pytest.mark.usefixtures("forgetful")
def test_a_plugin_under_two_names_is_one(tmp_path: Path) -> None:
    file = plugin(tmp_path, MINE)
    (tmp_path / "hard.py").hardlink_to(file)
    assert load_plugin(file) == load_plugin(tmp_path / "hard.py")


@pytest.mark.usefixtures("forgetful")
def test_a_plugin_in_the_place_of_another_is_another(tmp_path: Path) -> None:
    """A file may get the number that a deleted one had in the file system."""
    first = plugin(tmp_path, "", name="first.py")
    names = {load_plugin(first)}
    first.unlink()
    names |= {load_plugin(plugin(tmp_path, "", name=f"later{i}.py")) for i in range(3)}
    assert len(names) == 4


@pytest.mark.parametrize(
    ("body", "arguments", "said"),
    [
        ("threading.Thread(target=spin).start()", [], "started the thread 'Thread-1 (spin)'"),
        (
            MINE.replace("    return", "    threading.Thread(target=spin).start()\n    return"),
            ["--load"],
            "started the thread 'Thread-1 (spin)'",
        ),
        (
            "threading.Thread(target=time.sleep, args=(0.2,)).start()\n"
            "threading.Thread(target=spin, daemon=True).start()",
            [],
            "",
        ),
        ("threading.Thread(target=spin).start()\n1 / 0", [], "raised ZeroDivisionError"),
    ],
    ids=["endless", "as it is built", "short and daemon", "broken"],
)
def test_a_thread_of_a_plugin_does_not_keep_a_command(
    tmp_path: Path, body: str, arguments: list[str], said: str
) -> None:
    spin = "import threading, time\n\ndef spin():\n    while True:\n        time.sleep(0.1)\n"
    file = plugin(tmp_path, f"{spin}\n{body}")
    command = [sys.executable, "-m", "clbench", "list", "strategies", "--plugin", str(file), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert done.returncode == (2 if "Zero" in said else 0)
    assert ("er-ace@" in done.stdout, bool(said), said in done.stderr) == (True, bool(done.stderr), True)
