"""The model registry: groups, their versions, one version with its card and lineage, and what it does otherwise."""

import csv
import io
import json
import re
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from pipeline.errors import PipelineError, ServiceError
from pipeline.service import executions
from pipeline.service import models as registry
from pipeline.service.comparison import recalls
from pipeline.service.local_target import LocalTarget
from pipeline.service.status import metrics, read_evaluation
from pipeline.studio.site import attempt, form_of, missing, path_text, render, studio

SHOWN_VERSIONS, SHOWN_IMAGES = 100, 24  # of a group; of each kind of difference
CODE = re.compile(r"/code/([^/\"]+)-([0-9a-f]{16})/source\.tar\.gz")
KEPT = ("name", "label", "predicted")  # of predictions.csv, beside the score
Package = Mapping[str, Any]  # DescribeModelPackage
Predictions = dict[str, dict[str, str]]  # image's name -> label, predicted, score


def show_groups(request: Request) -> Response:
    """Return the groups with their newest versions."""
    target = studio(request).target
    groups = {name: list(registry.version_rows(target, name, SHOWN_VERSIONS)) for name in registry.groups(target)}
    command, endpoints = studio(request).call.command, endpoints_of(target)
    return render(request, "models.html", groups=groups, endpoints=endpoints, most=SHOWN_VERSIONS, command=command)


def endpoints_of(target: LocalTarget) -> list[dict[str, str]]:
    """Return name, status and served version of every endpoint, and why its last deployment failed."""
    return [
        {
            "name": name,
            "status": str(target.endpoint_view(name, found["EndpointStatus"])["status"]),
            "version": registry.served_version(target, name) or "",
            "reason": (registry.endpoint(target, name) or {}).get("FailureReason", ""),
        }
        for found in registry.endpoints(target)
        if (name := str(found["EndpointName"]))
    ]


def show_version(request: Request) -> Response:
    """Return one version beside the one in service, or beside the one that `with` names."""
    target, package = studio(request).target, package_of(request)
    endpoints = endpoints_of(target)
    served = {found["version"] for found in endpoints}
    listed = {str(registry.version(each)): each["ModelPackageArn"]
              for each in registry.model_packages(target, package["ModelPackageGroupName"])}  # fmt: skip
    others = {number: arn for number, arn in listed.items() if arn != package["ModelPackageArn"]}
    chosen = request.query_params.get("with") or next((number for number in others if others[number] in served), "")
    beside = registry.model_package(target, others[chosen]) if chosen in others else None
    return render(
        request, "model.html",
        package=package, row=registry.version_row(target, package), group=package["ModelPackageGroupName"],
        endpoints=endpoints, card=card_of(package), origin=origin_of(package), code=code_of(target, package),
        figures=figures(target, package), their_figures=figures(target, beside) if beside else {},
        others=others, beside=chosen if beside else None, is_served=others.get(chosen) in served,
        their_metadata=(beside or {}).get("CustomerMetadataProperties", {}), most=SHOWN_IMAGES,
        changes=changes(predictions(target, package), predictions(target, beside)) if beside else None,
    )  # fmt: skip


def package_of(request: Request) -> dict[str, Any]:
    """Return DescribeModelPackage of the version that the address names."""
    name = "{group}/{version}".format(**request.path_params)
    try:
        return registry.model_package(studio(request).target, name)
    except ServiceError as problem:
        raise missing(f"model version {name!r}") from problem


def decide(request: Request) -> Response:
    """Approve or reject a version, of which the deploy function hears as on AWS."""
    here, package, form = studio(request), package_of(request), form_of(request)
    group, number = package["ModelPackageGroupName"], registry.version(package)
    if (decision := str(form.get("decision"))) not in ("Approved", "Rejected"):
        raise HTTPException(400, f"A version is Approved or Rejected, but the form says {decision}.")

    def act() -> None:
        if group.lower() == here.config.registry.model_package_group.lower():
            here.target.set_up(here.config)  # the rule and the function that deploy
        why, replaces = str(form.get("comment", ""))[:1024], "replace_classes" in form
        registry.set_approval(here.target, package["ModelPackageArn"], decision, why=why, replace_classes=replaces)

    return attempt(f"/models/{path_text(group)}/{number}", f"Version {number} is {decision} now.", act)


def origin_of(package: Package) -> str | None:
    """Return `pipeline/execution` that registered a version, if one did."""
    arn = package.get("MetadataProperties", {}).get("GeneratedBy", "")
    return "/".join(found.groups()) if (found := re.search(r":pipeline/([^/]+)/execution/([^/]+)$", arn)) else None


def code_of(target: LocalTarget, package: Package) -> list[tuple[str, str]]:
    """Return name and digest of the code that a version's execution ran; nothing if that is gone."""
    with suppress(PipelineError, KeyError):
        definition = executions.definition_of(target, package["MetadataProperties"]["GeneratedBy"])
        return sorted(set(CODE.findall(json.dumps(definition))))
    return []


def card_of(package: Package) -> Any:
    """Return the model card as data, as text if it is no JSON, or nothing."""
    content = package.get("ModelCard", {}).get("ModelCardContent")
    with suppress(TypeError, ValueError, RecursionError):
        return json.loads(content)
    return content


def figures(target: LocalTarget, package: Package) -> dict[str, float]:
    """Return a version's metrics: of its evaluation, with the recall of each class, else numbers of its metadata."""
    evaluation = read_evaluation(target, evaluation_of(package))
    found = {name.removeprefix("test_").replace("_", " "): value for name, value in metrics(evaluation).items()}
    found |= {f"recall of {name}": recall for name, recall in recalls(evaluation).items()}
    for name, text in package.get("CustomerMetadataProperties", {}).items() if not found else ():
        with suppress(ValueError):
            found[name] = float(text)
    return found


def evaluation_of(package: Package) -> str | None:
    """Return below which URI a version's evaluation lies, if it was registered with one."""
    uri = package.get("ModelMetrics", {}).get("ModelQuality", {}).get("Statistics", {}).get("S3Uri", "")
    return str(uri).rpartition("/")[0] or None


def predictions(target: LocalTarget, package: Package) -> Predictions | None:
    """Return what a version said of each test image; None if that was not kept."""
    with suppress(PipelineError, KeyError, TypeError, ValueError, csv.Error):
        text = target.read(f"{evaluation_of(package)}/predictions.csv").decode()
        rows = csv.DictReader(io.StringIO(text, newline=""))
        return {row["name"]: {key: row[key] for key in KEPT} | {"score": str(float(row["score"]))} for row in rows}
    return None


def changes(mine: Predictions | None, theirs: Predictions | None) -> dict[str, Any] | None:
    """Return the images on which two versions differ, of those that both were tested on; None if that is not known."""
    if mine is None or theirs is None:
        return None
    kinds: dict[str, list[dict[str, str]]] = {"better": [], "worse": [], "otherwise": []}
    for name, new in sorted(mine.items(), key=lambda item: -float(item[1]["score"])):
        if (old := theirs.get(name)) and old["predicted"] != new["predicted"]:
            right = new["label"]
            kind = "better" if new["predicted"] == right else "worse" if old["predicted"] == right else "otherwise"
            kinds[kind].append({**new, "before": old["predicted"], "score_before": old["score"]})
    return {"images": len(mine.keys() & theirs.keys()), "kinds": kinds}


ROUTES = [
    Route("/models", show_groups),
    Route("/models/{group}/{version}", show_version),
    Route("/models/{group}/{version}", decide, methods=["POST"]),
]
