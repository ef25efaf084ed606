"""The model registry: groups, their versions, one version with its card and lineage, and what it does otherwise."""

import contextlib
import csv
import io
import json
import re
from collections.abc import Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from pipeline.errors import PipelineError, ServiceError
from pipeline.service import executions
from pipeline.service import models as registry
from pipeline.service.local_target import LocalTarget
from pipeline.service.status import metrics, read_evaluation
from pipeline.studio.site import attempt, form_of, live, missing, path_text, render, studio

SHOWN_VERSIONS = 50  # on one page
SHOWN_IMAGES = 24  # of each kind of difference
CODE = re.compile(r"/code/([^/\"]+)-([0-9a-f]{16})/source\.tar\.gz")
Predictions = dict[str, dict[str, str]]  # image's name -> label, predicted, score


def show_groups(request: Request) -> Response:
    """Return the groups with their newest versions, or the page of one group that `group` and `after` name."""
    target, wanted, after = studio(request).target, request.query_params.get("group"), request.query_params.get("after")
    in_service = [found for found in endpoints_of(target) if found["version"]]
    names = [wanted] if wanted else registry.groups(target)
    pages = {name: registry.version_page(target, name, SHOWN_VERSIONS, after) for name in names}
    return render(request, "models.html", pages=pages, in_service=in_service, command=studio(request).call.command)


def endpoints_of(target: LocalTarget) -> list[dict[str, str]]:
    """Return name, status and served version of every endpoint, and why its last deployment failed."""
    return [
        {
            "name": found["EndpointName"],
            "status": str(target.endpoint_view(found["EndpointName"], found["EndpointStatus"])["status"]),
            "version": registry.served_version(target, found["EndpointName"]) or "",
            "reason": (registry.endpoint(target, found["EndpointName"]) or {}).get("FailureReason", ""),
        }
        for found in registry.endpoints(target)
    ]


def show_status(request: Request) -> Response:
    """Return what is live of a version's page: its approval, and what the endpoints serve."""
    endpoints = endpoints_of(studio(request).target)  # looking brings their status up to date
    context = {"endpoints": endpoints, "package": package_of(request)}
    return live(request, "model_status.html", lambda: context, also=str(endpoints))


def show_version(request: Request) -> Response:
    """Return one version beside the one in service, or beside the one that `with` names."""
    target, package = studio(request).target, package_of(request)
    arn, group = str(package["ModelPackageArn"]), str(package["ModelPackageGroupName"])
    endpoints = endpoints_of(target)
    in_service = {found["version"] for found in endpoints}
    others = [summary for summary in registry.model_packages(target, group) if summary["ModelPackageArn"] != arn]
    chosen = request.query_params.get("with") or next(
        (str(registry.version(each)) for each in others if each["ModelPackageArn"] in in_service), ""
    )
    other = next((each["ModelPackageArn"] for each in others if str(registry.version(each)) == chosen), None)
    beside = registry.model_package(target, other) if other else None
    return render(
        request, "model.html",
        package=package, row=registry.version_row(target, package), group=group, endpoints=endpoints,
        card=card_of(package), code=code_of(target, package), figures=figures(target, package),
        others=[registry.version(each) for each in others], beside=beside and registry.version(beside),
        is_served=other in in_service, their_figures=figures(target, beside) if beside else {},
        other_classes=beside is not None and classes_of(beside) != classes_of(package),
        changes=changes(predictions(target, package), predictions(target, beside)) if beside else None,
        origin=origin_of(package),
    )  # fmt: skip


def package_of(request: Request) -> dict[str, Any]:
    """Return DescribeModelPackage of the version that the address names."""
    group, number = request.path_params["group"], request.path_params["version"]
    try:
        return registry.model_package(studio(request).target, f"{group}/{number}")
    except ServiceError as problem:
        raise missing(f"version {number!r} of model package group {group!r}") from problem


def decide(request: Request) -> Response:
    """Approve or reject a version, of which the deploy function hears as on AWS."""
    here, package, form = studio(request), package_of(request), form_of(request)
    group, number = package["ModelPackageGroupName"], registry.version(package)
    decision = "Approved" if form.get("decision") == "Approved" else "Rejected"

    def act() -> None:
        if group.lower() == here.config.registry.model_package_group.lower():
            here.target.set_up(here.config)  # the rule and the function that deploy
        why, replaces = str(form.get("comment", ""))[:1024], "replace_classes" in form
        registry.set_approval(here.target, package["ModelPackageArn"], decision, why=why, replace_classes=replaces)

    return attempt(f"/models/{path_text(group)}/{number}", f"Version {number} is {decision} now.", act)


def origin_of(package: Mapping[str, Any]) -> str | None:
    """Return `pipeline/execution` that registered a version, if one did."""
    arn = package.get("MetadataProperties", {}).get("GeneratedBy", "")
    found = re.search(r":pipeline/([^/]+)/execution/([^/]+)$", arn)
    return f"{found[1]}/{found[2]}" if found else None


def code_of(target: LocalTarget, package: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return name and digest of the code that a version's execution ran; nothing if that is gone."""
    with contextlib.suppress(PipelineError):
        arn = package.get("MetadataProperties", {}).get("GeneratedBy", "")
        if origin_of(package):
            return sorted(set(CODE.findall(json.dumps(executions.definition_of(target, arn)))))
    return []


def card_of(package: Mapping[str, Any]) -> Any:
    """Return the model card as data, as text if it is no JSON, or nothing."""
    content = package.get("ModelCard", {}).get("ModelCardContent", "")
    try:
        return json.loads(content) if content else None
    except ValueError:
        return content


def classes_of(package: Mapping[str, Any]) -> Any:
    return package.get("CustomerMetadataProperties", {}).get("classes_sha256")


def figures(target: LocalTarget, package: Mapping[str, Any]) -> dict[str, float]:
    """Return a version's metrics: those of its evaluation, each class's recall included, else those in its metadata."""
    evaluation = read_evaluation(target, evaluation_of(package))
    found = {name.removeprefix("test_").replace("_", " "): value for name, value in metrics(evaluation).items()}
    per_class = evaluation.get("multiclass_classification_metrics", {}).get("per_class", {})
    found |= {f"recall of {name}": scores["recall"] for name, scores in per_class.items()}
    for name, text in {} if found else package.get("CustomerMetadataProperties", {}).items():
        with contextlib.suppress(ValueError):
            found[name] = float(text)
    return found


def evaluation_of(package: Mapping[str, Any]) -> str | None:
    """Return below which URI a version's evaluation lies, if it was registered with one."""
    uri = package.get("ModelMetrics", {}).get("ModelQuality", {}).get("Statistics", {}).get("S3Uri", "")
    return str(uri).rpartition("/")[0] or None


def predictions(target: LocalTarget, package: Mapping[str, Any]) -> Predictions | None:
    """Return what a version said of each test image; None if that was not kept."""
    with contextlib.suppress(PipelineError, KeyError, csv.Error, UnicodeDecodeError):
        text = target.read(f"{evaluation_of(package)}/predictions.csv").decode()
        return {row["name"]: row for row in csv.DictReader(io.StringIO(text, newline=""))}
    return None


def changes(mine: Predictions | None, theirs: Predictions | None) -> dict[str, Any] | None:
    """Return the images on which two versions differ, of those that both were tested on; None if that is not known."""
    if mine is None or theirs is None:
        return None
    kinds: dict[str, list[dict[str, str]]] = {"better": [], "worse": [], "otherwise": []}
    both = [name for name in mine if name in theirs]
    for name in both:
        new, old = mine[name], theirs[name]
        if new["predicted"] != old["predicted"]:
            is_right, was_right = (each["predicted"] == new["label"] for each in (new, old))
            kind = "better" if is_right else "worse" if was_right else "otherwise"
            kinds[kind].append({**new, "before": old["predicted"], "score_before": old["score"]})
    for images in kinds.values():
        images.sort(key=lambda image: -float(image["score"]))
    return {"images": len(both), "kinds": kinds, "shown": SHOWN_IMAGES}


ROUTES = [
    Route("/models", show_groups),
    Route("/models/{group}/{version}", show_version),
    Route("/models/{group}/{version}/status", show_status),
    Route("/models/{group}/{version}", decide, methods=["POST"]),
]
