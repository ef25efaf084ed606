"""Data: the images of an execution by class, labels that look wrong, near-duplicates, and corrections of labels."""

import csv
import json
import time
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from pipeline.errors import ServiceError, UsageError
from pipeline.service import corrections, executions
from pipeline.service.prepared import SPLITS, Image, Prepared, prepared
from pipeline.studio import commands
from pipeline.studio.site import arn_of, attempt, form_of, go_to, live, missing, path_text, render, studio

SHOWN_IMAGES, SHOWN_SUSPECTS, SHOWN_PAIRS, SAMPLES = 60, 60, 24, 4
LISTED_EXECUTIONS = 20  # the newest ones, to choose from
MOST_CHOICES = 40  # classes in a list below each image; of more, one is typed


def show_data(request: Request) -> Response:
    """Return the classes of an execution's images, or with `class` a page of the images of one."""
    here, asked = studio(request), request.query_params
    own = here.config.pipeline.name
    choices = [f"{own}/{each['execution']}" for each in executions.recent(here.target, own, LISTED_EXECUTIONS)]
    names = [asked["execution"]] if "execution" in asked else choices
    name = next((each for each in names if images_of(request, each)), asked.get("execution", ""))
    if (found := images_of(request, name)) is None:
        command = here.call.command("run")
        return render(request, "data.html", found=None, execution=name, choices=choices, command=command)
    wanted, split = asked.get("class"), asked.get("split", "")
    page = int(asked["page"][:9]) if asked.get("page", "").isdecimal() else 1
    samples: dict[str, list[Image]] = {each: [] for each in found.manifest["classes"]}
    if wanted is not None and wanted not in samples:
        raise missing(f"class {wanted!r} in the data of this execution")
    for image in found.images.values():
        if len(samples[image["label"]]) < SAMPLES or (wanted == image["label"] and split in ("", image["split"])):
            samples[image["label"]].append(image)
    shown = [image for image in samples.get(str(wanted), []) if split in ("", image["split"])]
    kept = {each: asked[each] for each in ("class", "split", "page") if each in asked}
    return render(
        request, "data.html",
        choices=choices, wanted=wanted, split=split, splits=SPLITS, page=page, per_page=SHOWN_IMAGES, samples=samples,
        count=len(shown), images=shown[(page - 1) * SHOWN_IMAGES : page * SHOWN_IMAGES], pairs=pairs_of(found),
        **context_of(request, name, found, f"/data?{urlencode({'execution': name, **kept})}"),
    )  # fmt: skip


def images_of(request: Request, name: str) -> Prepared | None:
    """Return the images of `pipeline/execution`; None if there are none, or not any more."""
    with suppress(ServiceError):
        return prepared(studio(request).target, arn_of(request, name))
    return None


def pairs_of(found: Prepared) -> list[tuple[Image, Image, float]]:
    """Return some near-duplicates, those with two labels first."""
    pairs = [*found.manifest.get("near_duplicates_of_two_classes", []), *found.manifest.get("near_duplicates", [])]
    known = {tuple(pair["paths"]): float(pair["distance"]) for pair in pairs}
    images = [([found.by_path.get(path) for path in paths], distance) for paths, distance in known.items()]
    return [(one, other, distance) for (one, other), distance in images if one and other][:SHOWN_PAIRS]


def context_of(request: Request, name: str, found: Prepared, back: str) -> dict[str, Any]:
    """Return what is shown with every image: corrections, or why there can be none, and what an audit has found."""
    here, own, labels, cannot = studio(request), studio(request).config.pipeline.name, dict[str, str](), ""
    file = corrections.corrections_file(here.call.config_file, here.config.data.corrections)
    try:
        header, *rows = corrections.read_corrections(file)
        labels = {row[0]: row[header.index("label")].strip() for row in rows if len(row) >= len(header)}
        if name.partition("/")[0] != own:
            cannot = f"Only images of pipeline {own} can be corrected: pipeline.yaml is about it."
    except UsageError as refused:
        cannot = str(refused)
    (command, folder), audit, suspects = audit_of(request, name), None, list[dict[str, Any]]()
    with suppress(OSError, ValueError, KeyError, csv.Error):
        audit = json.loads((folder / "audit.json").read_text())
        with (folder / corrections.USUAL_NAME).open(encoding="utf-8-sig", newline="") as stream:
            suspects = [{**found.by_path.get(row["path"], {}), **row} for row in csv.DictReader(stream)]
    return {
        "found": found, "execution": name, "back": back, "file": file, "config_name": here.call.config_file.name,
        "is_named": bool(here.config.data.corrections), "labels": labels, "cannot": cannot,
        "most_choices": MOST_CHOICES, "audit": audit, "audit_name": folder.name, "problem": commands.failure(command),
        "suspects": [each for each in suspects if "name" in each][:SHOWN_SUSPECTS],
        "is_auditing": commands.is_running(command),
    }  # fmt: skip


def audit_of(request: Request, name: str) -> tuple[str, Path]:
    """Return the command line that audits an execution's labels, and the folder that it writes to."""
    here, (pipeline, _, execution) = studio(request), name.partition("/")
    folder = here.target.home / "reports" / f"audit-{execution}"
    return here.call.command("audit", execution, "--pipeline", pipeline, "--no-open", "--out", str(folder)), folder


def show_suspects(request: Request) -> Response:
    """Return what is live of the page: the audit."""
    name = request.query_params.get("execution", "")
    if (found := images_of(request, name)) is None:
        raise missing(f"execution {name!r} with prepared images")
    context = partial(context_of, request, name, found, f"/data?execution={name}")
    return live(request, "suspects.html", context, also=(int(time.monotonic()), commands.running()))


def start_audit(request: Request) -> Response:
    name = str(form_of(request).get("execution", ""))
    if images_of(request, name) is None:
        raise missing(f"execution {name!r} with prepared images")
    commands.start(audit_of(request, name)[0])
    return go_to(f"/data?execution={name}#suspects")


def correct(request: Request) -> Response:
    """Write a correction of one image, or take it back where no label is given."""
    here, form = studio(request), form_of(request)
    name, key, label, back = (str(form.get(each, "")) for each in ("execution", "image", "label", "back"))
    back = back if back.startswith("/data?") else f"/data?{urlencode({'execution': name})}"
    found = images_of(request, name)
    image = (found.images.get(key) or found.by_path.get(key)) if found else None
    if found is None or name.partition("/")[0] != here.config.pipeline.name or (image is None and label):
        raise missing(f"image {key!r} that could be corrected in execution {name!r}")
    image = image or {"path": key, "sha256": key, "original": ""}  # a row about data that was there before
    if label not in (*found.manifest["classes"], *corrections.LEFT_OUT):
        return go_to(back, problem=f"{label!r} is no class of this data; choose one, or - to leave the image out.")
    file = corrections.corrections_file(here.call.config_file, here.config.data.corrections)
    is_undone = label in ("", image["original"])

    def act() -> None:
        corrections.correct(file, image, None if is_undone else label)
        if not here.config.data.corrections:
            corrections.name_in_config(here.call.config_file, here.call.env)

    words = "is taken as it was" if is_undone else "is left out" if label == "-" else f"is {label}"
    answer = attempt(back, f"{image['path']} {words} from the next run on.", act)
    answer.headers["location"] += f"#{path_text(key)}"
    return answer


def use(request: Request) -> Response:
    """Make the corrections a part of the pipeline, and go to where it is started."""
    here = studio(request)
    commands.start(command := here.call.command("upsert")).wait()
    if problem := commands.failure(command):
        return go_to("/data", problem=problem)
    return go_to(f"/start/{path_text(here.config.pipeline.name)}")


def show_picture(request: Request) -> Response:
    """Return one prepared image, small."""
    name = request.path_params["name"]
    with suppress(ServiceError):
        if found := images_of(request, "{pipeline}/{execution}".format(**request.path_params)):
            content, headers = found.thumbnail(name), {"cache-control": "private, max-age=86400"}
            return Response(content, media_type="image/jpeg", headers=headers)
    raise missing(f"image {name!r} in the data of this execution")


ROUTES = [
    Route("/data", show_data),
    Route("/data/suspects", show_suspects),
    Route("/data/audit", start_audit, methods=["POST"]),
    Route("/data/correct", correct, methods=["POST"]),
    Route("/data/use", use, methods=["POST"]),
    Route("/pictures/{pipeline}/{execution}/{name}", show_picture),
]
