"""How a training container starts the user's script: what the two launchers of SageMaker do, done here.

`sm_drivers` is what SDK v3's ModelTrainer puts into a Training step: a shell script in a channel. The toolkit is
sagemaker-training, which the images hold and which Tuning steps rely on. Both are imitated rather than run, since they
are written for one /opt/ml a machine; any other ContainerEntrypoint is run as it stands.
Sources: sagemaker.train.container_drivers and templates.py (SDK 3.27); sagemaker-training-toolkit's params.py,
mapping.py, entry_point.py and process.py.
"""

import io
import json
import re
import shlex
import shutil
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pipeline.errors import PipelineError
from pipeline.local.jobs.training_environment import (
    CODE_CHANNEL,
    DRIVERS_CHANNEL,
    ML,
    TOOLKIT_CODE,
    drivers_environment,
    encoded,
    gpu_count,
    job_variables,
    toolkit_environment,
)
from pipeline.local.sandbox.process import Command, JobDirectory
from pipeline.local.sandbox.requirements import with_requirements
from pipeline.local.store.storage import Storage

DRIVER_SCRIPT = f"{DRIVERS_CHANNEL}/sm_train.sh"
FRAMEWORK_PREFIX = "sagemaker_"
OBJECTIVE_NAME = "_tuning_objective_metric"
TORCHRUN_LOGS = f"{ML}/output/torchrun"
PROGRAM, SUBMIT_DIRECTORY = "sagemaker_program", "sagemaker_submit_directory"


class LaunchError(PipelineError):
    """A training job names no script that could be started here."""


def launcher_of(arguments: Mapping[str, Any]) -> str:
    """Which launcher a training request means: drivers, entrypoint, toolkit or unknown."""
    algorithm = arguments.get("AlgorithmSpecification") or {}
    if DRIVER_SCRIPT in json.dumps(algorithm.get("ContainerArguments") or []):
        return "drivers"
    if algorithm.get("ContainerEntrypoint"):
        return "entrypoint"
    hyperparameters = {**(arguments.get("HyperParameters") or {}), **(arguments.get("StaticHyperParameters") or {})}
    names_program = PROGRAM in hyperparameters or PROGRAM.upper() in (arguments.get("Environment") or {})
    return "toolkit" if names_program else "unknown"


def training_command(request: Mapping[str, Any], job: JobDirectory, storage: Storage) -> Command:
    """The command of a training job whose tree is laid out.

    Raises:
        LaunchError: no script is named, or it is not there.
    """
    return COMMANDS[launcher_of(request)](request, job, storage)


def drivers_command(request: Mapping[str, Any], job: JobDirectory, storage: Storage) -> Command:
    """sm_train.sh: arguments in the order of the request, values encoded as JSON except strings."""
    source, distributed = read_driver_file(job, "sourcecode.json"), read_driver_file(job, "distributed.json")
    values = decoded(request.get("HyperParameters") or {})
    if str(source.get("source_dir")).endswith(".tar.gz"):
        unpack(job.inside(CODE_CHANNEL) / Path(source["source_dir"]).name, job.inside(CODE_CHANNEL))
    flags = [text for name, value in values.items() for text in (f"--{name}", encoded(value))]
    command = Command(
        source_command(source) if source.get("command") else script_command(source, distributed, flags, job),
        drivers_environment(request, values, source, distributed),
        CODE_CHANNEL if job.inside(CODE_CHANNEL).is_dir() else ML,
    )
    requirements = source.get("requirements")
    return with_requirements(command, f"{CODE_CHANNEL}/{requirements}", job) if requirements else command


def source_command(source: Mapping[str, Any]) -> list[str]:
    """SourceCode's `command` with its `args`, by a shell; hyperparameters are not among the arguments."""
    words = [*source["command"].split(), *(shlex.quote(str(word)) for word in source.get("args") or [])]
    return ["/bin/bash", "-c", " ".join(words)]


def script_command(
    source: Mapping[str, Any], distributed: Mapping[str, Any], flags: list[str], job: JobDirectory
) -> list[str]:
    """SourceCode's `entry_script`, by the driver that sm_train.sh calls.

    Raises:
        LaunchError: it is not there, or its driver is MPI's.
    """
    script = source.get("entry_script")
    if not script or not job.inside(f"{CODE_CHANNEL}/{script}").is_file():
        raise LaunchError(
            f"The channel 'code' holds no entry script {script!r}, which sm_drivers/sourcecode.json names."
        )
    driver = driver_of(job, distributed)
    if driver == "mpi_driver.py":
        raise LaunchError("The job is distributed by MPI, which the local target does not run; accepted is Torchrun.")
    if driver == "basic_script_driver.py":
        return [*interpreter(script), *flags]
    if driver == "torchrun_driver.py":
        count = distributed.get("process_count_per_node") or gpu_count() or 1
        torchrun = ["python3", "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={count}"]
        return [*torchrun, f"--log_dir={TORCHRUN_LOGS}", script, *flags]  # in /tmp, by default, nobody removes them
    return ["python3", f"{DRIVERS_CHANNEL}/distributed_drivers/{driver}"]


def driver_of(job: JobDirectory, distributed: Mapping[str, Any]) -> str:
    """The driver that sm_train.sh calls; without one it is told from the configuration."""
    script = job.inside(DRIVER_SCRIPT)
    called = re.search(r"/distributed_drivers/(\S+)", script.read_text()) if script.is_file() else None
    if called:
        return called[1]
    if "mpi_additional_options" in distributed:
        return "mpi_driver.py"
    return "torchrun_driver.py" if distributed else "basic_script_driver.py"


def toolkit_command(request: Mapping[str, Any], job: JobDirectory, storage: Storage) -> Command:
    """sagemaker-training: the code goes to /opt/ml/code; arguments sorted, values as Python prints them."""
    environment = request.get("Environment") or {}
    named = {n: environment[n.upper()] for n in (PROGRAM, SUBMIT_DIRECTORY) if n.upper() in environment}
    every = {**decoded(request.get("HyperParameters") or {}), **named}
    program = str(every[PROGRAM])
    own = {n: v for n, v in every.items() if not n.startswith(FRAMEWORK_PREFIX) and n != OBJECTIVE_NAME}
    flags = [text for name in sorted(own) for text in (flag(name), flag_value(own[name]))]
    place_source(str(every.get(SUBMIT_DIRECTORY, "")), job, storage)
    if not job.inside(f"{TOOLKIT_CODE}/{program}").is_file():
        raise LaunchError(f"sagemaker_submit_directory holds no {program!r}, which sagemaker_program names.")
    job.inside(f"{ML}/output/intermediate").mkdir(parents=True, exist_ok=True)
    variables = toolkit_environment(request, every, own, program, flags)
    command = Command([*interpreter(program), *flags], variables, TOOLKIT_CODE)
    return with_requirements(command, f"{TOOLKIT_CODE}/requirements.txt", job)


def entrypoint_command(request: Mapping[str, Any], job: JobDirectory, storage: Storage) -> Command:
    """ContainerEntrypoint and ContainerArguments as they stand; no SM_ variables, as in a bare container."""
    algorithm = request["AlgorithmSpecification"]
    arguments = [*algorithm["ContainerEntrypoint"], *(algorithm.get("ContainerArguments") or [])]
    return Command(arguments, {**(request.get("Environment") or {}), **job_variables(request)}, ML)


def no_command(request: Mapping[str, Any], job: JobDirectory, storage: Storage) -> Command:
    """The image's own `train` program, which this machine does not have."""
    raise LaunchError(
        "The job would start its image's own 'train' program, which is not on this machine; "
        "name a script by a ContainerEntrypoint or by the hyperparameters sagemaker_program and "
        "sagemaker_submit_directory."
    )


COMMANDS: dict[str, Callable[[Mapping[str, Any], JobDirectory, Storage], Command]] = {
    "drivers": drivers_command,
    "toolkit": toolkit_command,
    "entrypoint": entrypoint_command,
    "unknown": no_command,
}


def read_driver_file(job: JobDirectory, name: str) -> dict[str, Any]:
    """A JSON file of the channel sm_drivers; empty where it is missing.

    Raises:
        LaunchError: it is not JSON.
    """
    path = job.inside(f"{DRIVERS_CHANNEL}/{name}")
    try:
        content = json.loads(path.read_text()) if path.is_file() else {}
    except ValueError as problem:
        raise LaunchError(f"sm_drivers/{name} is not JSON: {problem}.") from problem
    return content if isinstance(content, dict) else {}


def place_source(uri: str, job: JobDirectory, storage: Storage) -> None:
    """What sagemaker_submit_directory names, into /opt/ml/code.

    As the toolkit has it: an archive in S3, or a path of the container, most often a channel's, which is a directory,
    an archive or a single file. What lies below a prefix in S3 is accepted too.
    """
    code = job.inside(TOOLKIT_CODE)
    code.mkdir(parents=True, exist_ok=True)
    if uri.startswith("s3://") and storage.path(uri).is_file():
        unpack(storage.path(uri), code, uri)
    elif uri.startswith("s3://"):
        storage.download(uri, code)
        for archive in code.glob("sourcedir.tar.gz"):
            unpack(archive, code)
    elif uri.startswith(f"{ML}/"):
        place_path(job.inside(uri), code)


def place_path(source: Path, code: Path) -> None:
    """A directory's content, an archive's, or a file; nothing where it is the target itself, or missing."""
    if source.is_dir() and source != code:
        shutil.copytree(source, code, dirs_exist_ok=True)
    elif source.is_file() and tarfile.is_tarfile(source):
        unpack(source, code)
    elif source.is_file():
        shutil.copy2(source, code)


def unpack(archive: Path, folder: Path, name: str | None = None) -> None:
    """A .tar.gz of source code.

    Raises:
        LaunchError: it is none, or not there.
    """
    try:
        with tarfile.open(fileobj=io.BytesIO(archive.read_bytes())) as content:
            content.extractall(folder, filter="data")
    except (tarfile.TarError, OSError, EOFError) as problem:
        raise LaunchError(f"{name or archive.name} is not a usable .tar.gz of source code: {problem}.") from problem


def interpreter(script: str) -> list[str]:
    """python3 for .py; anything else is executed by its own first line, as both launchers do."""
    if script.endswith(".py"):
        return ["python3", script]
    return ["/bin/sh", "-c", f'chmod +x {shlex.quote(script)} && ./{shlex.quote(script)} "$@"', script]


def flag(name: str) -> str:
    """The toolkit's spelling: one dash before a single letter."""
    return f"-{name}" if len(name) == 1 else f"--{name}"


def flag_value(value: Any) -> str:
    """The toolkit's spelling of a value: as Python prints it, an object as k=v,k=v, nothing for null."""
    if isinstance(value, dict):
        return ",".join(f"{name}={member}" for name, member in sorted(value.items()))
    return "" if value is None else str(value)


def decoded(hyperparameters: Mapping[str, str]) -> dict[str, Any]:
    """Hyperparameter strings read as JSON where they are JSON, else kept."""
    return {name: decode(value) for name, value in hyperparameters.items()}


def decode(value: str) -> Any:
    """One hyperparameter."""
    try:
        return json.loads(value)
    except ValueError:
        return value
