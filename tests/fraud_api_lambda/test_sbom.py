"""What is in the image, written down: fraud_api_lambda/sbom.cdx.json, CycloneDX of the locked packages for Lambda.

Written anew, after `make lock && make setup`: PYTHONPATH=. .venv/bin/python tests/fraud_api_lambda/test_sbom.py
"""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[2]
FILE = ROOT / "fraud_api_lambda" / "sbom.cdx.json"
#: What the lock's markers ask for, as it is in the image; no marker of the lock tells its two architectures apart.
IMAGE = {
    "sys_platform": "linux",
    "platform_system": "Linux",
    "os_name": "posix",
    "implementation_name": "cpython",
    "platform_python_implementation": "CPython",
    "python_version": "3.13",
    "python_full_version": "3.13.0",
}


def locked() -> dict[str, str]:
    """The versions that the serving lock puts into the image, by name."""
    found = {}
    for line in (ROOT / "fraud_api_lambda" / "requirements.txt").read_text().splitlines():
        if line and not line.startswith((" ", "#")):
            wanted = Requirement(line.rstrip("\\ "))
            if wanted.marker is None or wanted.marker.evaluate(IMAGE):
                (version,) = wanted.specifier
                found[wanted.name] = version.version
    return found


def make() -> dict[str, Any]:
    """The bill of materials: what cyclonedx-py says of this environment, less what is not in the image."""
    done = subprocess.run(
        [
            *(sys.executable, "-m", "cyclonedx_py", "environment", sys.executable),
            "--output-reproducible",
            "--sv",
            "1.6",
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    bill: dict[str, Any] = json.loads(done.stdout)
    names = locked()
    kept = [part for part in bill["components"] if _name(part) in names]
    for part in kept:
        part.pop("properties", None)  # how the packages were asked for here, not what they are
    # Where a package may be had is its purl's to say, and whoever locks it for himself asks where he likes.
    for part in [*kept, *bill["metadata"]["tools"]["components"]]:
        found = [each for each in part.pop("externalReferences", []) if "pypi" not in each["url"]]
        part.update({"externalReferences": found} if found else {})
    references = {part["bom-ref"] for part in kept}
    bill["components"] = kept
    bill["dependencies"] = [
        {**each, "dependsOn": [one for one in each["dependsOn"] if one in references]} if "dependsOn" in each else each
        for each in bill["dependencies"]
        if each["ref"] in references
    ]
    from fraud_api_lambda import __version__

    bill["metadata"]["component"] = {
        "bom-ref": "fraud-detection-api",
        "type": "container",
        "name": "fraud-detection-api",
        "version": __version__,
        "licenses": [{"license": {"id": "MIT"}}],
    }
    bill["metadata"].pop("properties", None)
    bill["dependencies"].insert(0, {"ref": "fraud-detection-api", "dependsOn": sorted(references)})
    return bill


def _name(part: dict[str, Any]) -> str:
    return re.sub(r"[-_.]+", "-", part["name"]).lower()


@pytest.fixture(scope="module")
def bill() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(FILE.read_text())
    return found


def test_it_names_the_locked_packages_with_their_versions_and_no_other(bill: dict[str, Any]) -> None:
    told = {_name(part): part["version"] for part in bill["components"]}
    assert told == locked(), f"Write it anew: {(__doc__ or '').strip().splitlines()[-1]}"


def test_it_follows_the_schema_of_its_version(bill: dict[str, Any]) -> None:
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    assert bill["bomFormat"] == "CycloneDX"
    assert JsonStrictValidator(SchemaVersion.from_version(bill["specVersion"])).validate_str(FILE.read_text()) is None


def test_every_package_has_an_address_and_a_licence(bill: dict[str, Any]) -> None:
    for part in bill["components"]:
        assert part["purl"] == f"pkg:pypi/{_name(part)}@{part['version']}"
        assert part.get("licenses"), f"{part['name']} names no licence"


def test_it_names_nothing_of_the_machine_that_wrote_it() -> None:
    assert not re.search(r"file://|/home/|/root/|/tmp/|/work/|https?://[^/\s]*pypi", FILE.read_text())


if __name__ == "__main__":
    FILE.write_text(json.dumps(make(), indent=1, sort_keys=True) + "\n")
