"""Put strategies through the contract in one process: contracts.py NAME …

Five times `clbench check` would start torch fifteen times, on each Python.
"""

from __future__ import annotations

import sys
from collections import Counter

from clbench.testing import check_strategy

failed = False
for name in sys.argv[1:]:
    results = list(check_strategy(name))
    counts = Counter(result.status for result in results)
    print(f"{name}: {', '.join(f'{n} {status}' for status, n in sorted(counts.items()))}", flush=True)
    for result in results:
        if result.status == "failed":
            failed = True
            print(f"  {result.check}: {result.message}", flush=True)
sys.exit(failed)
