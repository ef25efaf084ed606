"""How a training container starts the user's script: what the two launchers of SageMaker do, done here.

`sm_drivers` is what SDK v3's ModelTrainer puts into a Training step: a shell script in a channel. The toolkit is
sagemaker-training, which the images hold and which Tuning steps rely on. Both are imitated rather than run, since they
are written for one /opt/ml a machine; any other ContainerEntrypoint is run as it stands.
Sources: sagemaker.train.container_drivers (SDK 3.27); sagemaker-training-toolkit's environment.py, params.py and
entry_point.py.
"""

import functools
import io
import json
import os
import shutil
import subprocess
import tarfile
from collections.abc import Mapping
from typing import Any

from pipeline.errors import PipelineError
from pipeline.local.process import Command, JobDirectory
from pipeline.local.storage import Storage

ML = "/opt/ml"
DRIVER_ARGUMENTS = "/opt/ml/input/data/sm_drivers/sm_train.sh"
HOST = "algo-1"
FRAMEWORK_PREFIX = "sagemaker_"
OBJECTIVE_NAME = "_tuning_objective_metric"


class LaunchError(PipelineError):
    """A training job names no script that could be started here."""


def launcher_of(arguments: Mapping[str, Any]) -> str:
    """Which launcher a training request means: drivers, entrypoint, toolkit or unknown."""
    algorithm = arguments.get("AlgorithmSpecification", {})
    hyperparameters = {**arguments.get("HyperParameters", {}), **arguments.get("StaticHyperParameters", {})}
    if DRIVER_ARGUMENTS in json.dumps(algorithm.get("ContainerArguments", [])):
        return "drivers"
    if algorithm.get("ContainerEntrypoint"):
        return "entrypoint"
    return "toolkit" if "sagemaker_program" in hyperparameters else "unknown"


def training_command(request: Mapping[str, Any], job: JobDirectory, storage: Storage) -> Command:
    """The command of a training job whose tree is laid out.

    Raises:
        LaunchError: no script is named, or it is not there.
    """
    return COMMANDS[launcher_of(request)](request, job, storage)


def drivers_command(request: Mapping[str, Any], job: JobDirectory, storage: Storage) -> Command:
    """`basic_script_driver.py`: arguments in the order of the request, values encoded as JSON except strings."""
    source = read_driver_file(job, "sourcecode.json")
    values = decoded(request.get("HyperParameters", {}))
    code = f"{ML}/input/data/code"
    environment = {
        **common_environment(request, values),
        **{f"SM_HP_{name.replace('-', '_').upper()}": encoded(value) for name, value in values.items()},
        "SM_MASTER_ADDR": HOST,
        "SM_MASTER_PORT": "7777",
        "SM_SOURCE_DIR": code,
        "SM_ENTRY_SCRIPT": source.get("entry_script") or "",
        "SM_HOST_COUNT": "1",
        "SM_CURRENT_HOST_RANK": "0",
        "SM_DISTRIBUTED_CONFIG": json.dumps(read_driver_file(job, "distributed.json")),
        **request.get("Environment", {}),
    }
    folder = code if job.inside(code).is_dir() else ML
    if source.get("command"):
        return Command(["/bin/bash", "-c", source["command"]], environment, folder)
    script = source.get("entry_script")
    if not script or not job.inside(f"{code}/{script}").is_file():
        raise LaunchError(
            f"The channel 'code' holds no entry script {script!r}, which sm_drivers/sourcecode.json names."
        )
    flags = [text for name, value in values.items() for text in (f"--{name}", encoded(value))]
    return Command([*interpreter(script), *flags], environment, folder)


def torchrun(distributed: Mapping[str, Any], script: str) -> list[str]:
    """The Torchrun driver on one host.

    Raises:
        LaunchError: an MPI job.
    """
    if "mpi_additional_options" in distributed:
        raise LaunchError("The job is distributed by MPI, which the local target does not run; accepted is Torchrun.")
    count = distributed.get("process_count_per_node") or gpu_count() or 1
    return ["python3", "-m", "torch.distributed.run", "--nnodes=1", f"--nproc_per_node={count}", script]


def toolkit_command(request: Mapping[str, Any], job: JobDirectory, storage: Storage) -> Command:
    """sagemaker-training: unpacks sourcedir.tar.gz to /opt/ml/code; arguments sorted, values as Python prints them."""
    every = decoded(request.get("HyperParameters", {}))
    program = str(every["sagemaker_program"])
    own = {n: v for n, v in every.items() if not n.startswith(FRAMEWORK_PREFIX) and n != OBJECTIVE_NAME}
    flags = [text for name in sorted(own) for text in (flag(name), str(own[name]))]
    code = f"{ML}/code"
    unpack_source(str(every.get("sagemaker_submit_directory", "")), job, storage)
    if not job.inside(f"{code}/{program}").is_file():
        raise LaunchError(f"sagemaker_submit_directory holds no {program!r}, which sagemaker_program names.")
    environment = {
        **common_environment(request, own),
        **{f"SM_HP_{name.upper()}": str(value) for name, value in own.items()},
        "SM_USER_ARGS": json.dumps(flags),
        "SM_USER_ENTRY_POINT": program,
        "SM_MODULE_NAME": program.removesuffix(".py"),
        "SM_MODULE_DIR": str(every.get("sagemaker_submit_directory", code)),
        "SM_OUTPUT_INTERMEDIATE_DIR": f"{ML}/output/intermediate",
        "SM_FRAMEWORK_MODULE": "",
        **request.get("Environment", {}),
    }
    job.inside(f"{ML}/output/intermediate").mkdir(parents=True, exist_ok=True)
    return Command([*interpreter(program), *flags], environment, code)


def entrypoint_command(request: Mapping[str, Any], job: JobDirectory, storage: Storage) -> Command:
    """ContainerEntrypoint and ContainerArguments as they stand; no SM_ variables, as in a bare container."""
    algorithm = request["AlgorithmSpecification"]
    arguments = [*algorithm["ContainerEntrypoint"], *algorithm.get("ContainerArguments", [])]
    names = {"TRAINING_JOB_NAME": request["TrainingJobName"], "TRAINING_JOB_ARN": request["TrainingJobArn"]}
    return Command(arguments, {**names, **request.get("Environment", {})}, ML)


def no_command(request: Mapping[str, Any], job: JobDirectory, storage: Storage) -> Command:
    """The image's own `train` program, which this machine does not have."""
    raise LaunchError(
        "The job would start its image's own 'train' program, which is not on this machine; "
        "name a script by a ContainerEntrypoint or by the hyperparameters sagemaker_program and "
        "sagemaker_submit_directory."
    )


COMMANDS = {
    "drivers": drivers_command,
    "toolkit": toolkit_command,
    "entrypoint": entrypoint_command,
    "unknown": no_command,
}


def common_environment(request: Mapping[str, Any], hyperparameters: Mapping[str, Any]) -> dict[str, str]:
    """The SM_ variables that both launchers set."""
    channels = sorted(channel["ChannelName"] for channel in request.get("InputDataConfig", []))
    instance_type = request.get("ResourceConfig", {}).get("InstanceType", "local")
    folders = {channel: f"{ML}/input/data/{channel}" for channel in channels}
    return {
        "SM_MODEL_DIR": f"{ML}/model",
        "SM_INPUT_DIR": f"{ML}/input",
        "SM_INPUT_DATA_DIR": f"{ML}/input/data",
        "SM_INPUT_CONFIG_DIR": f"{ML}/input/config",
        "SM_OUTPUT_DIR": f"{ML}/output",
        "SM_OUTPUT_FAILURE": f"{ML}/output/failure",
        "SM_OUTPUT_DATA_DIR": f"{ML}/output/data",
        "SM_LOG_LEVEL": "20",
        "SM_CHANNELS": json.dumps(channels),
        **{f"SM_CHANNEL_{channel.upper()}": folder for channel, folder in folders.items()},
        "SM_HPS": json.dumps(hyperparameters),
        "SM_CURRENT_HOST": HOST,
        "SM_CURRENT_INSTANCE_TYPE": str(instance_type),
        "SM_HOSTS": json.dumps([HOST]),
        "SM_NETWORK_INTERFACE_NAME": "eth0",
        "SM_NUM_CPUS": str(os.cpu_count()),
        "SM_NUM_GPUS": str(gpu_count()),
        "SM_NUM_NEURONS": "0",
        "SM_RESOURCE_CONFIG": json.dumps(resource_config(str(instance_type))),
        "SM_INPUT_DATA_CONFIG": json.dumps(input_data_config(request)),
        "SM_TRAINING_ENV": json.dumps(
            {
                "channel_input_dirs": folders,
                "current_host": HOST,
                "hosts": [HOST],
                "hyperparameters": hyperparameters,
                "input_dir": f"{ML}/input",
                "job_name": request["TrainingJobName"],
                "model_dir": f"{ML}/model",
                "num_cpus": os.cpu_count(),
                "num_gpus": gpu_count(),
                "output_data_dir": f"{ML}/output/data",
                "resource_config": resource_config(str(instance_type)),
            }
        ),
        "TRAINING_JOB_NAME": request["TrainingJobName"],
        "TRAINING_JOB_ARN": request["TrainingJobArn"],
    }


def resource_config(instance_type: str) -> dict[str, Any]:
    """resourceconfig.json of a training job on one host."""
    group = {"instance_group_name": "homogeneousCluster", "instance_type": instance_type, "hosts": [HOST]}
    return {
        "current_host": HOST,
        "current_instance_type": instance_type,
        "current_group_name": "homogeneousCluster",
        "hosts": [HOST],
        "instance_groups": [group],
        "network_interface_name": "eth0",
    }


def input_data_config(request: Mapping[str, Any]) -> dict[str, Any]:
    """inputdataconfig.json: one entry a channel."""
    found: dict[str, Any] = {}
    for channel in request.get("InputDataConfig", []):
        source = channel["DataSource"]["S3DataSource"]
        found[channel["ChannelName"]] = {
            "TrainingInputMode": channel.get("InputMode") or request["AlgorithmSpecification"].get("TrainingInputMode"),
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


def read_driver_file(job: JobDirectory, name: str) -> dict[str, Any]:
    """A JSON file of the channel sm_drivers; empty where it is missing."""
    path = job.inside(f"{ML}/input/data/sm_drivers/{name}")
    return (json.loads(path.read_text()) or {}) if path.is_file() else {}


def unpack_source(uri: str, job: JobDirectory, storage: Storage) -> None:
    """sourcedir.tar.gz into /opt/ml/code; a directory of the container is taken as it is."""
    code = job.inside(f"{ML}/code")
    code.mkdir(parents=True, exist_ok=True)
    if uri.startswith("s3://"):
        with tarfile.open(fileobj=io.BytesIO(storage.read(uri))) as archive:
            archive.extractall(code, filter="data")
    elif uri and job.inside(uri).is_dir():
        shutil.copytree(job.inside(uri), code, dirs_exist_ok=True)


def interpreter(script: str) -> list[str]:
    """python3 for .py, sh for .sh, as both launchers do."""
    if script.endswith(".sh"):
        return ["/bin/sh", script]
    return ["python3", script]


def flag(name: str) -> str:
    """The toolkit's spelling: one dash before a single letter."""
    return f"-{name}" if len(name) == 1 else f"--{name}"


def decoded(hyperparameters: Mapping[str, str]) -> dict[str, Any]:
    """Hyperparameter strings read as JSON where they are JSON, else kept."""
    return {name: decode(value) for name, value in hyperparameters.items()}


def decode(value: str) -> Any:
    """One hyperparameter."""
    try:
        return json.loads(value)
    except ValueError:
        return value


def encoded(value: Any) -> str:
    """A value as sm_drivers writes it: strings bare, everything else JSON."""
    return value if isinstance(value, str) else json.dumps(value)
