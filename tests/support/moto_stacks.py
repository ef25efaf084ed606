"""Change sets of CloudFormation as moto lacks them: conditions, events, outputs, and a rollback."""

import copy
import functools
from collections.abc import Callable
from typing import Any

from moto.cloudformation import models as cloudformation
from moto.cloudformation import parsing

parsed_once = functools.lru_cache(maxsize=8)(cloudformation.Stack.parse_template)


def parse_template(template: str) -> dict[str, Any]:
    """moto parses a template several times a request, in Python."""
    return copy.deepcopy(parsed_once(template))


def parse_own_template(change_set: Any) -> None:
    """The same for a change set."""
    change_set.template_dict = parse_template(change_set.template)


def parameters_as_given(stack: Any) -> list[dict[str, str]]:
    """DescribeStacks' parameters; moto takes lists apart."""
    given = stack.resource_map.resolved_parameters
    return [
        {"ParameterKey": name, "ParameterValue": ",".join(value) if isinstance(value, list) else str(value)}
        for name, value in given.items()
    ]


def wanted_resources(change_set: Any) -> set[str]:
    """The resources whose condition holds under the change set's parameters."""
    stack = change_set.stack
    where, template = (stack.region_name, stack.account_id), change_set.template_dict
    resource_map = parsing.ResourceMap(stack.stack_id, stack.name, change_set.parameters, {}, *where, template, {})
    resource_map.load()
    conditions = resource_map.lazy_condition_map
    resources = template["Resources"]
    return {name for name, resource in resources.items() if conditions.get(resource.get("Condition"), True)}


def present_resources(resource_map: Any) -> set[str]:
    """The resources that have been made."""
    made = resource_map._parsed_resources
    return {name for name in resource_map._resource_json_map if made.get(name) is not None}


def changes_of(change_set: Any) -> list[Any]:
    """What the change set would add, modify and remove."""
    resource_map, template = change_set.stack.resource_map, change_set.template_dict
    wanted, present = wanted_resources(change_set), present_resources(resource_map)
    modified = resource_map.build_resource_diff(template, change_set.parameters)["Modify"]
    old = resource_map._resource_json_map
    actions = {
        "Add": wanted - present,
        "Modify": set(modified) & wanted & present,
        "Remove": present - wanted,
    }
    return [
        cloudformation.Change(action, name, (template["Resources"].get(name) or old[name])["Type"])
        for action, names in actions.items()
        for name in sorted(names)
    ]


def only_present(build: Callable[..., Any]) -> Callable[..., Any]:
    """A resource that was not made is not modified."""

    def build_resource_diff(self: Any, template: Any, parameters: Any = None) -> Any:
        found = build(self, template, parameters)
        found["Modify"] = [name for name in found["Modify"] if self._parsed_resources.get(name) is not None]
        return found

    return build_resource_diff


def tell(stack: Any, name: str, resource_type: str, status: str, reason: str | None = None) -> None:
    """An event of a resource."""
    event = (stack.stack_id, stack.name, name, name, resource_type, status, reason, None)
    stack.events.append(cloudformation.Event(*event))


def execute_change_set(self: Any, change_set_name: str, stack_name: str | None = None) -> None:
    """With conditions, events, outputs, and a rollback."""
    change_set = self.describe_change_set(change_set_name)
    stack = change_set.stack
    kind = change_set.change_set_type
    stack._add_stack_event(f"{kind}_IN_PROGRESS", "User Initiated")
    resource_map = stack.resource_map
    try:
        change_set.apply()
        wanted = wanted_resources(change_set)
        for name in sorted(present_resources(resource_map) - wanted):
            remove(stack, name)
        for name in sorted(wanted):
            _ = resource_map[name]
    except Exception as error:  # noqa: BLE001  whatever a resource of moto raises
        roll_back(stack, kind, error)
        return
    for change in change_set.changes:
        status = {"Add": "CREATE", "Modify": "UPDATE", "Remove": "DELETE"}[change.action]
        tell(stack, change.logical_resource_id, change.resource_type, f"{status}_COMPLETE")
    change_set.execution_status = "EXECUTE_COMPLETE"
    stack.template, stack.parameters, stack.tags = change_set.template, change_set.parameters, change_set.tags
    stack._parse_template()
    stack.output_map = stack._create_output_map()
    stack.status = f"{kind}_COMPLETE"
    stack._add_stack_event(f"{kind}_COMPLETE")


def remove(stack: Any, name: str) -> None:
    """Delete one resource."""
    resource_map = stack.resource_map
    resource_map._delete_resource(resource_map._parsed_resources.pop(name), resource_map._resource_json_map[name])


def roll_back(stack: Any, kind: str, error: Exception) -> None:
    """The failed resource's reason in the events; a failed creation leaves nothing."""
    name = getattr(error, "logical_id", stack.name)
    resource_type = stack.resource_map._resource_json_map.get(name, {}).get("Type", "")
    reason = getattr(error, "message", None) or str(error)
    tell(stack, "Another", "AWS::Logs::LogGroup", f"{kind}_FAILED", "Resource creation cancelled")
    tell(stack, name, resource_type, f"{kind}_FAILED", reason)
    if kind == "CREATE":
        for present in reversed(list(stack.resource_map._parsed_resources)):
            if present in present_resources(stack.resource_map):
                remove(stack, present)
    stack.status = "ROLLBACK_COMPLETE" if kind == "CREATE" else "UPDATE_ROLLBACK_COMPLETE"
    stack._add_stack_event(stack.status)


def naming_failures(create: Callable[..., Any]) -> Callable[..., Any]:
    """An error tells which resource it is about: the innermost."""

    def parse_and_create_resource(logical_id: str, *arguments: Any, **named: Any) -> Any:
        try:
            return create(logical_id, *arguments, **named)
        except Exception as error:
            if not hasattr(error, "logical_id"):
                error.logical_id = logical_id  # type: ignore[attr-defined]
            raise

    return parse_and_create_resource


def retaining(delete: Callable[..., Any]) -> Callable[..., Any]:
    """RetainExceptOnCreate is Retain once the stack is made."""

    def delete_resources(self: Any) -> None:
        written, kept = self._resource_json_map.items(), ("Retain", "RetainExceptOnCreate")
        self._resource_json_map = {name: each for name, each in written if each.get("DeletionPolicy") not in kept}
        delete(self)

    return delete_resources
