"""The files of a new strategy, as `clbench new` writes them: source, configuration, equation test, page."""

from __future__ import annotations

import keyword
import re
import string
import sys
from pathlib import Path

from clbench.errors import ConfigError
from clbench.files import atomic_write, check_place, make_folder
from clbench.files.places import CHECKOUT
from clbench.registry import strategies

IMPORTS_INSIDE = """import torch
from torch import Tensor

from clbench import Batch, Output, Strategy, chain, register
from clbench.parts import CrossEntropy
from clbench.ranges import NotNegative"""
IMPORTS_OUTSIDE = """import torch
from clbench import Batch, Output, Strategy, chain, register
from clbench.parts import CrossEntropy
from clbench.ranges import NotNegative
from torch import Tensor"""  # elsewhere, clbench is one library among others

SOURCE = string.Template('''"""$title.

Write here what the method is, in the paper's terms. Shapes: B examples of a batch, C classes, D features.
"""

from __future__ import annotations

from collections.abc import Mapping

$imports


class $Class(Strategy):
    """λ Σ_j θ_j² over all weights θ: loss `penalty`. A placeholder for the method's own points."""

    def __init__(self, strength: float) -> None:
        self.strength = strength

    def losses(self, batch: Batch, out: Output) -> Mapping[str, Tensor]:
        if self.strength == 0:
            return {}
        return {"penalty": self.strength * squared_norm(self.run.parameters())}


def squared_norm(theta: Mapping[str, Tensor]) -> Tensor:
    """Σ_j θ_j², a scalar."""
    return torch.stack([(weights**2).sum() for weights in theta.values()]).sum()


@register("$name", family="regularisation", null={"strength": 0.0})
def $function(strength: NotNegative = 1e-3) -> Strategy:
    """$title: one sentence that says what the method does.

    Args:
        strength: λ.

    Reference: authors, "title", venue and year; give its number as `paper=` of @register, too.
    """
    return chain(CrossEntropy(), $Class(strength))
''')

TEST_INSIDE = string.Template('''"""$title: the paper's equation, by hand and in a run."""

from __future__ import annotations

import torch
from clbench.strategies.$module import squared_norm

from clbench import Batch, Output, make_strategy
from clbench.testing import tiny_benchmark, tiny_run
''')

TEST_OUTSIDE = string.Template('''"""$title: clbench's contract, and the paper's equation, by hand and in a run."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import torch
from clbench import Batch, Output, make_strategy
from clbench.registry import load_plugin
from clbench.testing import parametrize_with_checks, tiny_benchmark, tiny_run

plugin = sys.modules[load_plugin(Path(__file__).with_name("$module.py"))]
squared_norm = plugin.squared_norm


@parametrize_with_checks(["$name"])
def test_it_keeps_the_contract(strategy: str, check: Callable[[str], None]) -> None:
    check(strategy)
''')

EQUATION = string.Template('''

def test_the_equation_by_hand() -> None:
    """1² + 2² + 3² = 14."""
    assert squared_norm({"weight": torch.tensor([1.0, 2.0]), "bias": torch.tensor(3.0)}) == 14


def test_a_run_s_loss_is_the_equation() -> None:
    """λ Σ_j θ_j² with λ = 0.5, in float64."""
    run = tiny_run(make_strategy("$name", strength=0.5), tiny_benchmark(experiences=1), epochs=1)
    none = torch.zeros(0)  # the penalty does not look at the batch
    batch = Batch(none, none, none, none, none, none, new=0)
    penalty = run.strategy.parts[1].losses(batch, Output(none, none))["penalty"]
    expected = 0.5 * torch.stack([(p.detach().double() ** 2).sum() for p in run.model.parameters()]).sum()
    torch.testing.assert_close(penalty.detach().double(), expected, rtol=1e-5, atol=0.0)
''')

CONFIG = string.Template("""# $name on split-digits: only what differs from its defaults, each number with its source.
# A placeholder, not tuned.
params: {strength: 0.001}
""")

PAGE = string.Template("""# $title

What the method does, in a sentence or two, and when to use it.

```bash
clbench run split-digits $name --plugin $module.py --config $module.yaml
clbench check $name --plugin $module.py
```

| parameter | meaning | default |
|---|---|---|
| `strength` | λ | 0.001 |

Differences from the paper: none known.
""")


def new_strategy(name: str, out: Path | None = None) -> list[Path]:
    """Write the files of a new strategy; returns them, the source first.

    In a checkout of clbench, they lie where the project keeps such files; elsewhere, or with `out`, the source is a
    plugin and the others lie beside it.

    Args:
        name: as it will be registered: small letters, digits and hyphens.
        out: folder to write to.

    Raises:
        ConfigError: the name is taken or cannot be one, or a file is there already. LedgerError: a folder cannot be
            written. Nothing is written then.
    """
    _check_name(name)
    words = name.split("-")
    fill = {
        "name": name,
        "module": name.replace("-", "_"),
        "function": name.replace("-", "_"),
        "Class": "".join(word.capitalize() for word in words),
        "title": " ".join(word.capitalize() for word in words),
    }
    module = fill["module"]
    root = _checkout() if out is None else None
    fill["imports"] = IMPORTS_INSIDE if root is not None else IMPORTS_OUTSIDE
    if root is not None:
        texts = {
            root / "strategies" / f"{module}.py": SOURCE,
            root / "configs" / "split-digits" / f"{name}.yaml": CONFIG,
            root / "tests" / "test_equations" / f"test_{module}.py": string.Template(
                TEST_INSIDE.template + EQUATION.template
            ),
        }
    else:
        folder = out or Path()
        texts = {
            folder / f"{module}.py": SOURCE,
            folder / f"{module}.yaml": CONFIG,
            folder / f"test_{module}.py": string.Template(TEST_OUTSIDE.template + EQUATION.template),
            folder / f"{module}.md": PAGE,
        }
    if there := [path for path in texts if path.exists()]:
        raise ConfigError(
            f"{there[0]} is there already, and nothing is overwritten; choose another name or --out."
        )
    for path in texts:
        check_place(path, file=True)
    for path, template in texts.items():
        make_folder(path.parent)
        atomic_write(path, template.substitute(fill), lasting=False)
    return list(texts)


def _check_name(name: str) -> None:
    module = name.replace("-", "_")
    if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", name):
        near = re.sub(r"[^a-z0-9]+", "-", re.sub(r"(?<=[a-z])(?=[A-Z])", "-", name).lower()).strip(
            "-0123456789"
        )
        raise ConfigError(
            f"'{name}' cannot be a strategy's name: small letters, digits and single hyphens, a letter first."
            + (f" Did you mean '{near}'?" if near else "")
        )
    if (
        keyword.iskeyword(module)
        or module in sys.stdlib_module_names
        or module in ("clbench", "torch", "numpy")
    ):
        raise ConfigError(
            f"'{name}' cannot be a strategy's name: Python has a meaning for a file {module}.py."
        )
    if name in strategies.names():
        raise ConfigError(
            f"There is a strategy '{name}' already, of {strategies.peek(name).origin}; choose another name."
        )


def _checkout() -> Path | None:
    """Return the checkout of clbench that is in use, if the working folder is inside it."""
    inside = CHECKOUT is not None and Path.cwd().resolve().is_relative_to(CHECKOUT)
    return CHECKOUT if inside else None
