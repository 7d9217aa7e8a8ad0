"""Say in which rows the quickstart's tables differ from README's: digits.py FILE, of what the command printed.

Seconds of training are not compared. Another kind of processor may round a last digit otherwise.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROW = re.compile(r"^([a-z0-9-]+) +((?:−?[\d.]+±[\d.]+ *)+)", re.MULTILINE)


def rows(text: str) -> list[tuple[str, ...]]:
    """Return each row of the tables: the strategy, and its figures with their intervals."""
    return [(name, *figures.split()) for name, figures in ROW.findall(text)]


readme = rows((Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8"))
found = rows(Path(sys.argv[1]).read_text(encoding="utf-8"))
if not readme or len(found) != len(readme):
    sys.exit(f"README has {len(readme)} rows of the quickstart, and {len(found)} were printed.")
other = [" ".join(new) for old, new in zip(readme, found, strict=True) if old != new]
print(f"{len(other)} of {len(found)} rows differ: {'; '.join(other)}" if other else "README's digits")
