"""`models`, `approve`, `reject`, `endpoints` and `weights`: what is registered and deployed, and backbones."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Literal

from pipeline.cli.call import Call
from pipeline.cli.output import print_json, print_rows, say
from pipeline.errors import UsageError
from pipeline.service import models as registry

SHOWN_CLASSES = 20  # characters


def models(call: Call) -> int:
    target, group = call.open_target(reads_only=True), call.config.registry.model_package_group
    rows = list(registry.version_rows(target, group))
    return print_rows(call, rows, version_cells, f"No version is registered in {group!r} yet.")


def version_cells(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the table shows of a version."""
    classes, interval = row["classes"] or "", row["interval_95"] or ""
    return {
        **{name: row[name] for name in ("version", "status", "accuracy")},
        "95 %": interval.replace(" to ", "-"), "data": row["data"], "images": row["data_images"],
        "classes": classes if len(classes) <= SHOWN_CLASSES else f"{classes[:SHOWN_CLASSES]}…",
        "created": row["created"][:10],
    }  # fmt: skip


def approve(call: Call, version: str | None = None, why: str = "", replace_classes: bool = False) -> int:
    return decide(call, "Approved", version, why, replace_classes=replace_classes)


def reject(call: Call, version: str | None = None, why: str = "") -> int:
    return decide(call, "Rejected", version, why)


def decide(call: Call, decision: str, version: str | None, why: str, *, replace_classes: bool = False) -> int:
    """Set the approval and show what became of the endpoint."""
    target, config = call.open_target(reads_only=True), call.config
    arn = registry.model_package_arn(target, config.registry.model_package_group, version)
    call.say_stack_differences()
    if target.name == "local":  # on AWS the stack has made the rule that calls the function
        target.set_up(config)
    registry.set_approval(target, arn, decision, why=why, replace_classes=replace_classes)
    found = registry.wait_for_endpoint(target, config.deploy.endpoint_name) if target.name == "local" else None
    endpoint = {"name": found["EndpointName"], "status": found["EndpointStatus"]} if found else None
    if call.as_json:
        print_json({"model_package_arn": arn, "model_approval_status": decision, "endpoint": endpoint})
    else:
        print(f"{decision} {arn.partition('/')[2]}")
        if endpoint:
            print(f"Endpoint {endpoint['name']} is {endpoint['status']}")
    if found and "FailureReason" in found:
        say(f"The last deployment failed: {found['FailureReason']}")
        return 1
    return 0


def endpoints(call: Call) -> int:
    target = call.open_target(reads_only=True)
    rows: list[dict[str, Any]] = [
        {
            **target.endpoint_view(found["EndpointName"], found["EndpointStatus"]),
            "created": found["CreationTime"].isoformat(timespec="seconds"),
        }
        for found in registry.endpoints(target)
    ]
    names = ("name", "status", "url")
    print_rows(call, rows, lambda row: {name: row[name] for name in names}, "There is no endpoint.")
    for row in rows if not call.as_json else ():
        if row["note"]:
            print(f"{row['name']}: {row['note']}")
    return 0


def weights(call: Call, weights_action: Literal["list", "fetch"], backbone: str | None = None) -> int:
    """List a choice of backbones, or download timm's weights of one and store them where runs look for them."""
    from pipeline.config.backbones import PACKAGED, PUBLISHED
    from pipeline.service import weights as service
    from pipeline.service.staging import upload_weights, weights_uri

    if (weights_action == "fetch") != bool(backbone):
        raise UsageError("weights: expected list, or fetch NAME, such as: weights fetch convnext_tiny.in12k_ft_in1k.")
    if backbone is None:
        rows = [
            {
                "backbone": name,
                "weights": "package" if name in PACKAGED else "timm",
                "here": "yes" if service.at_hand(name) else "no",
                **asdict(published),
            }
            for name, published in PUBLISHED.items()
        ]
        return print_rows(call, rows, dict)
    resolved, target, config = service.resolve(backbone, "timm"), call.open_target(), call.config
    is_new, uri = upload_weights(target, config, resolved), weights_uri(config, resolved, target.placement)
    sha256 = (resolved.manifest or {})["sha256"]
    if call.as_json:
        return print_json({"backbone": backbone, "sha256": sha256, "uri": uri, "stored": is_new})
    print(f"{backbone}, sha256 {sha256}: {'stored' if is_new else 'there already'}\n{target.where(uri)}")
    print(f"In pipeline.yaml, model: {{backbone: {backbone}, weights: timm}} takes them without a network.")
    return 0
