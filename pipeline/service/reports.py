"""The training report of an execution: what the debugger left is read, and one page is written.

train.py uploads it as objects below `<S3OutputPath>/<job name>/output/debugger/`. Where there are none, it is read from
output.tar.gz beside them, into which SageMaker packs /opt/ml/output/data with all tensors (AWS guide,
"your-algorithms-training-algo-output"). Both come from a job: only regular files whose names are expected are
written. The page is made by steps/watch/report/report.py in a process of its own, as job code is.
"""

import contextlib
import io
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from pipeline.errors import PipelineError, ServiceError
from pipeline.paths import STEPS, shown
from pipeline.service import executions
from pipeline.service.executions import ENDED, job_of
from pipeline.service.targets import Target, ask, in_threads, objects, service_errors

HISTORY, VERDICTS = "history.json", "rules/status.json"
LARGEST_BYTES = 512 << 20  # of all files that are unpacked
OBJECTS, ARCHIVE, PAGE = "debugger", "output.tar.gz", "report/debugger.html"  # in the output of a job
HTML_NAME, JSON_NAME = "debugger.html", "debugger.json"
DAMAGE = (tarfile.TarError, zlib.error, EOFError, OSError, ValueError)


class NothingSaved(ServiceError):
    """A training without the debugger's files."""


def keep_report(target: Target, execution_arn: str) -> str | None:
    """Write the report of an execution's training below the local target's home, unless it is there.

    A job whose result is reused keeps its report; only another search makes it a new one. Returns a sentence if it
    cannot be written, which does not concern the execution itself.
    """
    if target.reports is None:
        return None
    steps = executions.steps(target, execution_arn)
    found = training_job(steps)
    if found and found[1]:
        saved = saved_report(target.reports / found[0])
        try:
            if saved is None or (saved.get("search") or {}).get("name") != search_job(steps):
                make_report(target, steps, target.reports / found[0])
        except NothingSaved:
            pass
        except PipelineError as problem:
            return f"There is no training report: {problem}"
    return None


def make_report(target: Target, steps: Sequence[Mapping[str, Any]], folder: Path) -> Path:
    """Write the report of an execution's training into a folder; return its page. NothingSaved if there is nothing."""
    found = training_job(steps)
    output = output_of_job(described(target, found[0])) if found else None
    with tempfile.TemporaryDirectory(prefix="training-report-") as scratch:
        output_dir, search_file = Path(scratch) / "output", Path(scratch) / "search.json"
        output_dir.mkdir()
        try:
            saved = output is not None and fetch(target, output, output_dir)
        except DAMAGE as problem:
            raise ServiceError(f"{output}/{ARCHIVE} cannot be unpacked: {problem}.") from problem
        if not saved:
            raise NothingSaved("the training saved no debugger files")
        search_file.write_text(json.dumps(search_record(target, search_job(steps))))
        words = ["-m", "watch", "report", str(output_dir)]
        run_job_code(words, "watch could not write the report", out=folder, search=search_file)
    return folder / HTML_NAME


def run_job_code(program: Sequence[str], failure: str, **options: object) -> None:
    """Run a script or module of steps/ by this interpreter, in a process of its own; a ServiceError if it fails."""
    words = [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
    environment = {"OMP_NUM_THREADS": "1"} | os.environ | {"PYTHONPATH": str(STEPS)}  # more threads would mostly wait
    command = [sys.executable, "-P", *program, *words]
    done = subprocess.run(
        command, env=environment, capture_output=True, encoding="utf-8", errors="replace", check=False
    )
    if done.returncode:
        reason = done.stderr.strip().rpartition("\n")[2] or f"exit code {done.returncode}"
        raise ServiceError(f"{failure}: {reason}")


def debug_report(target: Target, steps: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the rules' verdicts and the report's place: here its page, on AWS its object's or the archive's URI.

    Of a training without our debugger, the verdicts of the rules that its request asked for.
    """
    found = training_job(steps)
    if found and found[1]:
        folder = target.reports / found[0] if target.reports else None
        if folder and (saved := saved_report(folder)):
            return {"rules": verdicts_of(saved), "place": shown(folder / HTML_NAME)}
        with contextlib.suppress(PipelineError):
            job = described(target, found[0])
            output = output_of_job(job)
            with service_errors(f"read {output}/{OBJECTS}"):
                verdicts = target.read(uri) if target.holds(uri := f"{output}/{OBJECTS}/{VERDICTS}") else None
            if verdicts is not None:
                place = f"{output}/{OBJECTS}/{PAGE}"
                return {"rules": verdicts_of(as_json(verdicts)), "place": None if target.reports else place}
            archive = archive_of(target, output)
            if archive and (documents := small_files(archive)):
                place = f"{output}/{ARCHIVE}"
                return {"rules": verdicts_of(documents.get(VERDICTS)), "place": None if target.reports else place}
            managed = [*job.get("DebugRuleEvaluationStatuses", ()), *job.get("ProfilerRuleEvaluationStatuses", ())]
            rules = {each["RuleConfigurationName"]: each["RuleEvaluationStatus"] for each in managed}
            return {"rules": rules, "place": None}
    return {"rules": {}, "place": None}


def training_job(steps: Sequence[Mapping[str, Any]]) -> tuple[str, bool] | None:
    """Return the name of the last Training step's job, and whether it has ended; None without such a step."""
    jobs = [
        (job[1], step["StepStatus"] in ENDED) for step in steps if (job := job_of(step)) and job[0] == "TrainingJob"
    ]
    return jobs[-1] if jobs else None


def search_job(steps: Sequence[Mapping[str, Any]]) -> str | None:
    """Return the name of the last Tuning step's job."""
    return next((job[1] for step in reversed(steps) if (job := job_of(step)) and job[0] == "TuningJob"), None)


def tuning_job(target: Target, name: str) -> dict[str, Any]:
    """Return DescribeHyperParameterTuningJob; empty in the moment before the service knows the job."""
    with contextlib.suppress(ServiceError):
        return executions.describe_search(target, name)
    return {}


def search_record(target: Target, name: str | None) -> dict[str, Any] | None:
    """Return a search with every trial, as the report reads it; None if there was none or it is gone."""
    job = tuning_job(target, name) if name else {}
    if not name or not job:
        return None
    config, winner = job["HyperParameterTuningJobConfig"], job.get("BestTrainingJob", {}).get("TrainingJobName")
    objective = config.get("HyperParameterTuningJobObjective", {})
    return {
        "name": name,
        "strategy": config["Strategy"],
        "objective_metric": objective.get("MetricName"),
        "objective_type": objective.get("Type"),
        "trials": [trial_record(summary, winner) for summary in executions.trials(target, name)],
    }


def trial_record(summary: Mapping[str, Any], winner: str | None) -> dict[str, Any]:
    started, ended = summary.get("TrainingStartTime"), summary.get("TrainingEndTime")
    return {
        "name": summary["TrainingJobName"],
        "status": summary["TrainingJobStatus"],
        "hyperparameters": dict(summary.get("TunedHyperParameters", {})),
        "objective": summary.get("FinalHyperParameterTuningJobObjectiveMetric", {}).get("Value"),
        "seconds": (ended - started).total_seconds() if started and ended else None,
        "winner": summary["TrainingJobName"] == winner,
    }


def described(target: Target, job_name: str) -> dict[str, Any]:
    """Return what DescribeTrainingJob answers."""
    return ask(target, f"describe training job {job_name!r}", "describe_training_job", TrainingJobName=job_name)


def output_of_job(job: Mapping[str, Any]) -> str:
    """Return below which URI a training job's output lies."""
    return f"{job['OutputDataConfig']['S3OutputPath'].rstrip('/')}/{job['TrainingJobName']}/output"


def archive_of(target: Target, output: str) -> bytes | None:
    """Return the content of output.tar.gz in a job's output; None if it saved none."""
    with service_errors(f"read {output}/{ARCHIVE}"):
        return target.read(f"{output}/{ARCHIVE}") if target.holds(f"{output}/{ARCHIVE}") else None


def fetch(target: Target, output: str, folder: Path) -> bool:
    """Write what a report is made of below a folder, from objects or the archive; return whether there was any."""
    known = objects(target, f"{output}/{OBJECTS}") if target.holds(f"{output}/{OBJECTS}/{VERDICTS}") else {}
    if not known:
        content = archive_of(target, output)
        return content is not None and unpack(content, folder)
    names = [name for name in known if is_expected(PurePosixPath(name))]
    uris = [f"{output}/{OBJECTS}/{name}" for name in names]
    with service_errors(f"read {output}/{OBJECTS}"):
        for name, content in zip(names, in_threads(target.read, uris), strict=True):
            write(folder / name, content)
    return True


def saved_report(folder: Path) -> dict[str, Any] | None:
    """Return a report's JSON, if both its files are there; the JSON is written last."""
    with contextlib.suppress(OSError):
        document = as_json((folder / JSON_NAME).read_bytes())
        if isinstance(document, dict) and (folder / HTML_NAME).is_file():
            return document
    return None


def verdicts_of(document: Any) -> dict[str, str]:
    """Return rule -> status, of rules/status.json or of a report, which hold them alike."""
    rules = document.get("rules") if isinstance(document, dict) else None
    entries = [rule for rule in rules if isinstance(rule, dict)] if isinstance(rules, list) else []
    return {str(rule["name"]): str(rule["status"]) for rule in entries if {"name", "status"} <= rule.keys()}


def small_files(content: bytes) -> dict[str, Any]:
    """Return the JSON of the history and the verdicts by name, as far as the archive holds them."""
    found: dict[str, Any] = {}
    with contextlib.suppress(*DAMAGE):
        for name, stream in expected_files(content):
            if name in (HISTORY, VERDICTS):
                found[name] = as_json(stream.read())
            if len(found) == 2:
                break
    return found


def as_json(content: bytes) -> Any:
    """Return a document; None for what is none."""
    with contextlib.suppress(ValueError, RecursionError):
        return json.loads(content)
    return None


def unpack(content: bytes, folder: Path) -> bool:
    """Write what a report is made of below a folder; return whether there was any history or verdict."""
    for name, stream in expected_files(content):
        write(folder / name, stream.read())
    return (folder / HISTORY).is_file() or (folder / VERDICTS).is_file()


def write(path: Path, content: bytes) -> None:
    """Write a file, and make its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def is_expected(name: PurePosixPath) -> bool:
    """Return whether a report is made of a file: its name leads nowhere else, and it is no tensor."""
    is_known = str(name) == HISTORY or (len(name.parts) > 1 and name.parts[0] in ("rules", "profile", "panels"))
    return is_known and ".." not in name.parts


def expected_files(content: bytes) -> Iterator[tuple[str, Any]]:
    """Yield the regular files that a report is made of; no link, no name that leads elsewhere, no tensor."""
    left = LARGEST_BYTES
    with tarfile.open(fileobj=io.BytesIO(content), mode="r:gz") as archive:
        for member in archive:
            name = PurePosixPath(member.name)
            if member.isreg() and is_expected(name):
                left -= member.size
                if left < 0:
                    raise ValueError(f"its files are larger than {LARGEST_BYTES >> 20} MiB")
                yield str(name), archive.extractfile(member)
