"""How a training container starts the user's script, and what the script finds.

Where the request names a ContainerEntrypoint, that very command is run: the SDK's own drivers, which its ModelTrainer
puts into the channel sm_drivers, and its own handler of `@step` functions do here what they do on the service. Without
one the image's `train` program would start the script named by sagemaker_program. That program, sagemaker-training, is
not on this machine; what it does for one script is done here, as its params.py, mapping.py, environment.py,
entry_point.py and process.py have it.
"""

import functools
import io
import json
import os
import shlex
import shutil
import subprocess
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.errors import PipelineError
from pipeline.local.sandbox.environment import INSTALL, are_met
from pipeline.local.sandbox.process import Command, JobDirectory
from pipeline.local.store.storage import Storage

ML = "/opt/ml"
CODE = f"{ML}/code"
DRIVERS_CHANNEL = f"{ML}/input/data/sm_drivers"
FUNCTION_CHANNEL = f"{ML}/input/data/sagemaker_remote_function_bootstrap"
PREFIX = "sagemaker_"  # of hyperparameters that are the toolkit's or the framework's
OBJECTIVE_NAME = "_tuning_objective_metric"
PROGRAM, SUBMIT_DIRECTORY = "sagemaker_program", "sagemaker_submit_directory"
TOOLKIT_OWN = ("program", "submit_directory", "region", "job_name", "enable_cloudwatch_metrics", "container_log_level",
               "s3_output")  # fmt: skip
GROUP = "homogeneousCluster"  # of instances, where the request names no groups


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
    names_program = PROGRAM in (arguments.get("HyperParameters") or {})
    return "toolkit" if names_program or PROGRAM.upper() in (arguments.get("Environment") or {}) else "unknown"


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
    environment = {
        **{"USER": "root", "LOGNAME": "root"},  # as in a container; else the handler of `@step` asks sudo for rights
        "PET_LOG_DIR": f"{ML}/output/torchrun",  # of torchrun, whose port on a single host no other job has
        **({"PET_STANDALONE": "1"} if len(resources["hosts"]) == 1 else {}),
        **(request.get("Environment") or {}),
        **job_variables(request),
    }
    return Command(words, environment, ML)


def toolkit_command(
    request: Mapping[str, Any], resources: Mapping[str, Any], job: JobDirectory, storage: Storage
) -> Command:
    """sagemaker-training's: the code goes to /opt/ml/code; arguments sorted, values as Python prints them."""
    environment = request.get("Environment") or {}
    named = {n: environment[n.upper()] for n in (PROGRAM, SUBMIT_DIRECTORY) if n.upper() in environment}
    every = {**{n: decode(v) for n, v in (request.get("HyperParameters") or {}).items()}, **named}
    program = every[PROGRAM] = str(every[PROGRAM])
    own = {n: v for n, v in every.items() if not n.startswith(PREFIX) and n != OBJECTIVE_NAME}
    flags = [text for name in sorted(own) for text in (f"{'-' if len(name) == 1 else '--'}{name}", spell(own[name]))]
    place_source(str(every.get(SUBMIT_DIRECTORY, "")), job, storage)
    if not job.inside(f"{CODE}/{program}").is_file():
        raise LaunchError(f"sagemaker_submit_directory holds no {program!r}, which sagemaker_program names.")
    job.inside(f"{ML}/output/intermediate").mkdir(parents=True, exist_ok=True)
    words = ["python3", program]
    if not program.endswith(".py"):
        words = ["/bin/sh", "-c", f'chmod +x {shlex.quote(program)} && ./{shlex.quote(program)} "$@"', program]
    variables = toolkit_environment(request, resources, every, own=own, flags=flags)
    requirements = f"{CODE}/requirements.txt"
    installed = [] if are_met(job.inside(requirements)) else ["/bin/sh", "-c", INSTALL, requirements]
    return Command([*installed, *words, *flags], variables, CODE)


def place_source(uri: str, job: JobDirectory, storage: Storage) -> None:
    """Put what sagemaker_submit_directory names into /opt/ml/code.

    As the toolkit has it: an archive in S3, or a path of the container, most often a channel's, which is a directory,
    an archive or a single file. What lies below a prefix in S3 is accepted too.
    """
    code = job.inside(CODE)
    code.mkdir(parents=True, exist_ok=True)
    if uri.startswith("s3://") and storage.path(uri).is_file():
        unpack(storage.path(uri), code, uri)
    elif uri.startswith("s3://"):
        storage.download(uri, code)
        for archive in code.glob("sourcedir.tar.gz"):
            unpack(archive, code, archive.name)
    elif uri.startswith(f"{ML}/"):
        source = job.inside(uri)
        if source.is_dir() and source != code:
            shutil.copytree(source, code, dirs_exist_ok=True)
        elif source.is_file() and tarfile.is_tarfile(source):
            unpack(source, code, source.name)
        elif source.is_file():
            shutil.copy2(source, code)


def unpack(archive: Path, folder: Path, name: str) -> None:
    """Unpack a .tar.gz of source code.

    Raises:
        LaunchError: it is none, or not there.
    """
    try:
        with tarfile.open(fileobj=io.BytesIO(archive.read_bytes())) as content:
            content.extractall(folder, filter="data")
    except (tarfile.TarError, OSError, EOFError) as problem:
        raise LaunchError(f"{name} is not a usable .tar.gz of source code: {problem}.") from problem


def toolkit_environment(
    request: Mapping[str, Any],
    resources: Mapping[str, Any],
    every: Mapping[str, Any],
    *,
    own: Mapping[str, Any],
    flags: Sequence[str],
) -> dict[str, str]:
    """The variables of the toolkit's `Environment.to_env_vars`.

    Args:
        request: the training request.
        resources: the host's resourceconfig.json.
        every: all hyperparameters, decoded.
        own: those of the script.
        flags: its arguments.
    """
    channels = {name: f"{ML}/input/data/{name}" for name in sorted(input_data_config(request))}
    prefixed = {name: value for name, value in every.items() if name.startswith(PREFIX)}
    framework = {n: v for n, v in prefixed.items() if n.removeprefix(PREFIX) not in TOOLKIT_OWN}
    groups = {group["instance_group_name"]: group for group in resources["instance_groups"]}
    host_names = ("current_host", "current_instance_type", "hosts", "network_interface_name")
    shared: dict[str, Any] = {  # SM_... variables that SM_TRAINING_ENV has under the same names
        **{name: resources[name] for name in host_names},
        "model_dir": f"{ML}/model",
        "input_dir": f"{ML}/input",
        "input_config_dir": f"{ML}/input/config",
        "output_data_dir": f"{ML}/output/data",
        "num_cpus": os.cpu_count() or 1,
        "num_gpus": gpu_count(),
        "resource_config": resources,
        "input_data_config": input_data_config(request),
        "module_dir": str(every.get(SUBMIT_DIRECTORY, CODE)),
        "module_name": every[PROGRAM].removesuffix(".py"),
        "user_entry_point": every[PROGRAM],
        "framework_module": None,
        "log_level": every.get("sagemaker_container_log_level", 20),
        "output_intermediate_dir": f"{ML}/output/intermediate",
    }
    training_env = {
        **shared,
        "channel_input_dirs": channels,
        "hyperparameters": own,
        "job_name": request["TrainingJobName"],
        "additional_framework_parameters": framework,
        "is_master": resources["current_host"] == resources["hosts"][0],
        "master_hostname": resources["hosts"][0],
        "output_dir": f"{ML}/output",
    }
    values: dict[str, Any] = {
        **job_variables(request),
        **{f"SM_{name.upper()}": value for name, value in shared.items()},
        **{f"SM_CHANNEL_{name.upper()}": folder for name, folder in channels.items()},
        **{f"SM_HP_{name.upper()}": value for name, value in own.items()},
        "SM_INPUT_DATA_DIR": f"{ML}/input/data",
        "SM_OUTPUT_DIR": f"{ML}/output",
        "SM_OUTPUT_FAILURE": f"{ML}/output/failure",
        "SM_NUM_NEURONS": 0,
        "SM_CHANNELS": list(channels),
        "SM_HPS": own,
        "SM_FRAMEWORK_PARAMS": framework,
        "SM_CURRENT_INSTANCE_GROUP": resources["current_group_name"],
        "SM_CURRENT_INSTANCE_GROUP_HOSTS": groups[resources["current_group_name"]]["hosts"],
        "SM_INSTANCE_GROUPS": list(groups),
        "SM_INSTANCE_GROUPS_DICT": groups,
        "SM_DISTRIBUTION_INSTANCE_GROUPS": [],
        "SM_IS_HETERO": False,
        "SM_USER_ARGS": flags,
        "SM_TRAINING_ENV": training_env,
    }
    texts = {name: compact(value) for name, value in values.items()}
    return {"PYTHONPATH": CODE, "SAGEMAKER_REGION": "us-east-1", **(request.get("Environment") or {}), **texts}


def job_variables(request: Mapping[str, Any]) -> dict[str, str]:
    """What every training container has."""
    return {"TRAINING_JOB_NAME": request["TrainingJobName"], "TRAINING_JOB_ARN": request["TrainingJobArn"]}


def instance_groups(request: Mapping[str, Any]) -> list[tuple[str, str, int]]:
    """(name, instance type, count) of each group of a request's instances; without InstanceGroups there is one."""
    resources = request.get("ResourceConfig") or {}
    if groups := resources.get("InstanceGroups"):
        return [(group["InstanceGroupName"], group["InstanceType"], int(group["InstanceCount"])) for group in groups]
    return [(GROUP, str(resources.get("InstanceType") or "local"), int(resources.get("InstanceCount") or 1))]


def resource_config(request: Mapping[str, Any], hosts: Sequence[str], rank: int) -> dict[str, Any]:
    """resourceconfig.json of one host of a training job; its instance types are those asked for."""
    groups, left = [], list(hosts)
    for name, instance_type, count in instance_groups(request):
        members, left = left[:count], left[count:]
        groups.append({"instance_group_name": name, "instance_type": instance_type, "hosts": members})
    current = next(group for group in groups if hosts[rank] in group["hosts"])
    return {
        "current_host": hosts[rank],
        "current_instance_type": current["instance_type"],
        "current_group_name": current["instance_group_name"],
        "hosts": list(hosts),
        "instance_groups": groups,
        "network_interface_name": "lo",
    }


def input_data_config(request: Mapping[str, Any]) -> dict[str, Any]:
    """inputdataconfig.json: one entry a channel."""
    found, default = {}, request["AlgorithmSpecification"].get("TrainingInputMode") or "File"
    for channel in request.get("InputDataConfig") or []:
        source = channel["DataSource"]["S3DataSource"]
        found[channel["ChannelName"]] = {
            "TrainingInputMode": channel.get("InputMode") or default,
            "S3DistributionType": source.get("S3DataDistributionType", "FullyReplicated"),
            "RecordWrapperType": channel.get("RecordWrapperType", "None"),
            **({"ContentType": channel["ContentType"]} if channel.get("ContentType") else {}),
        }
    return found


@functools.cache
def gpu_count() -> int:
    """How many GPUs nvidia-smi lists."""
    if not shutil.which("nvidia-smi"):
        return 0
    listed = subprocess.run(["nvidia-smi", "--list-gpus"], capture_output=True, text=True, check=False).stdout
    return sum(line.startswith("GPU ") for line in listed.splitlines())


def decode(value: str) -> Any:
    """A hyperparameter read as JSON where it is JSON, else kept."""
    try:
        return json.loads(value)
    except ValueError:
        return value


def spell(value: Any) -> str:
    """A value among the script's arguments: as Python prints it, an object as k=v,k=v, nothing for null."""
    if isinstance(value, dict):
        return ",".join(f"{name}={member}" for name, member in sorted(value.items()))
    return "" if value is None else str(value)


def compact(value: Any) -> str:
    """A value in the toolkit's environment: strings bare, nothing for null, everything else compact JSON."""
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True, separators=(",", ":"))
