"""What CloudFormation makes of template.yaml for given parameters: values and conditions settled, then SAM's transform.

The order is that of the template's two transforms: AWS::LanguageExtensions puts parameters' values where they are
referred to, and SAM sees the result. Conditions are settled here too, which CloudFormation does later, so that what is
asserted is what is made.
"""

import copy
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
REGION = "eu-west-1"
IMAGE = "123456789012.dkr.ecr.eu-west-1.amazonaws.com/fraud:python3.13"

NO_VALUE = {"Ref": "AWS::NoValue"}
Template = Mapping[str, Any]


class RuleBroken(Exception):
    """The parameters break one of the template's rules; the message is the rule's own."""


def read_template() -> dict[str, Any]:
    """template.yaml as it is written."""
    from samtranslator.yaml_helper import yaml_parse

    parsed: dict[str, Any] = yaml_parse((ROOT / "template.yaml").read_text())
    return parsed


def expand(template: Template, image: str = IMAGE) -> dict[str, Any]:
    """SAM's transform applied, with the image's address filled in as `sam build` and `sam deploy` do.

    Managed policies are known by no name here, so a policy that the template takes from AWS by name would fail.
    """
    from samtranslator.translator.transform import transform

    class NoManagedPolicies:
        def load(self) -> dict[str, str]:
            return {}

    source = copy.deepcopy(dict(template))
    for resource in source["Resources"].values():
        if resource["Type"] == "AWS::Serverless::Function":
            resource["Properties"]["ImageUri"] = image
    before = os.environ.get("AWS_DEFAULT_REGION")
    os.environ["AWS_DEFAULT_REGION"] = REGION
    try:
        expanded: dict[str, Any] = transform(source, {}, NoManagedPolicies())
    finally:
        if before is None:
            del os.environ["AWS_DEFAULT_REGION"]
        else:
            os.environ["AWS_DEFAULT_REGION"] = before
    return expanded


def made(template: Template, image: str = IMAGE, **parameters: object) -> dict[str, Any]:
    """What is made with these parameters, the others at their defaults. Raises :class:`RuleBroken`."""
    return expand(settle(template, **parameters), image)


def settle(template: Template, **parameters: object) -> dict[str, Any]:
    """The template with parameters' values in place, conditions decided and what they leave out gone."""
    declared = template["Parameters"]
    unknown = set(parameters) - set(declared)
    if unknown:
        raise KeyError(f"no such parameters: {sorted(unknown)}")
    values = {name: parameters.get(name, given["Default"]) for name, given in declared.items()}
    for name, given in declared.items():
        allowed = given.get("AllowedValues")
        assert allowed is None or str(values[name]) in map(str, allowed), f"{name}={values[name]}"
        pattern = given.get("AllowedPattern")
        assert pattern is None or re.fullmatch(pattern, str(values[name])), f"{name}={values[name]}"
    conditions: dict[str, bool] = {}
    for name in template["Conditions"]:
        _holds(template["Conditions"], name, values, conditions)
    for rule in template.get("Rules", {}).values():
        if _truth(rule.get("RuleCondition", True), {}, values, conditions):
            for item in rule["Assertions"]:
                if not _truth(item["Assert"], {}, values, conditions):
                    raise RuleBroken(item["AssertDescription"])

    def walk(node: Any) -> Any:
        if isinstance(node, list):
            return [item for item in map(walk, node) if item != NO_VALUE]
        if not isinstance(node, Mapping):
            return node
        if set(node) == {"Ref"} and node["Ref"] in values:
            return values[node["Ref"]]
        if set(node) == {"Fn::If"}:
            condition, given, otherwise = node["Fn::If"]
            return walk(given if conditions[condition] else otherwise)
        if set(node) == {"Fn::Sub"}:
            return _substituted(walk(node["Fn::Sub"]), values)
        return {key: item for key, item in ((key, walk(item)) for key, item in node.items()) if item != NO_VALUE}

    settled = {key: value for key, value in template.items() if key not in {"Conditions", "Rules"}}
    for section in ("Globals", "Resources", "Outputs"):
        kept = {
            name: item
            for name, item in template[section].items()
            if "Condition" not in item or conditions[item["Condition"]]
        }
        settled[section] = walk(kept)
        for item in settled[section].values():
            item.pop("Condition", None)
    return settled


def _holds(all_: Mapping[str, Any], name: str, values: Mapping[str, Any], known: dict[str, bool]) -> bool:
    if name not in known:
        known[name] = _truth(all_[name], all_, values, known)
    return known[name]


def _truth(node: Any, all_: Mapping[str, Any], values: Mapping[str, Any], known: dict[str, bool]) -> bool:
    if isinstance(node, bool):
        return node
    ((function, given),) = node.items()
    if function == "Condition":
        return _holds(all_, given, values, known)
    if function == "Fn::Equals":
        left, right = (str(values[item["Ref"]]) if isinstance(item, Mapping) else str(item) for item in given)
        return left == right
    found = [_truth(item, all_, values, known) for item in given]
    return {"Fn::Not": lambda: not found[0], "Fn::And": lambda: all(found), "Fn::Or": lambda: any(found)}[function]()


def _substituted(given: Any, values: Mapping[str, Any]) -> Any:
    """``Fn::Sub`` with the parameters' values in place; a plain text where nothing is left to look up."""
    text, names = (given, {}) if isinstance(given, str) else given

    def value(found: re.Match[str]) -> str:
        return str(values[found[1]]) if found[1] in values and found[1] not in names else found[0]

    text = re.sub(r"\$\{([A-Za-z0-9:.]+)\}", value, text)
    if "${" not in text:
        return text
    return {"Fn::Sub": [text, names] if names else text}
