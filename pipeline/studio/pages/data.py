"""Data: the images of an execution by class, labels that look wrong, near-duplicates, and corrections of labels."""

import csv
import json
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from pipeline.errors import UsageError
from pipeline.service import corrections, executions
from pipeline.service.prepared import SPLITS, Image, Prepared, prepared
from pipeline.studio import commands
from pipeline.studio.site import attempt, form_of, go_to, live, missing, path_text, render, studio

SHOWN_IMAGES, SHOWN_SUSPECTS, SHOWN_PAIRS, SAMPLES = 60, 60, 24, 4
LISTED_EXECUTIONS = 20  # the newest ones, to choose from
MOST_CHOICES = 40  # classes in a list of each image; of more, one is typed


def show_data(request: Request) -> Response:
    """Return the classes of an execution's images, or with `class` a page of the images of one."""
    here, asked = studio(request), request.query_params
    name, found = chosen(request)
    if found is None:
        return render(
            request, "data.html", found=None, execution=name, choices=choices(request), command=here.call.command
        )
    wanted, split, page = asked.get("class"), asked.get("split", ""), asked.get("page", "1")
    if wanted is not None and wanted not in found.manifest["classes"]:
        raise missing(f"class {wanted!r} in the data of this execution")
    shown = [each for each in found.images.values() if each["label"] == wanted and split in ("", each["split"])]
    number = int(page) if page.isdecimal() and len(page) < 6 else 1
    samples: dict[str, list[Image]] = {each: [] for each in found.manifest["classes"]}
    for image in () if wanted else found.images.values():
        if len(samples[image["label"]]) < SAMPLES:
            samples[image["label"]].append(image)
    first = (number - 1) * SHOWN_IMAGES
    kept = {each: asked[each] for each in ("class", "split", "page") if each in asked}
    return render(
        request, "data.html",
        found=found, execution=name, choices=choices(request), wanted=wanted, split=split, splits=SPLITS,
        back=f"/data?{urlencode({'execution': name, **kept})}", count=len(shown), page=number, per_page=SHOWN_IMAGES,
        images=shown[first : first + SHOWN_IMAGES], samples=samples, pairs=pairs_of(found), **suspects_of(request),
        **corrections_of(request, found),
    )  # fmt: skip


def chosen(request: Request) -> tuple[str, Prepared | None]:
    """Return `pipeline/execution` that is asked for, or the newest with prepared images, and these."""
    given = request.query_params.get("execution", "")
    names = [given] if given else choices(request)
    for name in names:
        if found := prepared_of(request, name):
            return name, found
    return given, None


def prepared_of(request: Request, name: str) -> Prepared | None:
    """Return the images of `pipeline/execution`; None if there are none, or not any more."""
    target, (pipeline, _, execution) = studio(request).target, name.partition("/")
    return prepared(target, f"{target.placement.pipeline_arn(pipeline)}/execution/{execution}")


def choices(request: Request) -> list[str]:
    """Return the newest executions of pipeline.yaml's pipeline, the newest first."""
    here = studio(request)
    name = here.config.pipeline.name
    return [f"{name}/{each['execution']}" for each in executions.recent(here.target, name, LISTED_EXECUTIONS)]


def pairs_of(found: Prepared) -> list[tuple[Image, Image, float]]:
    """Return some near-duplicates, those with two labels first."""
    pairs = [*found.manifest.get("near_duplicates_of_two_classes", []), *found.manifest.get("near_duplicates", [])]
    known = {
        tuple(pair["paths"]): float(pair["distance"]) for pair in pairs if set(pair["paths"]) <= found.by_path.keys()
    }
    return [
        (found.by_path[one], found.by_path[other], distance)
        for (one, other), distance in islice(known.items(), SHOWN_PAIRS)
    ]


def audit_of(request: Request, name: str) -> tuple[str, Path]:
    """Return the command line that audits an execution's labels, and the folder that it writes to."""
    here, (pipeline, _, execution) = studio(request), name.partition("/")
    folder = here.target.home / "reports" / f"audit-{execution}"
    return here.call.command("audit", execution, "--pipeline", pipeline, "--no-open", "--out", str(folder)), folder


def suspects_of(request: Request) -> dict[str, Any]:
    """Return what an audit has found, if there was one, and whether one is at work."""
    name, found = chosen(request)
    command, folder = audit_of(request, name)
    audit, rows = None, []
    with suppress(OSError, ValueError, csv.Error):
        audit = json.loads((folder / "audit.json").read_text())
        with (folder / corrections.USUAL_NAME).open(encoding="utf-8-sig", newline="") as stream:
            rows = list(csv.DictReader(stream))
    images = found.by_path if found else {}
    suspects = [{**images[row["path"]], **row} for row in rows[:SHOWN_SUSPECTS] if row["path"] in images]
    return {"audit": audit, "suspects": suspects, "auditing": commands.is_running(command),
            "audit_problem": commands.failure(command), "audit_name": folder.name}  # fmt: skip


def show_suspects(request: Request) -> Response:
    """Return what is live of the page: the audit."""
    name, found = chosen(request)
    if found is None:
        raise missing("execution with prepared images of that name")
    context = {
        "found": found,
        "execution": name,
        "back": f"/data?execution={name}",
        **suspects_of(request),
        **corrections_of(request, found),
    }
    return live(request, "suspects.html", lambda: context, also=str(context["auditing"]) + str(context["suspects"]))


def start_audit(request: Request) -> Response:
    name = str(form_of(request).get("execution", ""))
    if prepared_of(request, name) is None:
        raise missing(f"execution {name!r} with prepared images")
    commands.start(audit_of(request, name)[0])
    return go_to(f"/data?execution={name}#suspects")


def corrections_of(request: Request, found: Prepared) -> dict[str, Any]:
    """Return the corrections that there are, where they are, and why there can be none."""
    here = studio(request)
    file = corrections.corrections_file(here.call.config_file, here.config.data.corrections)
    problem, labels = "", dict[str, str]()
    own, pipeline = here.config.pipeline.name, chosen(request)[0].partition("/")[0]
    try:
        labels = corrections.corrected_labels(file)
        if own != pipeline:
            problem = (
                f"Corrections are of pipeline {own}, which {here.call.config_file.name} is about, not of {pipeline}."
            )
    except UsageError as refused:
        problem = str(refused)
    return {"file": file, "is_named": bool(here.config.data.corrections), "labels": labels, "problem": problem,
            "config_name": here.call.config_file.name, "most_choices": MOST_CHOICES, "pipeline": own}  # fmt: skip


def correct(request: Request) -> Response:
    """Write a correction of one image, or take it back."""
    here, form = studio(request), form_of(request)
    given = {name: str(form.get(name, "")) for name in ("execution", "image", "label", "key", "back")}
    back = given["back"] if given["back"].startswith("/data") else "/data"
    found = prepared_of(request, given["execution"])
    if found is None or given["execution"].partition("/")[0] != here.config.pipeline.name:
        raise missing(f"image of execution {given['execution']!r} to be corrected")
    image = found.images.get(given["image"]) or found.by_path.get(given["key"])
    if image is None and not given["key"]:
        raise missing(f"image {given['image']!r} in the data of this execution")
    label = None if image is None or given["label"] in ("", image["original"]) else given["label"]
    if label not in (None, corrections.LEFT_OUT, *found.manifest["classes"]):
        return go_to(
            back, problem=f"{label!r} is no class of this data: choose one of its classes, or - to leave the image out."
        )
    file = corrections.corrections_file(here.call.config_file, here.config.data.corrections)

    def act() -> None:
        corrections.correct(file, image or {"path": given["key"], "sha256": given["key"], "original": ""}, label)
        if not here.config.data.corrections:
            corrections.name_in_config(here.call.config_file, here.call.env)

    words = "is taken as it was" if label is None else "is left out" if label == corrections.LEFT_OUT else f"is {label}"
    said = f"{image['path'] if image else given['key']} {words} from the next run on."
    answer = attempt(back, said, act)
    answer.headers["location"] += f"#{given['image']}"
    return answer


def use(request: Request) -> Response:
    """Make the corrections a part of the pipeline, and go to where it is started."""
    here = studio(request)
    if problem := commands.finish(here.call.command("upsert")):
        return go_to("/data", problem=problem)
    return go_to(f"/start/{path_text(here.config.pipeline.name)}")


def show_picture(request: Request) -> Response:
    """Return one prepared image, small."""
    place = request.path_params
    found = prepared_of(request, f"{place['pipeline']}/{place['execution']}")
    if found is None or place["name"] not in found.images:
        raise missing("such image in the data of this execution")
    content = found.thumbnail(place["name"])
    return Response(content, media_type="image/jpeg", headers={"cache-control": "private, max-age=86400"})


ROUTES = [
    Route("/data", show_data),
    Route("/data/suspects", show_suspects),
    Route("/data/audit", start_audit, methods=["POST"]),
    Route("/data/correct", correct, methods=["POST"]),
    Route("/data/use", use, methods=["POST"]),
    Route("/pictures/{pipeline}/{execution}/{name}", show_picture),
]
