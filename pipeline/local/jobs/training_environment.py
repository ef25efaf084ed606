"""What a training container finds in its configuration files and SM_ variables, whoever starts the script.

Sources: sagemaker.train.container_drivers.scripts.environment (SDK 3.27) for `drivers_environment`;
sagemaker-training-toolkit's environment.py and mapping.py for `toolkit_environment`. The toolkit's variables are a
superset here: SM_OUTPUT_FAILURE is the drivers' only.
"""

import functools
import json
import os
import shutil
import subprocess
from collections.abc import Mapping
from typing import Any

ML = "/opt/ml"
CODE_CHANNEL = f"{ML}/input/data/code"
DRIVERS_CHANNEL = f"{ML}/input/data/sm_drivers"
TOOLKIT_CODE = f"{ML}/code"
HOST = "algo-1"
GROUP = "homogeneousCluster"
MASTER_PORT = 7777
TOOLKIT_OWN = ("program", "submit_directory", "region", "job_name", "enable_cloudwatch_metrics", "container_log_level",
               "s3_output")  # fmt: skip


def drivers_environment(
    request: Mapping[str, Any],
    hyperparameters: Mapping[str, Any],
    source: Mapping[str, Any],
    distributed: Mapping[str, Any],
) -> dict[str, str]:
    """The variables of sm_drivers' environment.py.

    Args:
        request: the training request.
        hyperparameters: decoded.
        source: sourcecode.json.
        distributed: distributed.json; empty for a plain script.
    """
    channels = list(input_data_config(request))
    own: dict[str, Any] = {
        **common(request, channels, hyperparameters),
        "SM_LOG_LEVEL": (request.get("Environment") or {}).get("SM_LOG_LEVEL", "20"),
        "SM_MASTER_ADDR": HOST,
        "SM_MASTER_PORT": MASTER_PORT,
        "SM_HOST_COUNT": 1,
        "SM_CURRENT_HOST_RANK": 0,
        **{f"SM_HP_{name.replace('-', '_').upper()}": value for name, value in hyperparameters.items()},
    }
    if source:
        own |= {"SM_SOURCE_DIR": CODE_CHANNEL, "SM_ENTRY_SCRIPT": source.get("entry_script", "")}
    if distributed:
        own |= {
            "SM_DISTRIBUTED_DRIVER_DIR": f"{DRIVERS_CHANNEL}/distributed_drivers",
            "SM_DISTRIBUTED_CONFIG": distributed,
        }
    own["SM_TRAINING_ENV"] = {
        **training_env(request, channels, hyperparameters),
        "input_data_dir": f"{ML}/input/data",
        "log_level": own["SM_LOG_LEVEL"],
        "master_addr": HOST,
        "master_port": MASTER_PORT,
        "num_neurons": 0,
    }
    return {**(request.get("Environment") or {}), **{name: encoded(value) for name, value in own.items()}}


def toolkit_environment(
    request: Mapping[str, Any], every: Mapping[str, Any], own: Mapping[str, Any], program: str, flags: list[str]
) -> dict[str, str]:
    """The variables of the toolkit's `Environment.to_env_vars`.

    Args:
        request: the training request.
        every: all hyperparameters, decoded.
        own: those of the script.
        program: the entry point.
        flags: its arguments.
    """
    channels = sorted(input_data_config(request))
    prefixed = {name: value for name, value in every.items() if name.startswith("sagemaker_")}
    framework = {n: v for n, v in prefixed.items() if n.removeprefix("sagemaker_") not in TOOLKIT_OWN}
    group = resource_config(request)["instance_groups"][0]
    module = {
        "module_dir": str(every.get("sagemaker_submit_directory", TOOLKIT_CODE)),
        "module_name": program.removesuffix(".py"),
        "user_entry_point": program,
        "framework_module": None,
        "log_level": every.get("sagemaker_container_log_level", 20),
        "output_intermediate_dir": f"{ML}/output/intermediate",
    }
    values: dict[str, Any] = {
        **common(request, channels, own),
        "SM_FRAMEWORK_PARAMS": framework,
        "SM_CURRENT_INSTANCE_GROUP": GROUP,
        "SM_CURRENT_INSTANCE_GROUP_HOSTS": [HOST],
        "SM_INSTANCE_GROUPS": [GROUP],
        "SM_INSTANCE_GROUPS_DICT": {GROUP: group},
        "SM_DISTRIBUTION_INSTANCE_GROUPS": [],
        "SM_IS_HETERO": False,
        "SM_USER_ARGS": flags,
        **{f"SM_{name.upper()}": value for name, value in module.items()},
        **{f"SM_HP_{name.upper()}": value for name, value in own.items()},
        "SM_TRAINING_ENV": {
            **training_env(request, channels, own),
            **module,
            "additional_framework_parameters": framework,
            "input_config_dir": f"{ML}/input/config",
            "is_master": True,
            "master_hostname": HOST,
            "output_dir": f"{ML}/output",
        },
    }
    texts = {name: compact(value) for name, value in values.items()}
    return {
        "PYTHONPATH": TOOLKIT_CODE,
        "SAGEMAKER_REGION": "us-east-1",
        **(request.get("Environment") or {}),
        **texts,
    }


def common(request: Mapping[str, Any], channels: list[str], hyperparameters: Mapping[str, Any]) -> dict[str, Any]:
    """The variables that both set, not yet texts."""
    return {
        **job_variables(request),
        "SM_MODEL_DIR": f"{ML}/model",
        "SM_INPUT_DIR": f"{ML}/input",
        "SM_INPUT_DATA_DIR": f"{ML}/input/data",
        "SM_INPUT_CONFIG_DIR": f"{ML}/input/config",
        "SM_OUTPUT_DIR": f"{ML}/output",
        "SM_OUTPUT_FAILURE": f"{ML}/output/failure",
        "SM_OUTPUT_DATA_DIR": f"{ML}/output/data",
        "SM_CHANNELS": channels,
        **{f"SM_CHANNEL_{channel.upper()}": f"{ML}/input/data/{channel}" for channel in channels},
        "SM_HPS": hyperparameters,
        "SM_CURRENT_HOST": HOST,
        "SM_CURRENT_INSTANCE_TYPE": instance_type(request),
        "SM_HOSTS": [HOST],
        "SM_NETWORK_INTERFACE_NAME": "eth0",
        "SM_NUM_CPUS": os.cpu_count() or 1,
        "SM_NUM_GPUS": gpu_count(),
        "SM_NUM_NEURONS": 0,
        "SM_RESOURCE_CONFIG": resource_config(request),
        "SM_INPUT_DATA_CONFIG": input_data_config(request),
    }


def training_env(request: Mapping[str, Any], channels: list[str], hyperparameters: Mapping[str, Any]) -> dict[str, Any]:
    """SM_TRAINING_ENV, as far as both agree."""
    return {
        "channel_input_dirs": {channel: f"{ML}/input/data/{channel}" for channel in channels},
        "current_host": HOST,
        "current_instance_type": instance_type(request),
        "hosts": [HOST],
        "hyperparameters": hyperparameters,
        "input_config_dir": f"{ML}/input/config",
        "input_data_config": input_data_config(request),
        "input_dir": f"{ML}/input",
        "job_name": request["TrainingJobName"],
        "model_dir": f"{ML}/model",
        "network_interface_name": "eth0",
        "num_cpus": os.cpu_count() or 1,
        "num_gpus": gpu_count(),
        "output_data_dir": f"{ML}/output/data",
        "resource_config": resource_config(request),
    }


def job_variables(request: Mapping[str, Any]) -> dict[str, str]:
    """What every training container has."""
    return {"TRAINING_JOB_NAME": request["TrainingJobName"], "TRAINING_JOB_ARN": request["TrainingJobArn"]}


def instance_type(request: Mapping[str, Any]) -> str:
    """What the request asks for, though it runs here."""
    resources = request.get("ResourceConfig") or {}
    groups = resources.get("InstanceGroups") or [{}]
    return str(resources.get("InstanceType") or groups[0].get("InstanceType") or "local")


def resource_config(request: Mapping[str, Any]) -> dict[str, Any]:
    """resourceconfig.json of a training job on one host."""
    group = {"instance_group_name": GROUP, "instance_type": instance_type(request), "hosts": [HOST]}
    return {
        "current_host": HOST,
        "current_instance_type": instance_type(request),
        "current_group_name": GROUP,
        "hosts": [HOST],
        "instance_groups": [group],
        "network_interface_name": "eth0",
    }


def input_data_config(request: Mapping[str, Any]) -> dict[str, Any]:
    """inputdataconfig.json: one entry a channel."""
    found: dict[str, Any] = {}
    for channel in request.get("InputDataConfig") or []:
        source = channel["DataSource"]["S3DataSource"]
        mode = channel.get("InputMode") or request["AlgorithmSpecification"].get("TrainingInputMode") or "File"
        found[channel["ChannelName"]] = {
            "TrainingInputMode": mode,
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


def encoded(value: Any) -> str:
    """A value as sm_drivers writes it: strings bare, everything else JSON."""
    return value if isinstance(value, str) else json.dumps(value)


def compact(value: Any) -> str:
    """A value as the toolkit's environment has it: strings bare, nothing for null, everything else compact JSON."""
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True, separators=(",", ":"))
