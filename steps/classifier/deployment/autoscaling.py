"""Application Auto Scaling for an endpoint: a scalable target and one target tracking policy.

Both requests may be repeated. The endpoint has to be InService for them, so a new endpoint gets its autoscaling by the
state change event that says that it is (or by the next call), not by the call that creates it. An update keeps it, as
the name of the variant stays.
"""

from typing import Any

from botocore.exceptions import ClientError

from classifier.deployment.hosting import Hosting
from classifier.deployment.rollout import VARIANT
from classifier.deployment.services import client, message

POLICY_NAME = "invocations-per-instance"
COOLDOWN_SECONDS = 300


def apply_autoscaling(hosting: Hosting) -> None:
    """Bring an InService endpoint's autoscaling to what is configured; nothing is called when nothing is."""
    if not hosting.autoscaling_max:
        return
    if not hosting.is_autoscaled:
        stop_autoscaling(hosting)
        return
    autoscaling = client("application-autoscaling")
    low, high = hosting.autoscaling_min, hosting.autoscaling_max
    autoscaling.register_scalable_target(**_target(hosting), MinCapacity=low, MaxCapacity=high)
    autoscaling.put_scaling_policy(
        **_target(hosting),
        PolicyName=POLICY_NAME,
        PolicyType="TargetTrackingScaling",
        TargetTrackingScalingPolicyConfiguration={
            "TargetValue": hosting.autoscaling_target,
            "PredefinedMetricSpecification": {"PredefinedMetricType": "SageMakerVariantInvocationsPerInstance"},
            "ScaleInCooldown": COOLDOWN_SECONDS,
            "ScaleOutCooldown": COOLDOWN_SECONDS,
        },
    )


def stop_autoscaling(hosting: Hosting) -> None:
    """Deregister the target, which also removes its policies and their alarms; it may not be there."""
    if not hosting.autoscaling_max:
        return
    try:
        client("application-autoscaling").deregister_scalable_target(**_target(hosting))
    except ClientError as error:
        is_missing = error.response["Error"]["Code"] == "ObjectNotFoundException"
        if not is_missing and "no scalable target" not in message(error).lower():
            raise


def _target(hosting: Hosting) -> dict[str, Any]:
    return {
        "ServiceNamespace": "sagemaker",
        "ResourceId": f"endpoint/{hosting.endpoint_name}/variant/{VARIANT}",
        "ScalableDimension": "sagemaker:variant:DesiredInstanceCount",
    }
