"""What the tests of the deployment share: the expanded template, and a stand-in for AWS on a loopback port.

The stand-in is moto: it keeps buckets, parameters, keys, repositories and stacks, and forgets them after each test. It
has neither a working API Gateway nor Lambda behind CloudFormation, so those two are left out of the stacks made here.
"""

import copy
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.aws.settling import REGION, ROOT, expand, made, read_template
from tests.servers import moto_in_this_process, name_aws


@pytest.fixture(scope="session")
def template() -> dict[str, Any]:
    """template.yaml as it is written."""
    return read_template()


@pytest.fixture(scope="session")
def expanded(template: dict[str, Any]) -> dict[str, Any]:
    """template.yaml with SAM's transform applied and no parameter settled: every condition is still to be seen."""
    return expand(template)


@pytest.fixture(scope="session")
def free(template: dict[str, Any]) -> dict[str, Any]:
    """What is made with every parameter at its default."""
    return made(template)


@pytest.fixture(scope="session")
def production(template: dict[str, Any]) -> dict[str, Any]:
    """What is made with CostMode=production in the environment prod."""
    return made(template, CostMode="production", Environment="prod")


@pytest.fixture(scope="session")
def _moto() -> Iterator[str]:
    with moto_in_this_process() as address:
        yield address


@pytest.fixture
def aws(_moto: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """An empty AWS; the environment names it, so boto3 and the service's own S3 client use it."""
    import urllib.request

    urllib.request.urlopen(urllib.request.Request(f"{_moto}/moto-api/reset", method="POST"), timeout=10).close()
    name_aws(monkeypatch, _moto, AWS_DEFAULT_REGION=REGION)
    return _moto


@pytest.fixture
def deploy(aws: str, free: Mapping[str, Any]) -> Callable[..., dict[str, str]]:
    """``deploy(name, api_url=...)`` makes the stack in the stand-in and returns its outputs.

    Bucket, policy, parameter and log group are the template's own; API and function are not made; the API key is a real
    one of the stand-in. Calling it again updates the stack with the same template, plus ``tags`` where given.
    """
    import boto3

    def make(
        name: str, api_url: str = "http://127.0.0.1:9", tags: Mapping[str, str] | None = None, *, prod: bool = False
    ) -> dict[str, str]:
        client = boto3.client("cloudformation")
        keep = ("ModelBucket", "ModelBucketPolicy", "ModelPublicKeys", "FraudFunctionLogs")
        resources = {key: copy.deepcopy(free["Resources"][key]) for key in keep}
        if prod:
            resources["ModelBucket"]["DeletionPolicy"] = "Retain"
        resources["ModelPublicKeys"]["Properties"]["Name"] = f"CFN-{name}-ModelPublicKeys"  # moto makes up no name
        stacks = [item["StackName"] for item in client.describe_stacks()["Stacks"]]
        if name in stacks:
            outputs = client.get_template(StackName=name)["TemplateBody"]["Outputs"]
        else:
            key = boto3.client("apigateway").create_api_key(name=f"{name}-key", enabled=True)
            outputs = dict(copy.deepcopy(free["Outputs"]))
            for output in ("ApiKeyCommand", "CurlLine", "AlarmTopicArn", "DashboardUrl"):
                del outputs[output]
            outputs["ApiUrl"] = {"Value": api_url}
            outputs["ApiKeyId"] = {"Value": key["id"]}
            outputs["FunctionName"] = {"Value": "fraud-function"}
            for output in ("WorkerName", "TransactionsQueueUrl", "DecisionsTable", "DeadLetterQueueUrls"):
                outputs[output] = {"Value": "not made here"}
        body = json.dumps({"Parameters": free["Parameters"], "Resources": resources, "Outputs": outputs})
        change = client.update_stack if name in stacks else client.create_stack
        change(StackName=name, TemplateBody=body, Tags=[{"Key": k, "Value": v} for k, v in (tags or {}).items()])
        made = client.describe_stacks(StackName=name)["Stacks"][0]
        values = {item["OutputKey"]: item["OutputValue"] for item in made["Outputs"]}
        versioning = resources["ModelBucket"]["Properties"]["VersioningConfiguration"]  # moto makes the bucket without
        boto3.client("s3").put_bucket_versioning(Bucket=values["BucketName"], VersioningConfiguration=versioning)
        return values

    return make


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    """A keys folder as the first `make run` leaves it: one development key."""
    from fraud_api_lambda.bundle import SigningKey

    folder = tmp_path / "keys"
    key = SigningKey.generate("dev-0123abcd")
    key.save(folder / "development.key")
    (folder / "development.pub").write_text(key.public_line() + "\n")
    return folder


@pytest.fixture
def seal(tmp_path: Path, keys: Path) -> Callable[..., Path]:
    """``seal(version)`` makes a bundle signed with the development key: a model of one tree with one question."""
    from datetime import UTC, datetime

    import numpy as np

    from fraud_api_lambda import bundle as bundles
    from fraud_api_lambda.features import NAMES, fill
    from fraud_api_lambda.model import Forest, FraudModel, LeafTable, pack

    def column(*values: float) -> Any:
        return np.array([[value] for value in values], np.float32)

    # drains_account below a half: margin -3, else 4; a tenth of the rows drain.
    table = LeafTable(
        feature=np.array([[1], [1]], np.int32),
        low=column(-np.inf, 0.5),
        high=column(0.5, np.inf),
        missing=np.array([[True], [False]]),
        table=np.array([[[2.7], [-0.3]], [[-0.4], [3.6]]], np.float32),
    )
    forest = Forest(
        width=2,
        bias=0.0,
        expected=-2.3,
        root=np.array([0], np.int32),
        feature=np.array([1, 0, 0], np.int32),
        value=np.array([0.5, -3.0, 4.0], np.float32),
        child=np.array([2, 1, 1, 1, 2, 2], np.int32),
        missing_left=np.array([True, False, False]),
        tables=[table],
    )

    def make(version: str) -> Path:
        manifest = bundles.Manifest(
            version=version,
            created_at=datetime(2026, 1, 1, tzinfo=UTC).isoformat(),
            champion="xgboost",
            features=tuple(bundles.NamedFeature(name=name, version=1) for name in ("amount", "drains_account")),
            population=dict.fromkeys(NAMES, 0.0),
            members=(bundles.Member(name="xgboost", kind="forest", weight=1.0),),
            calibration=bundles.Calibration(slope=1.0, intercept=0.0),
            thresholds=bundles.ThresholdPair(review=0.5, decline=0.9),
            time_zone=bundles.Zone(name="UTC", starts_ms=(0,), offsets_s=(0,)),
            currency=bundles.Currency(base="USD", minor_units=2),
            label_delay_ms=0,
            training={},
            libraries={},
            files={},
        )
        model = FraudModel.from_manifest(manifest, forest)
        rows = []
        for drains in (0.0, 1.0):
            columns = np.zeros(len(model.features.columns))
            columns[list(model.features.columns).index("drains_account")] = drains
            vector = model.vector(fill(columns, model.population))
            rows.append(
                {"columns": columns.tolist(), "margin": model.margin(vector), "probability": model.probability(vector)}
            )
        files = {
            "forest.npz": pack(forest),
            "golden.json": json.dumps({"rows": rows}).encode(),
            "rules.yaml": (ROOT / "fraud_api_lambda/default_rules.yaml").read_bytes(),
            "metrics.json": b'{"test": {"average_precision": 0.9, "fraud_rate": {"weighted": 0.1}}}',
        }
        return bundles.seal(tmp_path / "models", manifest, files, bundles.SigningKey.load(keys / "development.key"))

    return make


@pytest.fixture
def models(tmp_path: Path, keys: Path, seal: Callable[..., Path]) -> Path:
    """A models folder as training leaves it: a bundle and the pointer to it."""
    from fraud_api_lambda import bundle as bundles

    key = bundles.SigningKey.load(keys / "development.key")
    public_keys = bundles.parse_public_keys((keys / "development.pub").read_text())
    folder = seal("v1")
    bundles.publish(folder, f"file://{folder.parent}/current", key, public_keys)
    return folder.parent
