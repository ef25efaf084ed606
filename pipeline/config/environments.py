"""Environments: overlays in pipeline.yaml that `--env NAME` lays over the rest of the file.

An overlay states what differs. Sections are merged key by key; anything else (a list, tags, the ranges of the search)
is replaced whole. So that two environments of one account do not share a pipeline, a model package group, an endpoint,
a function or a stack, the names of those take the environment's name as a suffix, unless the overlay states them.
"""

import re
from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

from pipeline.config.setting import Fault, Read, Unacceptable, collecting, found_below, mapping, refuse
from pipeline.config.yaml_lines import Value

SECTION = "environments"
SUFFIXED = (
    "pipeline.name",
    "registry.model_package_group",
    "deploy.endpoint_name",
    "aws.project",
    "aws.deploy_function",
)
NAME = re.compile(r"[a-z0-9](-?[a-z0-9])*")
NAME_LENGTH = 20


def names(value: Value) -> tuple[str, ...]:
    """The reader of the section itself: the environments' names; each overlay is read when it is laid over."""
    faults: list[Fault] = []
    for name, overlay in mapping(value).items():
        with collecting(faults, name):
            check_overlay(name, overlay)
    if faults:
        raise Unacceptable(*faults)
    return tuple(mapping(value))


def check_overlay(name: str, overlay: Value) -> None:
    """Refuse a name that cannot be a suffix, and an overlay that is none."""
    if not NAME.fullmatch(name) or len(name) > NAME_LENGTH:
        text = f"must be named by at most {NAME_LENGTH} lower-case letters, digits and single dashes."
        raise Unacceptable(Fault(overlay.key_line, "", text))
    if SECTION in mapping(overlay):
        refuse(overlay.data[SECTION], "must not hold environments in turn.")


def overlays(root: Value) -> Mapping[str, Value]:
    """The overlays of a file whose `environments` section is acceptable."""
    section = root.data.get(SECTION)
    return {} if section is None else mapping(section)


def overlaid(root: Value, name: str, base: Any) -> Value:
    """The file with an overlay; `base` is the file read without one, or with defaults where it is not acceptable."""
    overlay = overlays(root)[name]
    merged = merge(root, overlay, base)
    for path in SUFFIXED:
        section, key = path.split(".")
        below = merged.data.get(section) or Value({}, overlay.key_line)
        if stated(overlay, path) or not isinstance(below.data or {}, dict):
            continue
        value = Value(f"{found_below(vars(base), path)}-{name}", line_of(root, path, overlay.key_line))
        merged.data[section] = replace(below, data={**mapping(below), key: value})
    return merged


def merge(base: Value, overlay: Value, defaults: Any) -> Value:
    """The members of both mappings; where both hold a section, the sections merged."""
    sections = {item.name for item in fields(defaults) if "read" not in item.metadata}
    members = dict(mapping(base))
    for name, member in mapping(overlay).items():
        below = members.get(name)
        both = name in sections and below and isinstance(below.data, dict) and isinstance(member.data, dict)
        members[name] = merge(below, member, getattr(defaults, name)) if below and both else member
    return replace(base, data=members)


def stated(overlay: Value, path: str) -> bool:
    """Whether an overlay itself holds the setting."""
    section, key = path.split(".")
    below = mapping(overlay).get(section)
    return below is not None and isinstance(below.data, dict) and key in below.data


def line_of(root: Value, path: str, otherwise: int) -> int:
    """Where the file states a setting."""
    section, key = path.split(".")
    below = root.data.get(section)
    member = below.data.get(key) if below and isinstance(below.data, dict) else None
    return member.line if member else otherwise


def faults_of(root: Value, name: str, base: Any, read: Read[Any]) -> list[Fault]:
    """What is wrong with the file once the overlay is laid over it, in words that lead to the overlay."""
    faults: list[Fault] = []
    with collecting(faults, f"{SECTION}.{name}"):
        read(overlaid(root, name, base))
    return faults
