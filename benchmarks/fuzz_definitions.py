"""Mutated pipeline definitions: each is checked, and run or refused in sentences; no exception of Python's may show.

    python benchmarks/fuzz_definitions.py                            20,000 in process, then 100 as whole runs
    python benchmarks/fuzz_definitions.py --minutes 5 --runs 900     as many as five minutes of each allow
    python benchmarks/fuzz_definitions.py --seed 7 --case 123        what becomes of one case

In process is everything that happens before a run starts: reading, both lists of rules, parameters, graph, expressions,
requests, what is ignored, what an update would change. A whole run is `run_pipeline.py run --definition` in a process
of its own, of steps that take no time: nine of ten are mutants that the checker accepts, so that the runner meets them.
Seed and number decide a case. The status is 1 when one failed.
"""

import argparse
import copy
import json
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(REPOSITORY)]

from pipeline.definition.check import check  # noqa: E402 - found by the line above
from pipeline.definition.diff import differences  # noqa: E402
from pipeline.definition.parameters import bind  # noqa: E402
from pipeline.definition.steps import (  # noqa: E402
    STEP_TYPES,
    load_definition,
    read_graph,
)
from pipeline.errors import PipelineError  # noqa: E402
from pipeline.local.checks.definition import refusals, remarks  # noqa: E402
from pipeline.local.checks.requests import as_request  # noqa: E402
from pipeline.local.engine.values import Scope, holds, resolve  # noqa: E402

CASES = (REPOSITORY / "tests/definition/cases/definition.json",)  # compiled by the SDK
SIGNS = ("Traceback (most recent call last)", "InternalServerError of the local runner")
PATIENCE_SECONDS = 60
TRIES = 50  # for a mutant that the checker accepts
FUNCTION = "def handler(event, context):\n    return {'statusCode': 200, 'text': 'a', 'number': 1}\n"
EXPRESSIONS: tuple[Any, ...] = (
    {"Get": "Parameters.AccuracyThreshold"},
    {"Get": "Steps.PrepareData"},
    {"Get": "Steps.A.ProcessingOutputConfig.Outputs['o'].S3Output.S3Uri"},
    {"Get": "Steps.A.ProcessingOutputConfig.Outputs"},
    {"Get": "Execution.PipelineName"},
    {"Get": "Execution"},
    {"Get": "..[']"},
    {"Get": ""},
    {"Get": "PipelineExperimentConfig.ExperimentName"},
    {"Get": "Steps.A.PropertyFiles.Report"},
    {"Std:Join": {"On": "/", "Values": [1, None, {"Get": "Parameters.N"}]}},
    {"Std:Join": {"On": "/", "Values": ["a", {"Get": "Parameters.N"}]}},
    {"Std:Join": []},
    {"Std:JsonGet": {"PropertyFile": {"Get": "Steps.A.PropertyFiles.Report"}, "Path": "a[99999999999999999999].b"}},
    {"Std:JsonGet": {"S3Uri": 1, "Path": None}},
    {"Std:Nothing": None},
)
JUNK: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 1.5, 10**9, 10**18, 10**400, 1e308, -0.0, float("nan"), float("inf")),
    *("", "x", " ", "a b", "é", "\u202e", "\0", "\ud800", "x" * 5000, "9" * 5000, "../..", "s3://", "s3://b/k", "s3:///"),
    *("arn:aws:lambda:us-east-1:1:function:", "P1D", "PT9999999999999H", "True", "None", "[", "(?P<", "*", "-", "{}"),
    *([], {}, [[]], [None], [1, "a"], {"": ""}, {"a": None}, {"Name": "A"}, {"Step": "A", "Trigger": "Any"}),
)  # fmt: skip
NAMES = ("", "Name", "Type", "Get", "Std:Join", "Arguments", "S3Uri", "é", "x" * 300, "HyperParameters", "Steps")


def noop_definition() -> dict[str, Any]:
    """Steps of every kind that takes no time, for whole runs."""
    code = {"InputName": "code", "S3Input": {"S3Uri": "s3://b/code/run.py", "LocalPath": "/opt/ml/processing/code"}}
    uri = {"Std:Join": {"On": "/", "Values": ["s3://b/out", {"Get": "Execution.PipelineExecutionId"}]}}
    output = {"OutputName": "o", "S3Output": {"S3Uri": uri, "LocalPath": "/opt/ml/processing/o"}}
    arguments = {
        "AppSpecification": {"ImageUri": "i", "ContainerEntrypoint": ["true"], "ContainerArguments": ["--n", "1"]},
        "ProcessingResources": {"ClusterConfig": {"InstanceType": "ml.m5.large", "InstanceCount": 1}},
        "ProcessingInputs": [code],
        "ProcessingOutputConfig": {"Outputs": [output]},
        "Environment": {"A": {"Get": "Parameters.N"}},
        "StoppingCondition": {"MaxRuntimeInSeconds": 60},
    }
    retries = [{"ExceptionType": ["Step.THROTTLING"], "IntervalSeconds": 1, "BackoffRate": 2.0, "MaxAttempts": 2}]
    report = [{"PropertyFileName": "Report", "OutputName": "o", "FilePath": "r.json"}]
    first = {"Name": "A", "Type": "Processing", "Arguments": arguments, "RetryPolicies": retries}
    first |= {"PropertyFiles": report, "CacheConfig": {"Enabled": True, "ExpireAfter": "P1D"}}
    training = {
        "AlgorithmSpecification": {"TrainingImage": "i", "ContainerEntrypoint": ["true"], "TrainingInputMode": "File"},
        "InputDataConfig": [{"ChannelName": "c", "DataSource": {"S3DataSource": {"S3Uri": "s3://b/code"}}}],
        "OutputDataConfig": {"S3OutputPath": "s3://b/models"},
        "HyperParameters": {"n": {"Get": "Parameters.N"}},
        "ResourceConfig": {"InstanceType": "ml.m5.large", "InstanceCount": 1, "VolumeSizeInGB": 1},
    }
    role = {"ExecutionRoleArn": "arn:aws:iam::000000000000:role/r"}
    container = {"Image": "i", "ModelDataUrl": {"Get": "Steps.B.ModelArtifacts.S3ModelArtifacts"}}
    compared = {"Type": "GreaterThan", "LeftValue": {"Get": "Parameters.N"}, "RightValue": 1}
    branches = {
        "Conditions": [compared, {"Type": "Not", "Condition": {"Type": "In", "QueryValue": 1, "Values": [2]}}],
        "IfSteps": [
            {
                "Name": "D",
                "Type": "Model",
                "Arguments": {"PrimaryContainer": container, **role},
            }
        ],
        "ElseSteps": [
            {"Name": "E", "Type": "Fail", "Arguments": {"ErrorMessage": {"Get": "Steps.A.ProcessingJobName"}}}
        ],
    }
    search = {
        "HyperParameterTuningJobConfig": {
            "Strategy": "Random",
            "HyperParameterTuningJobObjective": {"Type": "Maximize", "MetricName": "acc"},
            "ResourceLimits": {"MaxNumberOfTrainingJobs": {"Get": "Parameters.N"}, "MaxParallelTrainingJobs": 2},
            "ParameterRanges": {"ContinuousParameterRanges": [{"Name": "lr", "MinValue": "0.1", "MaxValue": "1"}]},
        },
        "TrainingJobDefinition": {
            **{key: value for key, value in training.items() if key != "HyperParameters"},
            "AlgorithmSpecification": {
                **training["AlgorithmSpecification"],
                "ContainerEntrypoint": ["echo", "acc=0.5"],
                "MetricDefinitions": [{"Name": "acc", "Regex": "acc=([0-9.]+)"}],
            },
            "StaticHyperParameters": {"n": "1"},
        },
    }
    texts = [{"OutputName": name, "OutputType": kind} for name, kind in (("text", "String"), ("number", "Integer"))]
    function = {"Name": "G", "Type": "Lambda", "FunctionArn": "arn:aws:lambda:us-east-1:000000000000:function:f"}
    function |= {"OutputParameters": texts, "Arguments": {"n": {"Get": "Parameters.N"}, "s": [1, None]}}
    text = {"Std:Join": {"On": "-", "Values": [{"Get": "Steps.G.OutputParameters['text']"}, 1, True]}}
    variant = {"VariantName": "v", "ModelName": {"Get": "Steps.H.ModelName"}, "InstanceType": "ml.m5.large"}
    endpoint_config = {"EndpointConfigName": text, "ProductionVariants": [variant | {"InitialInstanceCount": 1}]}
    register = {
        "ModelPackageGroupName": "g",
        "InferenceSpecification": {"Containers": [container], "SupportedContentTypes": ["text/csv"]},
    }
    steps = [
        first,
        {"Name": "B", "Type": "Training", "Arguments": training, "DependsOn": ["A"]},
        {"Name": "C", "Type": "Condition", "Arguments": branches, "DependsOn": [{"Step": "B", "Trigger": "Completed"}]},
        {"Name": "F", "Type": "RegisterModel", "Arguments": register},
        function,
        {"Name": "H", "Type": "Model", "Arguments": {"PrimaryContainer": container, **role}},
        {"Name": "I", "Type": "EndpointConfig", "Arguments": endpoint_config},
        {"Name": "J", "Type": "Tuning", "Arguments": search},
    ]
    parameters = [{"Name": "N", "Type": "Integer", "DefaultValue": 3}]
    parameters.append({"Name": "S", "Type": "String", "DefaultValue": "a", "EnumValues": ["a", "b"]})
    experiment = {"ExperimentName": {"Get": "Execution.PipelineName"}, "TrialName": "t"}
    return {
        "Version": "2020-12-01",
        "Metadata": {},
        "Parameters": parameters,
        "PipelineExperimentConfig": experiment,
        "Steps": steps,
    }


def mutated(base: Any, random: Random) -> Any:
    """A copy with one to five changes anywhere."""
    content = copy.deepcopy(base)
    for _ in range(random.choice((1, 1, 1, 2, 3, 5))):
        spots = list(places(content))
        if spots:
            random.choice(CHANGES)(*random.choice(spots), spots, random)
    return content


def as_text(base: Any, random: Random) -> str:
    """A mutated definition's text, which may be nested more deeply than Python can write by itself."""
    usual = sys.getrecursionlimit()
    sys.setrecursionlimit(20_000)
    try:
        return json.dumps(mutated(base, random))
    finally:
        sys.setrecursionlimit(usual)


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every member at any depth, as (what it is in, its key)."""
    waiting = [value]
    while waiting:
        item = waiting.pop()
        keys = list(item) if isinstance(item, dict) else range(len(item)) if isinstance(item, list) else ()
        for key in keys:
            yield item, key
            waiting.append(item[key])


def delete(parent: Any, key: Any, spots: list[Any], random: Random) -> None:
    """Leave a member out."""
    del parent[key]


def duplicate(parent: Any, key: Any, spots: list[Any], random: Random) -> None:
    """Have a member twice, in an object under another name."""
    if isinstance(parent, list):
        parent.insert(key, copy.deepcopy(parent[key]))
    else:
        parent[f"{key}{random.choice(('2', '', 's'))}"] = copy.deepcopy(parent[key])


def retype(parent: Any, key: Any, spots: list[Any], random: Random) -> None:
    """Junk in place of a member."""
    parent[key] = copy.deepcopy(random.choice(JUNK))


def express(parent: Any, key: Any, spots: list[Any], random: Random) -> None:
    """An expression in place of a member."""
    parent[key] = copy.deepcopy(random.choice(EXPRESSIONS))


def rename(parent: Any, key: Any, spots: list[Any], random: Random) -> None:
    """A member under another name, known or not."""
    if isinstance(parent, dict):
        others = [other for _, other in spots if isinstance(other, str)]
        parent[random.choice((*NAMES, random.choice(others or [""])))] = parent.pop(key)


def swap(parent: Any, key: Any, spots: list[Any], random: Random) -> None:
    """A member of another place."""
    other, other_key = random.choice(spots)
    parent[key] = copy.deepcopy(other[other_key])


def alter(parent: Any, key: Any, spots: list[Any], random: Random) -> None:
    """A text with a piece lost or put in."""
    if isinstance(text := parent[key], str):
        start, end = sorted((random.randint(0, len(text)), random.randint(0, len(text))))
        parent[key] = text[:start] + random.choice(("", "'", "[", "]", ".", "/", "é", " ", "\0", "{", "$")) + text[end:]


def nest(parent: Any, key: Any, spots: list[Any], random: Random) -> None:
    """A member within many others."""
    wrap: Callable[[Any], Any] = random.choice(
        (
            lambda inner: [inner],
            lambda inner: {"a": inner},
            lambda inner: {"Type": "Not", "Condition": inner},
            lambda inner: {"Type": "Or", "Conditions": [inner]},
            lambda inner: {"Std:Join": {"On": "", "Values": [inner]}},
            lambda inner: {"Name": "A", "Type": "Condition", "Arguments": {"Conditions": [], "IfSteps": [inner]}},
        )
    )
    for _ in range(random.choice((1, 2, 60, 150, 300))):
        parent[key] = wrap(parent[key])


CHANGES = (delete, duplicate, retype, retype, retype, express, rename, swap, alter, nest)


def prepare(text: str, base: str, random: Random) -> str:
    """All that happens to a definition before it runs; how that ended."""
    try:
        content = load_definition(text)
    except PipelineError as problem:
        return said(problem, "unreadable")
    problems = refusals(content)
    check(content)
    remarks(content)
    if problems:
        assert all(isinstance(problem, str) and problem for problem in problems)
        return "refused"
    request = {"PipelineDescription": "d", "RoleArn": "r", "ParallelismConfiguration": None}
    differences({"PipelineDefinition": base}, {**request, "PipelineDefinition": text})
    differences({"PipelineDefinition": text}, {**request, "PipelineDefinition": base})
    try:
        parameters = bind(content.get("Parameters"), {})
    except PipelineError as problem:
        return said(problem, "parameters refused")
    graph = read_graph(content)
    scope = Scope(
        parameters=parameters,
        steps={
            name: random.choice(({}, [], {"ProcessingOutputConfig": 1}, step.arguments))
            for name, step in graph.steps.items()
        },
        execution={"PipelineName": "p"},
        read_property_file=lambda step, name: random.choice(JUNK),
        read_json=lambda uri: random.choice(JUNK),
        experiment=content.get("PipelineExperimentConfig") or {},
    )
    for step in graph.steps.values():
        try:
            if step.type == "Condition":
                holds(step.arguments["Conditions"], scope)
            else:
                arguments, creates = resolve(step.arguments, scope), STEP_TYPES[step.type].creates
                arguments = as_request(creates, arguments) if creates else arguments
        except PipelineError as problem:
            said(problem, "")
    return "runs"


def said(problem: PipelineError, outcome: str) -> str:
    """The outcome, if the error has a text."""
    assert str(problem)
    return outcome


def run(text: str, folder: Path) -> str:
    """A whole run in a new home; how it ended, or what should not have been seen."""
    home = folder / "home"
    (home / "s3/b/code").mkdir(parents=True)
    (home / "s3/b/code/run.py").write_text("")
    (folder / "pipeline.json").write_bytes(text.encode(errors="surrogatepass"))
    (folder / "function.py").write_text(FUNCTION)
    words = ["run_pipeline.py", "run", "--definition", str(folder / "pipeline.json"), "--home", str(home)]
    words += ["--lambda", f"f={folder / 'function.py'}:handler"]
    try:
        done = subprocess.run(
            [sys.executable, *words], cwd=REPOSITORY, capture_output=True, timeout=PATIENCE_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return "FAILED: it does not end"
    output = (done.stdout + done.stderr).decode(errors="replace")
    output += "".join(file.read_text(errors="replace") for file in (home / "executions").glob("**/*") if file.is_file())
    seen = [line for line in output.splitlines() if any(sign in line for sign in SIGNS)]
    return f"FAILED: {output[-3000:]}" if seen or done.returncode not in (0, 1, 2) else f"status {done.returncode}"


def bases() -> list[Any]:
    """The definitions that are mutated."""
    return [*(json.loads(file.read_text()) for file in CASES), noop_definition()]


def in_process(case: int, seed: int, originals: list[Any]) -> str:
    """One case without a run."""
    random = Random(f"{seed}/{case}")
    base = random.choice(originals)
    text = as_text(base, random)
    try:
        return prepare(text, json.dumps(base), random)
    except Exception:  # noqa: BLE001 - what is looked for
        return f"FAILED: {traceback.format_exc()[-3000:]}"


def accepted(text: str) -> bool:
    """Whether a run of the definition would start."""
    try:
        content = load_definition(text)
        bind(content.get("Parameters"), {})
        return not refusals(content)
    except PipelineError:
        return False


def as_run(case: int, seed: int) -> str:
    """One case as a run; one of ten may be refused."""
    texts = (as_text(noop_definition(), Random(f"{seed}/run/{case}/{attempt}")) for attempt in range(TRIES))
    text = next(texts) if case % 10 == 0 else next(filter(accepted, texts))
    folder = Path(tempfile.mkdtemp(prefix="fuzz"))
    try:
        return run(text, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def main() -> int:
    """Run the cases; print how many ended how, and those that failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=20_000)
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--minutes", type=float, default=1e6, help="the time for the cases, and for the runs")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--case", type=int, help="only this one, in process and as a run")
    told = parser.parse_args()
    originals = bases()
    if told.case is not None:
        print(in_process(told.case, told.seed, originals), as_run(told.case, told.seed), sep="\n")
        return 0
    outcomes: Counter[str] = Counter()

    def ended(kind: str, number: int, deadline: float) -> None:
        if time.monotonic() < deadline:
            outcome = as_run(number, told.seed) if kind == "run" else in_process(number, told.seed, originals)
            outcomes[f"{kind}: {outcome.partition(':')[0]}"] += 1
            if outcome.startswith("FAILED"):
                print(f"{kind}, --seed {told.seed} --case {number}\n{outcome}\n", flush=True)

    for kind, count in (("in process", told.cases), ("run", told.runs)):
        deadline = time.monotonic() + told.minutes * 60
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(lambda number, kind=kind, deadline=deadline: ended(kind, number, deadline), range(count)))
    for outcome, count in sorted(outcomes.items()):
        print(f"{count:>8} {outcome}")
    return any("FAILED" in outcome for outcome in outcomes)


if __name__ == "__main__":
    sys.exit(main())
