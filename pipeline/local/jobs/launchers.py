"""How a training container starts the user's script.

Where the request names a ContainerEntrypoint, that very command is run: the SDK's own drivers, which its ModelTrainer
puts into the channel sm_drivers, and its own handler of `@step` functions do here what they do on the service. Without
one the image's `train` program would start the script named by sagemaker_program. That program, sagemaker-training, is
not on this machine; what it does for one script is done here, as its params.py, mapping.py, entry_point.py and
process.py have it.
"""

import io
import json
import shlex
import shutil
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.errors import PipelineError
from pipeline.local.jobs.training_environment import ML, TOOLKIT_CODE, job_variables, toolkit_environment
from pipeline.local.sandbox.process import Command, JobDirectory
from pipeline.local.sandbox.requirements import with_requirements
from pipeline.local.store.storage import Storage

DRIVERS_CHANNEL = f"{ML}/input/data/sm_drivers"
FUNCTION_CHANNEL = f"{ML}/input/data/sagemaker_remote_function_bootstrap"
FRAMEWORK_PREFIX = "sagemaker_"
OBJECTIVE_NAME = "_tuning_objective_metric"
PROGRAM, SUBMIT_DIRECTORY = "sagemaker_program", "sagemaker_submit_directory"


class LaunchError(PipelineError):
    """A training job names no script that could be started here."""


def launcher_of(arguments: Mapping[str, Any]) -> str:
    """Which launcher a training request means: drivers, function, entrypoint, toolkit or unknown."""
    algorithm = arguments.get("AlgorithmSpecification") or {}
    entrypoint = algorithm.get("ContainerEntrypoint")
    words = json.dumps([entrypoint, algorithm.get("ContainerArguments")])
    if DRIVERS_CHANNEL in words or FUNCTION_CHANNEL in words:
        return "drivers" if DRIVERS_CHANNEL in words else "function"
    if entrypoint:
        return "entrypoint"
    hyperparameters = {**(arguments.get("HyperParameters") or {}), **(arguments.get("StaticHyperParameters") or {})}
    names_program = PROGRAM in hyperparameters or PROGRAM.upper() in (arguments.get("Environment") or {})
    return "toolkit" if names_program else "unknown"


def training_command(
    request: Mapping[str, Any], resources: Mapping[str, Any], job: JobDirectory, storage: Storage
) -> Command:
    """The command of one host of a training job, whose tree is laid out and whose resourceconfig.json is `resources`.

    Raises:
        LaunchError: no script is named, or it is not there, or it would be started by MPI.
    """
    launcher = launcher_of(request)
    if launcher == "toolkit":
        return toolkit_command(request, resources, job, storage)
    if launcher == "unknown":
        raise LaunchError(
            "The job would start its image's own 'train' program, which is not on this machine; "
            "name a script by a ContainerEntrypoint or by the hyperparameters sagemaker_program and "
            "sagemaker_submit_directory."
        )
    script = job.inside(f"{DRIVERS_CHANNEL}/sm_train.sh")
    if launcher == "drivers" and script.is_file() and "mpi_driver.py" in script.read_text():
        raise LaunchError("The job is distributed by MPI, which the local target does not run; accepted is Torchrun.")
    algorithm = request["AlgorithmSpecification"]
    words = [*algorithm["ContainerEntrypoint"], *(algorithm.get("ContainerArguments") or [])]
    root = {"USER": "root", "LOGNAME": "root"}  # as in a container; else the handler of `@step` asks sudo for rights
    given = request.get("Environment") or {}
    environment = {**root, **torchrun_settings(resources), **given, **job_variables(request)}
    return Command(words, environment, ML)


def torchrun_settings(resources: Mapping[str, Any]) -> dict[str, str]:
    """Defaults of torchrun's options: logs in the job's tree, and on one host a port that no other job has."""
    alone = {"PET_STANDALONE": "1"} if len(resources["hosts"]) == 1 else {}
    return {"PET_LOG_DIR": f"{ML}/output/torchrun", **alone}


def toolkit_command(
    request: Mapping[str, Any], resources: Mapping[str, Any], job: JobDirectory, storage: Storage
) -> Command:
    """sagemaker-training: the code goes to /opt/ml/code; arguments sorted, values as Python prints them."""
    environment = request.get("Environment") or {}
    named = {n: environment[n.upper()] for n in (PROGRAM, SUBMIT_DIRECTORY) if n.upper() in environment}
    every = {**{n: decode(v) for n, v in (request.get("HyperParameters") or {}).items()}, **named}
    program = every[PROGRAM] = str(every[PROGRAM])
    own = {n: v for n, v in every.items() if not n.startswith(FRAMEWORK_PREFIX) and n != OBJECTIVE_NAME}
    flags = [text for name in sorted(own) for text in (flag(name), flag_value(own[name]))]
    place_source(str(every.get(SUBMIT_DIRECTORY, "")), job, storage)
    if not job.inside(f"{TOOLKIT_CODE}/{program}").is_file():
        raise LaunchError(f"sagemaker_submit_directory holds no {program!r}, which sagemaker_program names.")
    job.inside(f"{ML}/output/intermediate").mkdir(parents=True, exist_ok=True)
    variables = toolkit_environment(request, resources, every, own=own, flags=flags)
    command = Command([*interpreter(program), *flags], variables, TOOLKIT_CODE)
    return with_requirements(command, f"{TOOLKIT_CODE}/requirements.txt", job)


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
        source = job.inside(uri)
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
    """python3 for .py; anything else is executed by its own first line, as the toolkit does."""
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


def decode(value: str) -> Any:
    """A hyperparameter read as JSON where it is JSON, else kept."""
    try:
        return json.loads(value)
    except ValueError:
        return value
