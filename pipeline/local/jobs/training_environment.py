"""What a training container finds in its configuration files and, started by sagemaker-training, in its SM_ variables.

Sources: "use your own training algorithms" in the SageMaker guide; sagemaker-training-toolkit's environment.py and
mapping.py for `toolkit_environment`.
"""

import functools
import json
import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.local.jobs.instances import NETWORK_INTERFACE

ML = "/opt/ml"
TOOLKIT_CODE = f"{ML}/code"
GROUP = "homogeneousCluster"
TOOLKIT_OWN = ("program", "submit_directory", "region", "job_name", "enable_cloudwatch_metrics", "container_log_level",
               "s3_output")  # fmt: skip
FOLDERS = {
    "model_dir": f"{ML}/model",
    "input_dir": f"{ML}/input",
    "input_config_dir": f"{ML}/input/config",
    "output_data_dir": f"{ML}/output/data",
}


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
    prefixed = {name: value for name, value in every.items() if name.startswith("sagemaker_")}
    framework = {n: v for n, v in prefixed.items() if n.removeprefix("sagemaker_") not in TOOLKIT_OWN}
    groups = {group["instance_group_name"]: group for group in resources["instance_groups"]}
    current_group = groups[resources["current_group_name"]]
    program = str(every["sagemaker_program"])
    shared: dict[str, Any] = {  # SM_... variables that SM_TRAINING_ENV has under the same names
        **FOLDERS,
        "current_host": resources["current_host"],
        "current_instance_type": resources["current_instance_type"],
        "hosts": resources["hosts"],
        "network_interface_name": resources["network_interface_name"],
        "num_cpus": os.cpu_count() or 1,
        "num_gpus": gpu_count(),
        "resource_config": resources,
        "input_data_config": input_data_config(request),
        "module_dir": str(every.get("sagemaker_submit_directory", TOOLKIT_CODE)),
        "module_name": program.removesuffix(".py"),
        "user_entry_point": program,
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
        "SM_CURRENT_INSTANCE_GROUP_HOSTS": current_group["hosts"],
        "SM_INSTANCE_GROUPS": list(groups),
        "SM_INSTANCE_GROUPS_DICT": groups,
        "SM_DISTRIBUTION_INSTANCE_GROUPS": [],
        "SM_IS_HETERO": False,
        "SM_USER_ARGS": flags,
        "SM_TRAINING_ENV": training_env,
    }
    texts = {name: compact(value) for name, value in values.items()}
    given = request.get("Environment") or {}
    return {"PYTHONPATH": TOOLKIT_CODE, "SAGEMAKER_REGION": "us-east-1", **given, **texts}


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
        "network_interface_name": NETWORK_INTERFACE,
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


def compact(value: Any) -> str:
    """A value as the toolkit's environment has it: strings bare, nothing for null, everything else compact JSON."""
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True, separators=(",", ":"))
