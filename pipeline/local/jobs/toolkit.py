"""How a training container starts the user's script, and what the script finds.

Where the request names a ContainerEntrypoint, that very command is run: the SDK's own drivers, which its ModelTrainer
puts into the channel sm_drivers, and its own handler of `@step` functions do here what they do on the service. Without
one the image's `train` program would start the script named by sagemaker_program. That program, sagemaker-training, is
not on this machine (its releases want another protobuf); what it does for one script is done here, as its params.py,
mapping.py, environment.py, entry_point.py and process.py have it.
"""

import functools
import io
import itertools
import json
import os
import shlex
import shutil
import subprocess
import tarfile
from collections.abc import Mapping
from typing import Any

from pipeline.local.jobs.runtime import StepFailure
from pipeline.local.sandbox.environment import INSTALL, are_met
from pipeline.local.sandbox.process import Command, JobDirectory
from pipeline.local.store.storage import Storage

ML = "/opt/ml"
CODE = f"{ML}/code"
DRIVERS = f"{ML}/input/data/sm_drivers/sm_train.sh"
FUNCTION_CHANNEL = "sagemaker_remote_function_bootstrap"
PREFIX = "sagemaker_"  # of hyperparameters that are the toolkit's or the framework's
OBJECTIVE_NAME = "_tuning_objective_metric"
PROGRAM, SUBMIT_DIRECTORY = "sagemaker_program", "sagemaker_submit_directory"
TOOLKIT_OWN = ("program", "submit_directory", "region", "job_name", "enable_cloudwatch_metrics", "container_log_level",
               "s3_output")  # fmt: skip
ONLY_IN_TRAINING_ENV = ("channel_input_dirs", "hyperparameters", "job_name", "additional_framework_parameters",
                        "is_master", "master_hostname")  # fmt: skip


def training_command(
    request: Mapping[str, Any], resources: Mapping[str, Any], host: JobDirectory, storage: Storage
) -> Command:
    """The command of one host of a training job, whose tree is laid out; `resources` is its resourceconfig.json."""
    algorithm = request["AlgorithmSpecification"]
    own = {"TRAINING_JOB_NAME": request["TrainingJobName"], "TRAINING_JOB_ARN": request["TrainingJobArn"]}
    if not algorithm.get("ContainerEntrypoint"):
        return toolkit_command(request, resources, own, host=host, storage=storage)
    words = [*algorithm["ContainerEntrypoint"], *algorithm.get("ContainerArguments", [])]
    drivers = host.inside(DRIVERS)
    if DRIVERS in " ".join(words) and drivers.is_file() and "mpi_driver.py" in drivers.read_text():
        raise StepFailure(
            "ClientError: The job is distributed by MPI, which the local target does not run; accepted is Torchrun."
        )
    environment = {
        **{"USER": "root", "LOGNAME": "root"},  # as in a container; else the handler of `@step` asks sudo for rights
        "PET_LOG_DIR": f"{ML}/output/torchrun",  # of torchrun, whose port on a single host no other job has
        **({"PET_STANDALONE": "1"} if len(resources["hosts"]) == 1 else {}),
        **request.get("Environment", {}),
        **own,
    }
    return Command(words, environment, ML)


def toolkit_command(
    request: Mapping[str, Any],
    resources: Mapping[str, Any],
    own: Mapping[str, str],
    *,
    host: JobDirectory,
    storage: Storage,
) -> Command:
    """sagemaker-training's: the code goes to /opt/ml/code; arguments sorted, values as Python prints them."""
    environment = request.get("Environment", {})
    named = {n: environment[n.upper()] for n in (PROGRAM, SUBMIT_DIRECTORY) if n.upper() in environment}
    every = {**{n: decode(v) for n, v in request["HyperParameters"].items()}, **named}
    program = every[PROGRAM] = str(every.get(PROGRAM, ""))
    place_source(str(every.get(SUBMIT_DIRECTORY, "")), host, storage)
    if not host.inside(f"{CODE}/{program}").is_file():
        raise StepFailure(
            f"ClientError: sagemaker_submit_directory holds no {program!r}, which sagemaker_program names."
        )
    host.inside(f"{ML}/output/intermediate").mkdir(parents=True, exist_ok=True)
    words = ["python3", program]
    if not program.endswith(".py"):
        words = ["/bin/sh", "-c", f'chmod +x {shlex.quote(program)} && ./{shlex.quote(program)} "$@"', program]
    requirements = f"{CODE}/requirements.txt"
    installed = [] if are_met(host.inside(requirements)) else ["/bin/sh", "-c", INSTALL, requirements]
    values = {n: v for n, v in every.items() if not n.startswith(PREFIX) and n != OBJECTIVE_NAME}
    flags = [t for n in sorted(values) for t in (f"{'-' if len(n) == 1 else '--'}{n}", spell(values[n]))]
    variables = toolkit_variables(request, resources, every, {"HPS": values, "USER_ARGS": flags})
    return Command(
        [*installed, *words, *flags],
        {"PYTHONPATH": CODE, "SAGEMAKER_REGION": "us-east-1", **environment, **own, **variables},
        CODE,
    )


def place_source(uri: str, host: JobDirectory, storage: Storage) -> None:
    """Put what sagemaker_submit_directory names into /opt/ml/code.

    As the toolkit has it: an archive in S3, or a path of the container, most often a channel's, which is a directory,
    an archive or a single file. What lies below a prefix in S3 is accepted too.
    """
    code = host.inside(CODE)
    code.mkdir(parents=True, exist_ok=True)
    source = code
    if uri.startswith("s3://"):
        source = storage.path(uri)
        if not source.is_file():
            storage.download(uri, code)
            source = code / "sourcedir.tar.gz"
    elif uri.startswith(f"{ML}/"):
        source = host.inside(uri)
    if source.is_dir() and source != code:
        shutil.copytree(source, code, dirs_exist_ok=True)
    elif source.is_file() and (uri.startswith("s3://") or tarfile.is_tarfile(source)):
        try:
            with tarfile.open(fileobj=io.BytesIO(source.read_bytes())) as content:
                content.extractall(code, filter="data")
        except (tarfile.TarError, OSError, EOFError) as problem:
            said = f"{uri} is not a usable .tar.gz of source code: {problem}."
            raise StepFailure(f"ClientError: {said}") from problem
    elif source.is_file():
        shutil.copy2(source, code)


def toolkit_variables(
    request: Mapping[str, Any], resources: Mapping[str, Any], every: Mapping[str, Any], script: Mapping[str, Any]
) -> dict[str, str]:
    """The variables of the toolkit's `Environment.to_env_vars`.

    Args:
        request: the training request.
        resources: the host's resourceconfig.json.
        every: all hyperparameters, decoded.
        script: the script's own, HPS, and the arguments that they become, USER_ARGS.
    """
    channels = {name: f"{ML}/input/data/{name}" for name in sorted(input_data_config(request))}
    prefixed = {name: value for name, value in every.items() if name.startswith(PREFIX)}
    framework = {n: v for n, v in prefixed.items() if n.removeprefix(PREFIX) not in TOOLKIT_OWN}
    groups = {group["instance_group_name"]: group for group in resources["instance_groups"]}
    host_names = ("current_host", "current_instance_type", "hosts", "network_interface_name")
    training_env: dict[str, Any] = {
        **{name: resources[name] for name in host_names},
        "model_dir": f"{ML}/model",
        "input_dir": f"{ML}/input",
        "input_config_dir": f"{ML}/input/config",
        "output_dir": f"{ML}/output",
        "output_data_dir": f"{ML}/output/data",
        "output_intermediate_dir": f"{ML}/output/intermediate",
        "num_cpus": os.cpu_count() or 1,
        "num_gpus": gpu_count(),
        "resource_config": resources,
        "input_data_config": input_data_config(request),
        "module_dir": str(every.get(SUBMIT_DIRECTORY, CODE)),
        "module_name": every[PROGRAM].removesuffix(".py"),
        "user_entry_point": every[PROGRAM],
        "framework_module": None,
        "log_level": every.get("sagemaker_container_log_level", 20),
        "channel_input_dirs": channels,
        "hyperparameters": script["HPS"],
        "job_name": request["TrainingJobName"],
        "additional_framework_parameters": framework,
        "is_master": resources["current_host"] == resources["hosts"][0],
        "master_hostname": resources["hosts"][0],
    }
    variables = {
        **{name.upper(): value for name, value in training_env.items() if name not in ONLY_IN_TRAINING_ENV},
        **{f"CHANNEL_{name.upper()}": folder for name, folder in channels.items()},
        **{f"HP_{name.upper()}": value for name, value in script["HPS"].items()},
        **script,
        "INPUT_DATA_DIR": f"{ML}/input/data",
        "OUTPUT_FAILURE": f"{ML}/output/failure",
        "NUM_NEURONS": 0,
        "CHANNELS": list(channels),
        "FRAMEWORK_PARAMS": framework,
        "CURRENT_INSTANCE_GROUP": resources["current_group_name"],
        "CURRENT_INSTANCE_GROUP_HOSTS": groups[resources["current_group_name"]]["hosts"],
        "INSTANCE_GROUPS": list(groups),
        "INSTANCE_GROUPS_DICT": groups,
        "DISTRIBUTION_INSTANCE_GROUPS": [],
        "IS_HETERO": False,
        "TRAINING_ENV": training_env,
    }
    return {f"SM_{name}": compact(value) for name, value in variables.items()}


def instance_groups(request: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The instance_groups of resourceconfig.json; without InstanceGroups there is one."""
    resources = request.get("ResourceConfig", {})
    alone = {"InstanceGroupName": "homogeneousCluster", "InstanceType": "local", "InstanceCount": 1, **resources}
    names = (f"algo-{number}" for number in itertools.count(1))
    return [
        {
            "instance_group_name": group["InstanceGroupName"],
            "instance_type": group["InstanceType"],
            "hosts": list(itertools.islice(names, group["InstanceCount"])),
        }
        for group in resources.get("InstanceGroups") or [alone]
    ]


def input_data_config(request: Mapping[str, Any]) -> dict[str, Any]:
    """inputdataconfig.json: one entry a channel."""
    default = request["AlgorithmSpecification"].get("TrainingInputMode", "File")
    return {
        channel["ChannelName"]: {
            "TrainingInputMode": channel.get("InputMode", default),
            "S3DistributionType": channel["DataSource"]["S3DataSource"].get(
                "S3DataDistributionType", "FullyReplicated"
            ),
            "RecordWrapperType": channel.get("RecordWrapperType", "None"),
            **({"ContentType": channel["ContentType"]} if channel.get("ContentType") else {}),
        }
        for channel in request.get("InputDataConfig", [])
    }


@functools.cache
def gpu_count() -> int:
    """How many GPUs nvidia-smi lists."""
    return sum(line.startswith("GPU ") for line in subprocess.getoutput("nvidia-smi --list-gpus").splitlines())


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
