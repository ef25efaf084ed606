"""What a definition asks for that one machine cannot give: said once, by name, when a run has been started."""

from collections.abc import Mapping
from typing import Any

from pipeline.definition.check import check
from pipeline.definition.steps import Definition, members

NOT_HONOURED = {
    "InstanceType": "instance types",
    "SupportedRealtimeInferenceInstanceTypes": "instance types",
    "VolumeSizeInGB": "volume sizes",
    "RoleArn": "roles",
    "VpcConfig": "VPCs",
    "EnableInterContainerTrafficEncryption": "traffic encryption",
    "KmsKeyId": "KMS keys",
    "VolumeKmsKeyId": "KMS keys",
    "EnableManagedSpotTraining": "spot capacity",
    "TrainingImage": "images",
    "ImageUri": "images",
    "Image": "images",
}

ISOLATION = "EnableNetworkIsolation"
ONE_INSTANCE = ("TransformResources",)  # Processing and Training jobs have as many hosts as they ask for


def not_honoured(definition: Mapping[str, Any]) -> str:
    """One sentence; empty when there is nothing to say."""
    found = [pair for step in Definition(definition).all_steps for pair in members(step.arguments)]
    names = {NOT_HONOURED[key] for key, value in found if key in NOT_HONOURED and value}
    clusters = [value for key, value in found if key in ONE_INSTANCE and isinstance(value, dict)]
    if any(cluster.get("InstanceCount", 1) != 1 for cluster in clusters):
        names.add("instance counts")
    requests = [*(step.arguments for step in Definition(definition).all_steps), *(value for _, value in found)]
    isolated = [value for value in requests if isinstance(value, dict) and value.get(ISOLATION)]
    if any("PrimaryContainer" in value or "Containers" in value for value in isolated):
        names.add("network isolation of models")
    if isolated and any(key == "InstanceCount" and isinstance(count, int) and count > 1 for key, count in found):
        names.add("network isolation of jobs with several hosts")
    if not names:
        return ""
    *most, last = sorted(names)
    ignored = f"{', '.join(most)} and {last}" if most else last
    return f"Local target: every job runs on this machine, in this Python environment; ignored are {ignored}."


def unknown_members(definition: Mapping[str, Any]) -> str:
    """What no reader here knows, in a sentence: a misspelt member, or one that is newer than the installed botocore."""
    found = [problem for problem in check(definition) if " is not a member of " in problem]
    return (
        f"Ignored, and refused by SageMaker unless it is newer than botocore here: {' '.join(found[:3])}"
        if found
        else ""
    )
