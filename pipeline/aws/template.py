"""stack.yaml as data."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

TEMPLATE = Path(__file__).with_name("stack.yaml")


class TemplateLoader(yaml.SafeLoader):
    """YAML with CloudFormation's short forms (`!Ref`, `!Sub`, ...) spelt out as {name: value}."""


def read_template() -> Mapping[str, Any]:
    """The template, its short forms spelt out."""
    content: Mapping[str, Any] = yaml.load(TEMPLATE.read_text(), Loader=TemplateLoader)
    return content


def short_form(loader: TemplateLoader, suffix: str, node: yaml.Node) -> dict[str, Any]:
    """`!Ref X` as {"Ref": X}, `!GetAtt A.B` as {"Fn::GetAtt": [A, B]}, `!Sub X` as {"Fn::Sub": X}."""
    value = value_of(loader, node)
    if suffix == "GetAtt" and isinstance(value, str):
        value = value.split(".", 1)
    return {suffix if suffix in ("Ref", "Condition") else f"Fn::{suffix}": value}


def value_of(loader: TemplateLoader, node: yaml.Node) -> Any:
    """A node's value, whatever its tag."""
    if isinstance(node, yaml.SequenceNode):
        return loader.construct_sequence(node, deep=True)
    if isinstance(node, yaml.MappingNode):
        return loader.construct_mapping(node, deep=True)
    return node.value


TemplateLoader.add_multi_constructor("!", short_form)
