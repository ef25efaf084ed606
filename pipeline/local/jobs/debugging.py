"""What the Debug* and Profiler* fields of a training job ask for: tensors and profile in S3, and the verdicts of rules.

As on the service, `<S3OutputPath>/<job>/debug-output` and `/profiler-output` grow while the job runs, and rules are
judged beside it from there (AWS guide, "debugger-createtrainingjob-api"). Two things differ: the rules are those of
steps/watch, under AWS's semantics, in one process outside of the job's sandbox; and the job waits for their verdicts.
Whatever becomes of that process, the job ends as it would without.
"""

import asyncio
import contextlib
import json
import os
import sys
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pipeline.local.jobs.runtime import Job, LiveFolder, Runtime, arn, inside, now
from pipeline.local.sandbox.environment import JOB_VARIABLE
from pipeline.local.sandbox.process import JobDirectory
from pipeline.local.store.state import Document
from pipeline.paths import STEPS

MODULE = "watch.collect.observer"
TENSORS, PROFILE = "/opt/ml/output/tensors", "/opt/ml/output/profiler"  # where smdebug writes if nobody says otherwise
END_MARKER = "training_job_end.ts"  # which smdebug leaves to the service where TRAINING_JOB_NAME is set
STATUSES = {  # what is asked for -> what DescribeTrainingJob answers
    "DebugRuleConfigurations": "DebugRuleEvaluationStatuses",
    "ProfilerRuleConfigurations": "ProfilerRuleEvaluationStatuses",
}
DEFAULT_INTERVAL_MS = 500
SECONDS_UNTIL_START = 1.0  # for the script to have begun
SECONDS_BETWEEN_LOOKS = 0.5
VERDICT_SECONDS = 60.0  # that the rules may take once the job has ended
ENDING_SECONDS = 5.0
DETAILS_CHARACTERS = 1024
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


class Debugging:
    """The evaluators of one job.

    Attributes:
        statuses: of every rule, as DescribeTrainingJob answers them; `members` has them under their names.
        stopped_by: the sentence of the rule whose action stopped the job, if one did.
    """

    def __init__(self, name: str, request: Mapping[str, Any], runtime: Runtime) -> None:
        self.name, self.runtime = name, runtime
        job = runtime.job("TrainingJob", name)
        self.log, self.folder = job.log, job.folder / "debugging"
        self.hook = request.get("DebugHookConfig")
        profiler = request.get("ProfilerConfig")
        self.profiler = profiler if profiler and not profiler.get("DisableProfiler") else None
        self.configurations = [each for member in STATUSES for each in request.get(member) or ()]
        self.members: Document = {}
        if profiler is not None:
            self.members["ProfilingStatus"] = "Enabled" if self.profiler else "Disabled"
        for member, answered in STATUSES.items():
            if rules := [rule["RuleConfigurationName"] for rule in request.get(member) or ()]:
                self.members[answered] = [self.begun(rule) for rule in rules]
        self.statuses = [status for answered in STATUSES.values() for status in self.members.get(answered, ())]
        default = request["OutputDataConfig"]["S3OutputPath"]
        self.tensors_uri = self.uri(self.hook or {"S3OutputPath": default}, "debug-output")
        self.profile_uri = self.uri({"S3OutputPath": default, **(self.profiler or {})}, "profiler-output")
        self.stopped_by: str | None = None
        self.said: list[str] = []  # what the log does not have yet
        self.ended, self.is_cancelled = asyncio.Event(), False
        self.process: asyncio.subprocess.Process | None = None

    def uri(self, config: Mapping[str, Any], name: str) -> str:
        """Return where the service puts them: SDK 2, `latest_job_debugger_artifacts_path` and `_profiler_`."""
        return f"{config['S3OutputPath'].rstrip('/')}/{self.name}/{name}"

    def begun(self, rule: str) -> Document:
        """Return the status of a rule whose evaluation begins; it is a processing job on the service."""
        job = f"{self.name[:30]}-{rule[:20]}-{zlib.crc32(f'{self.name} {rule}'.encode()):08x}".lower()
        known = {"RuleConfigurationName": rule, "RuleEvaluationJobArn": arn("processing-job", job)}
        return {**known, "RuleEvaluationStatus": "InProgress", "LastModifiedTime": now()}

    def live_folders(self, host: JobDirectory) -> Iterator[LiveFolder]:
        """Yield what is uploaded of a host while it runs; a StepFailure if it is not below /opt/ml."""
        asked = [(self.hook, TENSORS, self.tensors_uri), (self.profiler, PROFILE, self.profile_uri)]
        for config, usual, uri in asked:
            if config is not None:
                path = config.get("LocalPath", usual)
                inside(host, path)
                yield LiveFolder(host, path, uri, self.runtime.storage)

    @property
    def is_wanted(self) -> bool:
        """Return whether there is anything to judge or to sample."""
        return bool(self.configurations or self.profiler)

    async def follow(self, job: Job) -> None:
        """Sample and judge until the job has ended and its verdicts are there; every change is saved."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.ended.wait(), SECONDS_UNTIL_START)
        try:
            await self.start()
        except OSError as problem:
            return self.give_up(job, f"InternalServerError: the rules could not be judged: {problem}")
        assert self.process is not None
        ending = asyncio.create_task(self.process.wait())
        while not ending.done():
            await asyncio.wait([ending], timeout=SECONDS_BETWEEN_LOOKS)
            self.take(job)
        with contextlib.suppress(OSError):
            words = (self.folder / "observer.log").read_text(errors="replace").strip().splitlines()[-1:]
            code = self.process.returncode
            self.give_up(job, f"InternalServerError: the rules' process ended with {': '.join([str(code), *words])}")

    async def conclude(self, following: asyncio.Task[None], *, is_cancelled: bool) -> None:
        """The job has ended: have the rest judged, unless it was stopped from outside; nothing is left running."""
        self.is_cancelled = is_cancelled
        with contextlib.suppress(OSError):
            if self.hook and self.runtime.storage.exists(self.tensors_uri):
                self.runtime.storage.write(f"{self.tensors_uri}/{END_MARKER}", b"")
            self.folder.mkdir(parents=True, exist_ok=True)
            if not is_cancelled:
                (self.folder / "finished.json").write_text("{}")
        self.ended.set()
        for seconds, end in ((0 if is_cancelled else VERDICT_SECONDS, "terminate"), (ENDING_SECONDS, "kill")):
            await asyncio.wait([following], timeout=seconds)
            if self.process and self.process.returncode is None:
                getattr(self.process, end)()
        await asyncio.wait([following], timeout=ENDING_SECONDS)
        following.cancel()

    async def start(self) -> None:
        """Start the process that samples and judges."""
        storage = self.runtime.storage
        profile = storage.path(self.profile_uri) if self.profiler else self.folder / "samples"
        for folder in (self.folder / "rules", profile):
            folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "profile").unlink(missing_ok=True)
        (self.folder / "profile").symlink_to(profile, target_is_directory=True)
        config = {
            "output_dir": str(self.folder),
            "tensors_dir": str(storage.path(self.tensors_uri)),
            "requests": self.configurations,
            "sample_interval_ms": (self.profiler or {}).get("ProfilingIntervalInMilliseconds", DEFAULT_INTERVAL_MS),
            "pid": process_of(self.log.parent),
            "node": "algo-1",
            "parent": os.getpid(),
        }
        file = self.folder / "rules" / "observer.json"
        file.write_text(json.dumps(config))
        with (self.folder / "observer.log").open("wb") as log:
            self.process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-P", "-m", MODULE, str(file)),
                env={**os.environ, **ONE_THREAD, "PYTHONPATH": str(STEPS)},
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=log,
                start_new_session=True,
            )

    def take(self, job: Job) -> None:
        """Take over what the rules have found so far, and act where an action asks for it."""
        try:
            found = json.loads((self.folder / "rules/status.json").read_bytes())["rules"]
            rules = {rule["name"]: rule for rule in found}
        except (OSError, ValueError, LookupError, TypeError):
            return
        for status in self.statuses:
            rule = rules.get(status["RuleConfigurationName"])
            if rule and rule["status"] != status["RuleEvaluationStatus"]:
                self.change(status, rule["status"], details(rule))
                job.save(**self.members)
                if rule["status"] == "IssuesFound" and rule["action"] == "stop":
                    self.stop(job, status["RuleConfigurationName"], details(rule))

    def change(self, status: Document, verdict: str, sentence: str) -> None:
        status.update(RuleEvaluationStatus=verdict, LastModifiedTime=now())
        if sentence:
            status["StatusDetails"] = sentence[:DETAILS_CHARACTERS]
        if verdict != "NoIssuesFound":
            self.say(f"{status['RuleConfigurationName']}: {verdict}{f': {sentence}' if sentence else ''}")

    def say(self, line: str) -> None:
        """Print a line to the job's log; once the script has ended, only after its last line has been read."""
        self.said.append(line)
        if not self.ended.is_set():
            self.print_lines()

    def print_lines(self) -> None:
        """Print what has not been printed."""
        with contextlib.suppress(OSError), self.log.open("a") as log:
            log.write("".join(f"{line}\n" for line in self.said))
        self.said.clear()

    def stop(self, job: Job, rule: str, sentence: str) -> None:
        """Stop the job as the action StopTraining does (smdebug 1.0.34, rules/action): by the prefix of its name.

        With a prefix that several running jobs have, or another has, nothing is stopped. Without one the SDK fills in
        the name of the job, which a pipeline's definition cannot know: then it is the rule's own.
        """
        given = next(each for each in self.configurations if each["RuleConfigurationName"] == rule)
        prefix = stop_prefix(given.get("RuleParameters", {}).get("action_json", "")) or self.name
        jobs = self.runtime.state.with_status("TrainingJob", "InProgress")
        running = [found["TrainingJobName"] for found in jobs]
        matching = [name for name in running if name.lower().startswith(prefix.lower())]
        if matching != [self.name]:
            named = ", ".join(matching) or "none"
            self.say(f"{rule}: nothing is stopped, since training_job_prefix {prefix!r} names {named}.")
        elif self.stopped_by is None:
            self.stopped_by = f"Rule {rule} has stopped the training job: {sentence}"
            job.stop()

    def give_up(self, job: Job, reason: str) -> None:
        """Without a verdict there is an Error that says why, or Stopped with the job."""
        self.take(job)
        for status in self.statuses:
            if status["RuleEvaluationStatus"] == "InProgress":
                self.change(status, *(("Stopped", "") if self.is_cancelled else ("Error", reason)))
        job.save(**self.members)


def details(rule: Mapping[str, Any]) -> str:
    """Return why a rule's status is what it is: what it found first, how it failed, or why it says little."""
    for finding in rule.get("fired") or ():
        return str(finding["sentence"])
    lines = (rule.get("traceback") or "").strip().splitlines()
    return lines[-1] if lines else str(rule.get("note") or "")


def stop_prefix(action_json: str) -> str:
    """Return the training_job_prefix of the action StopTraining, one of a list or alone; nothing if there is none."""
    with contextlib.suppress(ValueError, AttributeError):
        actions = json.loads(action_json.lower())
        for action in actions if isinstance(actions, list) else [actions]:
            if action.get("name") == "stoptraining":
                return str(
                    action.get("training_job_prefix") or action.get("parameters", {}).get("training_job_prefix", "")
                )
    return ""


def process_of(job_folder: Path) -> int | None:
    """Return the first process of a job as this machine numbers it, if it can be seen (on Linux)."""
    entry = os.fsencode(f"{JOB_VARIABLE}={job_folder.resolve()}")
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, ValueError):
            if entry in (folder / "environ").read_bytes().split(b"\0"):
                found.append(int(folder.name))
    return min(found, default=None)
