"""What ``make bench`` runs: ratios against references measured in the same run, never times against the clock alone."""

import json
from pathlib import Path
from typing import Any

RESULTS = Path("benchmarks/results.json")


def keep(name: str, results: dict[str, Any]) -> None:
    """Write one benchmark's results into ``results.json``, beside those of the others."""
    known = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
    RESULTS.write_text(json.dumps({**known, name: results}, indent=1) + "\n")
