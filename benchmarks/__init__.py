"""What ``make bench`` runs: ratios against references measured in the same run, never times against the clock alone."""

import json
from pathlib import Path
from typing import Any

_RESULTS = Path(__file__).with_name("results.json")


def keep(name: str, results: dict[str, Any]) -> None:
    """Write one benchmark's results down beside those of the others."""
    kept = json.loads(_RESULTS.read_text()) if _RESULTS.exists() else {}
    _RESULTS.write_text(json.dumps({**kept, name: results}, indent=1) + "\n")
