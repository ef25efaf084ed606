"""`models`, `approve` and `reject`: the versions in the model registry, and what becomes of them."""

import json
import sys
from typing import Any

from pipeline.cli.invocation import Arguments, chosen_target, loaded
from pipeline.cli.rows import print_rows
from pipeline.service import control


def models(arguments: Arguments) -> int:
    """The registered versions."""
    config = loaded(arguments)
    target = chosen_target(arguments, config, reads_only=True)
    found = control.models(target, config.registry.model_package_group)
    described = [control.model_package(target, package["ModelPackageArn"]) for package in found]
    rows = [{**model_row(package), "data": control.data_of(target, package)} for package in described]
    nothing = f"No version is registered in {config.registry.model_package_group!r} yet."
    print_rows(
        arguments,
        rows,
        ("version", "status", "accuracy", "interval_95", "data", "data_images", "classes", "created"),
        nothing,
    )
    return 0


def model_row(package: dict[str, Any]) -> dict[str, Any]:
    """A version as described, with where it came from; the accuracy is text as it was registered, None without."""
    origin, metadata = package.get("MetadataProperties", {}), package.get("CustomerMetadataProperties", {})
    return {
        "version": control.version(package),
        "status": package["ModelApprovalStatus"],
        "accuracy": metadata.get("accuracy"),
        "images": metadata.get("test_images"),
        "data_images": metadata.get("dataset_images"),
        "classes": metadata.get("classes"),
        "interval_95": metadata.get("accuracy_interval"),
        "created": package["CreationTime"].isoformat(timespec="seconds"),
        "model_package_arn": package["ModelPackageArn"],
        "execution_arn": origin.get("GeneratedBy"),
        "commit": origin.get("CommitId"),
        "metadata": metadata,
    }


def approve(arguments: Arguments) -> int:
    """Approve a version, which deploys it."""
    return decide(arguments, "Approved")


def reject(arguments: Arguments) -> int:
    """Reject a version."""
    return decide(arguments, "Rejected")


def decide(arguments: Arguments, decision: str) -> int:
    """Set the approval and show what became of the endpoint."""
    config = loaded(arguments)
    target = chosen_target(arguments, config, reads_only=True)
    arn = control.model_package_arn(target, config.registry.model_package_group, arguments.version)
    if target.name == "local":  # on AWS the stack has made the rule that calls the function
        target.set_up(config)
    replace_classes = getattr(arguments, "replace_classes", False)
    control.set_approval(target, arn, decision, why=arguments.why, replace_classes=replace_classes)
    found = control.wait_for_endpoint(target, config.deploy.endpoint_name) if target.name == "local" else None
    endpoint = None if found is None else {"name": found["EndpointName"], "status": found["EndpointStatus"]}
    if arguments.json:
        print(json.dumps({"model_package_arn": arn, "model_approval_status": decision, "endpoint": endpoint}))
    else:
        print(f"{decision} {arn.partition('/')[2]}")
        if endpoint:
            print(f"Endpoint {endpoint['name']} is {endpoint['status']}")
    if found and "FailureReason" in found:
        print(f"The last deployment failed: {found['FailureReason']}", file=sys.stderr)
        return 1
    return 0
