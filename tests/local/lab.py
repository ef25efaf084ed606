"""A home with an S3 of plain files, definitions as the SDK writes them, and the real command line run over both."""

import gzip
import importlib.util
import io
import json
import os
import runpy
import shlex
import subprocess
import sys
import tarfile
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.local.store.state import State

ROOT = Path(__file__).parents[2]
SDK = Path(str(importlib.util.find_spec("sagemaker").submodule_search_locations[0]))  # type: ignore[union-attr,index]
Json = dict[str, Any]
IMAGE = "123456789012.dkr.ecr.us-east-1.amazonaws.com/any:1"
ROLE = "arn:aws:iam::123456789012:role/pipeline"
DRIVER_COMMAND = (
    "chmod +x /opt/ml/input/data/sm_drivers/sm_train.sh && /opt/ml/input/data/sm_drivers/sm_train.sh"  # as SDK 3.27
)


@dataclass(frozen=True)
class Report:
    """What one `run --definition ... --json` said."""

    home: Path
    code: int
    stdout: str
    stderr: str

    @property
    def document(self) -> Json:
        """The JSON document on standard output."""
        assert self.stdout, self.stderr
        found: Json = json.loads(self.stdout)
        return found

    @property
    def statuses(self) -> dict[str, str]:
        """Step name -> status, with the reason of a failure."""
        return {row["name"]: row["failure_reason"] or row["status"] for row in self.document["steps"]}

    @property
    def reused(self) -> list[str]:
        """The steps that the cache had."""
        return [row["name"] for row in self.document["steps"] if row["cache_hit"]]

    def step(self, name: str) -> Json:
        """A step's row."""
        return next(row for row in self.document["steps"] if row["name"] == name)

    def record(self, name: str) -> Json:
        """What the state holds of a step: Metadata, Properties, AttemptCount."""
        state = State(self.home)
        steps = state.steps(self.document["execution_arn"])
        state.close()
        return next(step for step in steps if step["StepName"] == name)

    def properties(self, name: str) -> Json:
        """A step's property document."""
        found: Json = self.record(name)["Properties"]
        return found

    def log(self, name: str) -> str:
        """What a step's job printed."""
        job: str = self.record(name)["Job"]
        return (self.home / "jobs" / job / "log.txt").read_text(errors="replace")

    def printed(self, name: str) -> Any:
        """The JSON on the last line of a step's log."""
        return json.loads(self.log(name).splitlines()[-1])


@dataclass(frozen=True)
class Lab:
    """One home."""

    folder: Path

    @property
    def home(self) -> Path:
        """The home."""
        return self.folder / "home"

    def path(self, uri: str) -> Path:
        """Where an object lies."""
        return self.home / "s3" / uri.removeprefix("s3://")

    def put(self, uri: str, content: str | bytes) -> str:
        """Store an object; its URI."""
        path = self.path(uri)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return uri

    def get(self, uri: str) -> str:
        """An object's text."""
        return self.path(uri).read_text()

    def archive(self, uri: str, files: Mapping[str, str]) -> str:
        """Store a .tar.gz of files; its URI. The same files give the same bytes."""
        stream = io.BytesIO()
        packed = gzip.GzipFile(fileobj=stream, mode="wb", mtime=0)
        with packed, tarfile.open(fileobj=packed, mode="w") as archive:
            for name, text in files.items():
                content = source(text).encode()
                member = tarfile.TarInfo(name)
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
        return self.put(uri, stream.getvalue())

    def function(self, code: str, name: str = "fn") -> str:
        """A Lambda function's file; what --lambda takes."""
        path = self.folder / f"{name}.py"
        path.write_text(source(code))
        return f"{name}={path}:handler"

    def processing(
        self,
        name: str,
        code: str,
        *,
        inputs: Mapping[str, Any] | None = None,
        outputs: Sequence[str] = (),
        arguments: Sequence[Any] = (),
        environment: Mapping[str, Any] | None = None,
        **members: Any,
    ) -> Json:
        """A step as ScriptProcessor's: the script is one object, inputs and outputs lie under their names."""
        uri = self.put(f"s3://bucket/code/{name}/script.py", source(code))
        sources = [s3_input(n, u, f"/opt/ml/processing/input/{n}") for n, u in (inputs or {}).items()]
        request: Json = {
            "ProcessingResources": {
                "ClusterConfig": {"InstanceType": "ml.m5.large", "InstanceCount": 1, "VolumeSizeInGB": 30}
            },
            "AppSpecification": {
                "ImageUri": IMAGE,
                "ContainerArguments": list(arguments),
                "ContainerEntrypoint": ["python3", "/opt/ml/processing/input/code/script.py"],
            },
            "RoleArn": ROLE,
            "ProcessingInputs": [*sources, s3_input("code", uri, "/opt/ml/processing/input/code")],
            "ProcessingOutputConfig": {"Outputs": [s3_output(name, output) for output in outputs]},
            "Environment": dict(environment or {}),
        }
        return {"Name": name, "Type": "Processing", "Arguments": request, **members}

    def training(self, name: str, code: str, hyperparameters: Mapping[str, Any] | None = None, **more: Any) -> Json:
        """A step whose script the toolkit starts: sourcedir.tar.gz and its program are hyperparameters."""
        uri = self.archive(f"s3://bucket/code/{name}/sourcedir.tar.gz", {"train.py": code})
        source_names = {"sagemaker_program": "train.py", "sagemaker_submit_directory": uri}
        return training_step(name, {**(hyperparameters or {}), **source_names}, **more)

    def drivers(
        self,
        name: str,
        files: Mapping[str, str | bytes],
        source_code: Mapping[str, Any],
        hyperparameters: Mapping[str, Any] | None = None,
        distributed: Mapping[str, Any] | None = None,
        **more: Any,
    ) -> Json:
        """A step as ModelTrainer's with SourceCode: the channels code and sm_drivers, the latter of the SDK's files."""
        for path, text in files.items():
            self.put(f"s3://bucket/{name}/code/{path}", source(text) if isinstance(text, str) else text)
        for path, content in sdk_drivers(source_code, distributed).items():
            self.put(f"s3://bucket/{name}/sm_drivers/{path}", content)
        channels = more.pop("channels", {})
        step = training_step(
            name,
            hyperparameters or {},
            channels={**channels, **{n: f"s3://bucket/{name}/{n}" for n in ("code", "sm_drivers")}},
            **more,
        )
        step["Arguments"]["AlgorithmSpecification"] |= {
            "ContainerEntrypoint": ["/bin/bash"],
            "ContainerArguments": ["-c", DRIVER_COMMAND],
        }
        return step

    def tuning(
        self,
        name: str,
        code: str,
        ranges: Mapping[str, list[Json]],
        *,
        jobs: int | None = 3,
        parallel: int = 2,
        config: Mapping[str, Any] | None = None,
        static: Mapping[str, Any] | None = None,
        **more: Any,
    ) -> Json:
        """A search by the objective `score`, of whose training jobs the toolkit starts the script."""
        template = self.training(name, code, static, metrics={"score": "score=([-0-9.]+)"}, **more)["Arguments"]
        limits = {"MaxParallelTrainingJobs": parallel, **({"MaxNumberOfTrainingJobs": jobs} if jobs else {})}
        search = {
            "Strategy": "Random",
            "ResourceLimits": limits,
            "HyperParameterTuningJobObjective": {"Type": "Maximize", "MetricName": "score"},
            "ParameterRanges": ranges,
            "TrainingJobEarlyStoppingType": "Off",
            "RandomSeed": 1,
            **(config or {}),
        }
        template["StaticHyperParameters"] = template.pop("HyperParameters")
        arguments = {"HyperParameterTuningJobConfig": search, "TrainingJobDefinition": template}
        return {"Name": name, "Type": "Tuning", "Arguments": arguments}

    def run(
        self,
        *steps: Json,
        parameters: Sequence[Json] = (),
        functions: Sequence[str] = (),
        options: Sequence[object] = (),
        environment: Mapping[str, str] | None = None,
        **members: Any,
    ) -> Report:
        """Run a definition of these steps."""
        definition = {"Version": "2020-12-01", "Parameters": list(parameters), "Steps": list(steps), **members}
        return self.run_definition(definition, functions=functions, options=options, environment=environment)

    def run_definition(
        self,
        definition: Any,
        *,
        functions: Sequence[str] = (),
        options: Sequence[object] = (),
        environment: Mapping[str, str] | None = None,
    ) -> Report:
        """Run any definition."""
        words = self.command(definition, functions, options)
        settings = {**os.environ, **(environment or {})}
        done = subprocess.run(words, capture_output=True, text=True, timeout=60, env=settings, cwd=self.folder)
        return Report(self.home, done.returncode, done.stdout, done.stderr)

    def command(self, definition: Any, functions: Sequence[str] = (), options: Sequence[object] = ()) -> list[str]:
        """The words of `run --definition`."""
        file = self.folder / "lab.json"
        file.write_text(definition if isinstance(definition, str) else json.dumps(definition))
        given = [word for function in functions for word in ("--lambda", function)]
        words = ["run", "--definition", file, "--home", self.home, "--json", *given, *options]
        return [sys.executable, str(ROOT / "run_pipeline.py"), *map(str, words)]


def sdk_drivers(source_code: Mapping[str, Any], distributed: Mapping[str, Any] | None) -> dict[str, bytes]:
    """The channel sm_drivers as ModelTrainer of SDK 3.27 writes it; MPI is told by its options, as in the SDK."""
    templates = runpy.run_path(str(SDK / "train/templates.py"))
    drivers = SDK / "train/container_drivers"
    files = {str(path.relative_to(drivers)): path.read_bytes() for path in drivers.rglob("*.py")}
    files["scripts/install_requirements.py"] = (SDK / "core/utils/install_requirements.py").read_bytes()
    parts = dict.fromkeys(("working_dir", "install_requirements"), "")
    if source_dir := source_code.get("source_dir", "src"):
        archive = f"tar -xzf {Path(source_dir).name} \n" if source_dir.endswith(".tar.gz") else ""
        parts["working_dir"] = f"cd /opt/ml/input/data/code \n{archive}"
    if requirements := source_code.get("requirements"):
        parts["install_requirements"] = templates["INSTALL_REQUIREMENTS"].format(requirements_file=requirements)
    if command := source_code.get("command"):
        words = [*command.split(), *(shlex.quote(str(word)) for word in source_code.get("args") or [])]
        driver = templates["EXECUTE_BASE_COMMANDS"].format(base_command=" ".join(words))
    elif distributed:
        name = "mpi_driver.py" if "mpi_additional_options" in distributed else "torchrun_driver.py"
        driver = templates["EXEUCTE_DISTRIBUTED_DRIVER"].format(driver_name="any", driver_script=name)
    else:
        driver = templates["EXECUTE_BASIC_SCRIPT_DRIVER"]
    script = templates["TRAIN_SCRIPT_TEMPLATE"].format(execute_driver=driver, **parts)
    return {
        **files,
        "sm_train.sh": script.encode(),
        "sourcecode.json": json.dumps({"source_dir": "src", **source_code}).encode(),
        "distributed.json": json.dumps(distributed or {}).encode(),
    }


def source(code: str) -> str:
    """Source code as it stands indented in a test."""
    return textwrap.dedent(code).lstrip("\n")


def get(path: str) -> Json:
    """A `Get` expression."""
    return {"Get": path}


def join(on: str, *values: Any) -> Json:
    """A `Std:Join` expression."""
    return {"Std:Join": {"On": on, "Values": list(values)}}


def json_get(step: str, path: str, file: str = "Report") -> Json:
    """A `Std:JsonGet` of a property file."""
    return {"Std:JsonGet": {"PropertyFile": get(f"Steps.{step}.PropertyFiles.{file}"), "Path": path}}


def parameter(name: str, kind: str, default: Any = None, **members: Any) -> Json:
    """A declared parameter."""
    return {"Name": name, "Type": kind, **({} if default is None else {"DefaultValue": default}), **members}


def compare(kind: str, left: Any, right: Any) -> Json:
    """A comparison."""
    return {"Type": kind, "LeftValue": left, "RightValue": right}


def condition(
    name: str, conditions: list[Json], if_steps: Sequence[Json] = (), else_steps: Sequence[Json] = ()
) -> Json:
    """A Condition step."""
    arguments = {"Conditions": conditions, "IfSteps": list(if_steps), "ElseSteps": list(else_steps)}
    return {"Name": name, "Type": "Condition", "Arguments": arguments}


def fail(name: str, message: Any) -> Json:
    """A Fail step."""
    return {"Name": name, "Type": "Fail", "Arguments": {"ErrorMessage": message}}


def call(name: str, event: Json, outputs: Mapping[str, str], function: str = "fn", **members: Any) -> Json:
    """A Lambda step; `outputs` is name -> type."""
    return {
        "Name": name,
        "Type": "Lambda",
        "Arguments": event,
        "FunctionArn": f"arn:aws:lambda:us-east-1:123456789012:function:{function}",
        "OutputParameters": [{"OutputName": n, "OutputType": kind} for n, kind in outputs.items()],
        **members,
    }


def s3_input(name: str, uri: Any, local_path: str) -> Json:
    """A ProcessingInput."""
    s3 = {"S3Uri": uri, "LocalPath": local_path, "S3DataType": "S3Prefix", "S3InputMode": "File"}
    return {"InputName": name, "S3Input": {**s3, "S3DataDistributionType": "FullyReplicated"}}


def s3_output(step: str, name: str) -> Json:
    """A ProcessingOutput of which each execution has its own."""
    uri = join("/", "s3:/", "bucket/out", get("Execution.PipelineExecutionId"), step, name)
    local_path = f"/opt/ml/processing/output/{name}"
    return {"OutputName": name, "S3Output": {"S3Uri": uri, "LocalPath": local_path, "S3UploadMode": "EndOfJob"}}


def output_uri(step: str, name: str) -> Json:
    """Where a Processing step's output is."""
    return get(f"Steps.{step}.ProcessingOutputConfig.Outputs['{name}'].S3Output.S3Uri")


def training_step(
    name: str,
    hyperparameters: Mapping[str, Any],
    *,
    channels: Mapping[str, Any] | None = None,
    metrics: Mapping[str, str] | None = None,
    environment: Mapping[str, Any] | None = None,
    max_runtime_seconds: int = 3600,
    more: Mapping[str, Any] | None = None,
    **members: Any,
) -> Json:
    """A Training step; `more` are members of its request."""
    data = [
        {"ChannelName": n, "DataSource": {"S3DataSource": {"S3DataType": "S3Prefix", "S3Uri": u}}, "InputMode": "File"}
        for n, u in (channels or {}).items()
    ]
    request: Json = {
        "AlgorithmSpecification": {
            "TrainingInputMode": "File",
            "TrainingImage": IMAGE,
            "MetricDefinitions": [{"Name": n, "Regex": regex} for n, regex in (metrics or {}).items()],
        },
        "HyperParameters": dict(hyperparameters),
        "InputDataConfig": data,
        "ResourceConfig": {"InstanceType": "ml.m5.large", "InstanceCount": 1, "VolumeSizeInGB": 30},
        "RoleArn": ROLE,
        "StoppingCondition": {"MaxRuntimeInSeconds": max_runtime_seconds},
        "OutputDataConfig": {"S3OutputPath": "s3://bucket/models", "CompressionType": "GZIP"},
        "Environment": dict(environment or {}),
        **(more or {}),
    }
    return {"Name": name, "Type": "Training", "Arguments": request, **members}
