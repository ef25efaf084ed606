"""`report`, `audit` and `drift`: commands that write a report for a browser, by scripts of steps/."""

import json
import shlex
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipeline.cli.call import Call
from pipeline.cli.output import opened, print_json
from pipeline.cli.runs import Start, say_started, start_execution
from pipeline.errors import ServiceError, UsageError
from pipeline.paths import STEPS, shown
from pipeline.service import executions
from pipeline.service.drift import BASELINE_NAME, newest_requests, put_metric, put_version
from pipeline.service.models import approved_version
from pipeline.service.reports import JSON_NAME, NothingSaved, make_report, run_job_code, training_job
from pipeline.service.status import output_of
from pipeline.service.targets import Target, in_threads, objects, service_errors, split_uri

REPORTS = "reports"  # below the home
PREPARED = ("train", "validation", "test", "embeddings", "manifest")  # outputs of PrepareData
CORRECTIONS = "corrections.csv"
CAPTURE = "capture"
DRIFTED = 3  # exit status: 1 and 2 say that nothing was compared


def report(
    call: Call,
    execution: str | None = None,
    pipeline: str | None = None,
    report_folder: Path | None = None,
    no_open: bool = False,
) -> int:
    """Write the report of an execution's training anew, print its path, open it."""
    target, arn = call.open_execution(execution, pipeline)
    name, steps = arn.rpartition("/")[2], executions.steps(target, arn)
    job = training_job(steps)
    if job is None:
        raise ServiceError(f"Execution {name} has not trained anything yet, so there is nothing to report.")
    if not job[1]:
        raise ServiceError(f"Training job {job[0]} of execution {name} has not ended yet; its report comes then.")
    folder = report_folder or call.home / REPORTS / job[0]
    try:
        page = make_report(target, steps, folder.resolve())
    except NothingSaved as problem:
        sentence = f"Training job {job[0]} of execution {name} saved no debugger files, so there is no report of it."
        raise ServiceError(sentence) from problem
    if call.as_json:
        data = str(page.with_name(JSON_NAME))
        return print_json({"execution_arn": arn, "training_job": job[0], "report": str(page), "data": data})
    print(f"{shown(page)}{opened(page, no_open=no_open)}")
    return 0


def audit(
    call: Call,
    execution: str | None = None,
    pipeline: str | None = None,
    report_folder: Path | None = None,
    no_open: bool = False,
) -> int:
    """Write the page and the file to correct; say where they are and what applies the corrections."""
    target, arn = call.open_execution(execution, pipeline)
    folder = (report_folder or call.home / REPORTS / f"audit-{arn.rpartition('/')[2]}").resolve()
    with prepared_images(target, arn) as prepared:
        run_job_code([str(STEPS / "audit.py")], "Nothing was audited", prepared_dir=prepared, report_dir=folder)
    document: dict[str, Any] = json.loads((folder / "audit.json").read_text(encoding="utf-8"))
    page, corrections = folder / "audit.html", folder / CORRECTIONS
    if call.as_json:
        return print_json({"execution_arn": arn, **document, "report": str(page), "corrections": str(corrections)})
    browser = opened(page, no_open=no_open)
    kept = call.config_file.resolve().with_name(CORRECTIONS)  # `teardown` removes what is below the home
    print(f"{document['images']:,} images: {document['wrong']:,} labels look wrong")
    print(f"Page         {shown(page)}{browser}")
    print(f"Corrections  {shown(corrections)}")
    print(f"\nNext\n  {shlex.join(['cp', shown(corrections), shown(kept)])}")
    print("      and correct its column label: the right class, or - to leave an image out")
    print(f"  corrections: {CORRECTIONS}\n      in the section data of {shown(kept.with_name(call.config_file.name))}")
    print(f"  {call.command('run')}\n      with the corrected labels")
    return 0


@contextmanager
def prepared_images(target: Target, execution_arn: str) -> Iterator[Path]:
    """Yield a folder with PrepareData's outputs by name: links on this machine, copies of what is on AWS."""
    steps, name = executions.steps(target, execution_arn), execution_arn.rpartition("/")[2]
    with tempfile.TemporaryDirectory(prefix="audit-") as scratch:
        for output in PREPARED:
            uri, folder = output_of(target, steps, output), Path(scratch) / output
            if uri is None:
                raise ServiceError(f"Execution {name} has not prepared any images yet, so there is nothing to audit.")
            names = [found for found in objects(target, uri) if "/" not in found]
            if not names:
                raise ServiceError(f"What execution {name} has prepared, {uri}, is gone; run the pipeline again.")
            if target.name == "local":
                folder.symlink_to(Path(target.where(uri)).resolve())
                continue
            folder.mkdir()
            (bucket, prefix), client = split_uri(uri), target.client("s3")
            places = [(bucket, f"{prefix}/{found}", str(folder / found)) for found in names]
            with service_errors(f"read {uri}"):
                list(in_threads(lambda place: client.download_file(*place), places))  # noqa: B023
        yield Path(scratch)


def drift(
    call: Call,
    captured: str | None = None,
    endpoint: str | None = None,
    model: str | None = None,
    last: int = 1000,
    report_folder: Path | None = None,
    publish: bool = False,
    retrain: bool = False,
    data: str | None = None,
) -> int:
    """Compare captured requests with the baselines of a model version; return 3 if there is drift."""
    config = call.config
    if publish and call.target != "aws":
        raise UsageError("drift --publish is for CloudWatch: --target aws.")
    if publish and retrain and config.drift.retrain:
        raise UsageError("With drift.retrain in pipeline.yaml, --publish starts the pipeline; leave out --retrain.")
    if data and not retrain:
        raise UsageError("drift --data names what to train with: it goes with --retrain.")
    target, name = call.open_target(reads_only=True), endpoint or config.deploy.endpoint_name
    lines = newest_requests(target, config, captured or target.placement.uri(config.pipeline.name, CAPTURE, name), last)
    version = approved_version(target, config.registry.model_package_group, model)
    folder = (report_folder or call.home / REPORTS / "drift").resolve()
    with tempfile.TemporaryDirectory(prefix="drift-") as scratch:
        put_version(target, version, Path(scratch))
        requests, baseline = Path(scratch) / "captured.jsonl", Path(scratch) / BASELINE_NAME
        requests.write_text("\n".join(lines), encoding="utf-8")
        places = {"captured": requests, "model_dir": scratch, "baseline": baseline, "report_dir": folder}
        run_job_code([str(STEPS / "drift.py")], "Drift was not judged", **places)
    document = json.loads((folder / "drift.json").read_text(encoding="utf-8"))
    if publish:
        put_metric(target, config.aws.project, name, document["drift_score"])
    document |= {"model_package_arn": version, "report": str(folder / "drift.html")}
    if not call.as_json:
        print_drift(document)
    if retrain and document["drift"]:  # the search begins as tuning.warm_start says
        document["execution_arn"] = start_execution(call, call.open_project(), call.open_target(), Start(data=data))
        if not call.as_json:
            say_started(call, document["execution_arn"])
            if not data:
                print("What has not changed is reused: without new images at data.source, or --data, the model stays.")
    if call.as_json:
        print_json(document)
    return DRIFTED if document["drift"] else 0


def print_drift(document: dict[str, Any]) -> None:
    """Print the verdicts, and where the report is."""
    verdict = "drift" if document["drift"] else "no drift"
    print(f"{document['images']} captured images against {document['reference_images']} of the training's")
    print(f"  embeddings        distance {document['distance']:.3f}  alarm from {document['threshold']:.3f}  {verdict}")
    print(f"and against {document['test_images']} of the test split")
    for name, found in document["statistics"].items():
        print(f"  {name:<16}  distance {found['distance']:.3f}  by chance  {found['by_chance']:.3f}  {found['drift']}")
    print(f"Drift score {document['drift_score']:.2f}: {verdict}\n{shown(Path(document['report']))}")
