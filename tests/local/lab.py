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
CODE = "/opt/ml/processing/input/code"
DRIVER = "/opt/ml/input/data/sm_drivers/sm_train.sh"


@dataclass(frozen=True)
class Report:
    """What one `run --definition ... --json` said."""

    home: Path
    code: int
    stdout: str
    stderr: str

    @property
    def document(self) -> Json:
        assert self.stdout, self.stderr
        return json.loads(self.stdout)

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
        return self.record(name)["Properties"]

    def log(self, name: str) -> str:
        """What a step's job printed."""
        return (self.home / "jobs" / self.record(name)["Job"] / "log.txt").read_text(errors="replace")

    def printed(self, name: str) -> Any:
        """The JSON on the last line of a step's log."""
        return json.loads(self.log(name).splitlines()[-1])


@dataclass(frozen=True)
class Lab:
    """One home."""

    folder: Path

    @property
    def home(self) -> Path:
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
        """Store a .tar.gz of files; its URI."""
        return self.put(uri, packed({name: source(text) for name, text in files.items()}))

    def unpacked(self, uri: str) -> dict[str, str]:
        """The files of a .tar.gz object, as text."""
        with tarfile.open(self.path(uri)) as archive:
            files = [(member.name, archive.extractfile(member)) for member in archive if member.isfile()]
            return {name: file.read().decode() for name, file in files if file}

    def function(self, code: str, name: str = "fn") -> str:
        """A Lambda function's file; what --lambda takes."""
        path = self.folder / f"{name}.py"
        path.write_text(source(code))
        return f"{name}={path}:handler"

    def processing(
        self, name: str, code: str, *, inputs=(), outputs=(), arguments=(), environment=(), **members: Any
    ) -> Json:
        """A step as ScriptProcessor's: the script is one object, inputs and outputs lie under their names."""
        places = {n: (uri, f"/opt/ml/processing/input/{n}") for n, uri in dict(inputs).items()}
        places["code"] = (self.put(f"s3://bucket/code/{name}/script.py", source(code)), CODE)
        request = {
            "ProcessingInputs": [s3_input(n, uri, path) for n, (uri, path) in places.items()],
            "ProcessingOutputConfig": {"Outputs": [s3_output(name, output) for output in outputs]},
            "Environment": dict(environment),
        }
        return processing_step(name, ["python3", f"{CODE}/script.py"], arguments, request, **members)

    def training(self, name: str, code: str, hyperparameters=(), **more: Any) -> Json:
        """A step whose script the toolkit starts: sourcedir.tar.gz and its program are hyperparameters."""
        uri = self.archive(f"s3://bucket/code/{name}/sourcedir.tar.gz", {"train.py": code})
        source_names = {"sagemaker_program": "train.py", "sagemaker_submit_directory": uri}
        return training_step(name, {**dict(hyperparameters), **source_names}, **more)

    def drivers(
        self, name: str, files: Json, source_code: Json, hyperparameters=(), distributed=(), channels=(), **more: Any
    ) -> Json:
        """A step as ModelTrainer's with SourceCode: the channels code and sm_drivers, the latter of the SDK's files."""
        for path, text in files.items():
            self.put(f"s3://bucket/{name}/code/{path}", source(text) if isinstance(text, str) else text)
        for path, content in sdk_drivers(source_code, distributed).items():
            self.put(f"s3://bucket/{name}/sm_drivers/{path}", content)
        own = {n: f"s3://bucket/{name}/{n}" for n in ("code", "sm_drivers")}
        step = training_step(name, dict(hyperparameters), channels={**dict(channels), **own}, **more)
        program = {"ContainerEntrypoint": ["/bin/bash"], "ContainerArguments": ["-c", f"chmod +x {DRIVER} && {DRIVER}"]}
        step["Arguments"]["AlgorithmSpecification"] |= program  # as SDK 3.27
        return step

    def tuning(
        self, name: str, code: str, ranges: Json, *, jobs: int | None = 3, parallel=2, config=(), static=(), **more: Any
    ) -> Json:
        """A search by the objective `score`, of whose training jobs the toolkit starts the script."""
        template = self.training(name, code, static, metrics={"score": "score=([-0-9.]+)"}, **more)["Arguments"]
        template["StaticHyperParameters"] = template.pop("HyperParameters")
        limits = {"MaxParallelTrainingJobs": parallel, **({"MaxNumberOfTrainingJobs": jobs} if jobs else {})}
        search = {**requests("Search"), "ResourceLimits": limits, "ParameterRanges": ranges, **dict(config)}
        arguments = {"HyperParameterTuningJobConfig": search, "TrainingJobDefinition": template}
        return {"Name": name, "Type": "Tuning", "Arguments": arguments}

    def run(self, *steps: Json, parameters: Sequence[Json] = (), **how: Any) -> Report:
        """Run a definition of these steps."""
        members = {key: how.pop(key) for key in list(how) if key[0].isupper()}  # of the definition
        definition = {"Version": "2020-12-01", "Parameters": list(parameters), "Steps": list(steps), **members}
        return self.run_definition(definition, **how)

    def run_definition(self, definition: Any, *, environment=(), timeout_seconds: float = 240, **words: Any) -> Report:
        """Run any definition."""
        settings = {**os.environ, **dict(environment)}
        command = self.command(definition, **words)
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=timeout_seconds, env=settings, cwd=self.folder
        )
        return Report(self.home, done.returncode, done.stdout, done.stderr)

    def command(self, definition: Any, functions: Sequence[str] = (), options: Sequence[object] = ()) -> list[str]:
        """The words of `run --definition`."""
        file = self.folder / "lab.json"
        file.write_text(definition if isinstance(definition, str) else json.dumps(definition))
        given = [word for function in functions for word in ("--lambda", function)]
        words = ["run", "--definition", file, "--home", self.home, "--json", *given, *options]
        return [sys.executable, str(ROOT / "run_pipeline.py"), *map(str, words)]


def sdk_drivers(source_code: Json, distributed: Any) -> dict[str, bytes]:
    """The channel sm_drivers as ModelTrainer of SDK 3.27 writes it; MPI is told by its options, as in the SDK."""
    templates = runpy.run_path(str(SDK / "train/templates.py"))
    folder = SDK / "train/container_drivers"
    files = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.py")}
    files["scripts/install_requirements.py"] = (SDK / "core/utils/install_requirements.py").read_bytes()
    sources, install = source_code.get("source_dir", "src"), ""
    unpack = f"tar -xzf {Path(sources).name} \n" if sources.endswith(".tar.gz") else ""
    if requirements := source_code.get("requirements"):
        install = templates["INSTALL_REQUIREMENTS"].format(requirements_file=requirements)
    if command := source_code.get("command"):
        words = [command, *(shlex.quote(str(word)) for word in source_code.get("args") or [])]
        driver = templates["EXECUTE_BASE_COMMANDS"].format(base_command=" ".join(words))
    elif distributed:
        name = "mpi_driver.py" if "mpi_additional_options" in distributed else "torchrun_driver.py"
        driver = templates["EXEUCTE_DISTRIBUTED_DRIVER"].format(driver_name="any", driver_script=name)
    else:
        driver = templates["EXECUTE_BASIC_SCRIPT_DRIVER"]
    enter = f"cd /opt/ml/input/data/code \n{unpack}" if sources else ""
    whole = {"working_dir": enter, "install_requirements": install, "execute_driver": driver}
    files["sm_train.sh"] = templates["TRAIN_SCRIPT_TEMPLATE"].format(**whole).encode()
    files["sourcecode.json"] = json.dumps({"source_dir": "src", **source_code}).encode()
    files["distributed.json"] = json.dumps(dict(distributed)).encode()
    return files


def packed(files: Mapping[str, str | bytes]) -> bytes:
    """A .tar.gz of files; the same files give the same bytes."""
    stream = io.BytesIO()
    with (
        gzip.GzipFile(fileobj=stream, mode="wb", mtime=0) as zipped,
        tarfile.open(fileobj=zipped, mode="w") as archive,
    ):
        for name, content in files.items():
            member, body = tarfile.TarInfo(name), content.encode() if isinstance(content, str) else content
            member.size = len(body)
            archive.addfile(member, io.BytesIO(body))
    return stream.getvalue()


def source(code: str) -> str:
    """Source code as it stands indented in a test."""
    return textwrap.dedent(code).lstrip("\n")


def get(path: str) -> Json:
    return {"Get": path}


def join(on: str, *values: Any) -> Json:
    return {"Std:Join": {"On": on, "Values": list(values)}}


def json_get(step: str, path: str, file: str = "Report") -> Json:
    return {"Std:JsonGet": {"PropertyFile": get(f"Steps.{step}.PropertyFiles.{file}"), "Path": path}}


def parameter(name: str, kind: str, default: Any = None, **members: Any) -> Json:
    return {"Name": name, "Type": kind, **({} if default is None else {"DefaultValue": default}), **members}


def compare(kind: str, left: Any, right: Any) -> Json:
    return {"Type": kind, "LeftValue": left, "RightValue": right}


def condition(name: str, conditions: list[Json], if_steps: Any = (), else_steps: Any = ()) -> Json:
    arguments = {"Conditions": conditions, "IfSteps": list(if_steps), "ElseSteps": list(else_steps)}
    return {"Name": name, "Type": "Condition", "Arguments": arguments}


def fail(name: str, message: Any) -> Json:
    return {"Name": name, "Type": "Fail", "Arguments": {"ErrorMessage": message}}


def call(name: str, event: Json, outputs: Mapping[str, str], function: str = "fn", **members: Any) -> Json:
    """A Lambda step; `outputs` is name -> type."""
    arn = f"arn:aws:lambda:us-east-1:123456789012:function:{function}"
    expected = [{"OutputName": n, "OutputType": kind} for n, kind in outputs.items()]
    given = {"Arguments": event, "FunctionArn": arn, "OutputParameters": expected}
    return {"Name": name, "Type": "Lambda", **given, **members}


def s3_input(name: str, uri: Any, local_path: str) -> Json:
    s3 = {"S3Uri": uri, "LocalPath": local_path, "S3DataType": "S3Prefix", "S3InputMode": "File"}
    return {"InputName": name, "S3Input": {**s3, "S3DataDistributionType": "FullyReplicated"}}


def s3_output(step: str, name: str) -> Json:
    """A ProcessingOutput of which each execution has its own."""
    uri = join("/", "s3:/", "bucket/out", get("Execution.PipelineExecutionId"), step, name)
    local_path = f"/opt/ml/processing/output/{name}"
    return {"OutputName": name, "S3Output": {"S3Uri": uri, "LocalPath": local_path, "S3UploadMode": "EndOfJob"}}


def output_uri(step: str, name: str) -> Json:
    return get(f"Steps.{step}.ProcessingOutputConfig.Outputs['{name}'].S3Output.S3Uri")


def processing_step(name: str, entrypoint: list[str], arguments=(), request=(), **members: Any) -> Json:
    """A Processing step; `request` are further members of its request."""
    given = {**requests("Processing"), **dict(request)}
    given["AppSpecification"]["ContainerEntrypoint"] = entrypoint
    if arguments:
        given["AppSpecification"]["ContainerArguments"] = list(arguments)
    return {"Name": name, "Type": "Processing", "Arguments": given, **members}


def training_step(
    name: str, hyperparameters: Json, *, channels=(), metrics=(), environment=(), more=(), **members: Any
) -> Json:
    """A Training step; `more` are members of its request."""
    data = [
        {"ChannelName": n, "DataSource": {"S3DataSource": {"S3DataType": "S3Prefix", "S3Uri": u}}, "InputMode": "File"}
        for n, u in dict(channels).items()
    ]
    own = {"HyperParameters": hyperparameters, "InputDataConfig": data, "Environment": dict(environment)}
    request = {**requests("Training"), **own, **dict(more)}
    patterns = [{"Name": n, "Regex": regex} for n, regex in dict(metrics).items()]
    request["AlgorithmSpecification"] |= {"MetricDefinitions": patterns}
    return {"Name": name, "Type": "Training", "Arguments": request, **members}


def requests(kind: str) -> Json:
    """What all requests of a kind have."""
    return json.loads((ROOT / "tests/local/cases/requests.json").read_text())[kind]
