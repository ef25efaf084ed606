"""What a definition asks for that one machine cannot give: said once, by name, before a run."""

from collections.abc import Iterator
from typing import Any

NOT_HONOURED = {
    "InstanceType": "instance types",
    "SupportedRealtimeInferenceInstanceTypes": "instance types",
    "VolumeSizeInGB": "volume sizes",
    "RoleArn": "roles",
    "VpcConfig": "VPCs",
    "NetworkConfig": "network settings",
    "KmsKeyId": "KMS keys",
    "VolumeKmsKeyId": "KMS keys",
    "EnableManagedSpotTraining": "spot capacity",
    "EnableNetworkIsolation": "network settings",
    "TrainingImage": "images",
    "ImageUri": "images",
    "Image": "images",
}

ONE_INSTANCE = ("TransformResources",)  # Processing and Training jobs have as many hosts as they ask for


def not_honoured(definition: dict[str, Any]) -> str:
    """One sentence; empty when there is nothing to say."""
    names = {NOT_HONOURED[key] for key, value in members(definition) if key in NOT_HONOURED and value}
    clusters = [value for key, value in members(definition) if key in ONE_INSTANCE and isinstance(value, dict)]
    if any(cluster.get("InstanceCount", 1) != 1 for cluster in clusters):
        names.add("instance counts")
    if not names:
        return ""
    return f"Local target: every job runs on this machine, in this Python environment; ignored are {listing(names)}."


def listing(names: set[str]) -> str:
    """a, b and c."""
    ordered = sorted(names)
    return ordered[0] if len(ordered) == 1 else f"{', '.join(ordered[:-1])} and {ordered[-1]}"


def members(value: Any) -> Iterator[tuple[str, Any]]:
    """Every member in a JSON value, at any depth."""
    if isinstance(value, dict):
        for key, member in value.items():
            yield key, member
            yield from members(member)
    elif isinstance(value, list):
        for item in value:
            yield from members(item)
