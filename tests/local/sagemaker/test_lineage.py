"""Lineage from data to the endpoint, asked by boto3 and by the SDK's own table."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from botocore.exceptions import ClientError

from pipeline.local import session
from pipeline.local.jobs.runtime import arn
from pipeline.local.store.state import State

Json = dict[str, Any]
DATA, PREPARED, MODEL = "s3://b/data/é", "s3://b/prepared", "s3://b/jobs/train/output/model.tar.gz"
ROLE = "arn:aws:iam::000000000000:role/local"
PACKAGE = arn("model-package", "my-group/1")


def s3(uri: str) -> Json:
    return {"DataSource": {"S3DataSource": {"S3DataType": "S3Prefix", "S3Uri": uri}}}


@pytest.fixture(scope="module")
def sagemaker(tmp_path_factory) -> Any:
    home: Path = tmp_path_factory.mktemp("home")
    state, client = State(home), session(home).client("sagemaker")
    jobs: list[tuple[str, str, Json]] = [
        ("ProcessingJob", "prepare", {"ProcessingInputs": [{"InputName": "i", "S3Input": {"S3Uri": DATA}}],
         "ProcessingOutputConfig": {"Outputs": [{"OutputName": "o", "S3Output": {"S3Uri": PREPARED}}]}}),
        ("TrainingJob", "train", {"InputDataConfig": [{"ChannelName": "c", **s3(PREPARED)}],
         "AlgorithmSpecification": {"TrainingImage": "image:1"}, "ModelArtifacts": {"S3ModelArtifacts": MODEL}}),
        ("TrainingJob", "other", {"InputDataConfig": [{"ChannelName": "c", **s3(PREPARED + "-2")}]}),
    ]  # fmt: skip
    for number, (kind, name, members) in enumerate(jobs):
        job_arn = arn(kind.replace("Job", "-job").lower(), name)
        known = {
            f"{kind}Name": name,
            f"{kind}Arn": job_arn,
            f"{kind}Status": "Completed",
            "CreationTime": 10.0 + number,
        }
        state.put(kind, name, known | members)
    container = {"Image": "serve:1", "ModelDataUrl": MODEL}
    client.create_model_package(ModelPackageGroupName="my-group", ModelApprovalStatus="Approved",
                                InferenceSpecification={"Containers": [container]})  # fmt: skip
    client.create_model(ModelName="m", ExecutionRoleArn=ROLE, PrimaryContainer={"ModelPackageName": PACKAGE})
    state.put("EndpointConfig", "c", {"EndpointConfigName": "c", "ProductionVariants": [{"ModelName": "m"}]})
    endpoint = {"EndpointName": "e", "EndpointArn": arn("endpoint", "e"), "EndpointConfigName": "c",
                "EndpointStatus": "InService", "CreationTime": 99.0, "Pending": None, "Server": None}  # fmt: skip
    state.put("Endpoint", "e", endpoint)
    return client


def reached(sagemaker: Any, start: str, side: str, other: str) -> set[str]:
    """The entities that associations lead to, without the ARNs' beginnings."""
    known, left = set[str](), [start]
    while left:
        found = sagemaker.list_associations(**{f"{side}Arn": left.pop()})["AssociationSummaries"]
        left += {each[f"{other}Arn"] for each in found} - known
        known |= set(left)
    return {each.partition(":000000000000:")[2] for each in known}


def test_associations_lead_from_the_data_to_the_endpoint_and_back(sagemaker: Any) -> None:
    (data,) = sagemaker.list_artifacts(SourceUri=DATA)["ArtifactSummaries"]
    assert (data["ArtifactType"], data["Source"]["SourceUri"]) == ("DataSet", DATA)
    assert reached(sagemaker, data["ArtifactArn"], "Source", "Destination") == {
        "experiment-trial-component/prepare-aws-processing-job", f"artifact/{PREPARED}",
        "experiment-trial-component/train-aws-training-job", f"artifact/{MODEL}", f"artifact/{PACKAGE}",
        "context/my-group-aws-model-group", "action/e-aws-endpoint", "context/e-aws-endpoint",
    }  # fmt: skip
    (context,) = sagemaker.list_contexts(SourceUri=arn("endpoint", "e"))["ContextSummaries"]
    up = reached(sagemaker, context["ContextArn"], "Destination", "Source")
    assert {f"artifact/{DATA}", "artifact/image:1", "action/my-group-1-Approved-aws-model-package"} <= up
    assert not any("other" in name or "-2" in name for name in up)


def test_entities_are_described_and_listed_by_name_and_type(sagemaker: Any) -> None:
    component = sagemaker.describe_trial_component(TrialComponentName="train-aws-training-job")
    assert component["Source"] == {"SourceArn": arn("training-job", "train"), "SourceType": "SageMakerTrainingJob"}
    assert sagemaker.describe_context(ContextName="my-group-aws-model-group")["ContextType"] == "ModelGroup"
    assert sagemaker.describe_action(ActionName="e-aws-endpoint")["ActionType"] == "ModelDeployment"
    (listed,) = sagemaker.list_trial_components(SourceArn=arn("training-job", "train"))["TrialComponentSummaries"]
    assert listed["TrialComponentArn"] == component["TrialComponentArn"]
    (group,) = sagemaker.list_contexts(SourceUri=arn("model-package-group", "my-group"))["ContextSummaries"]
    assert group["ContextName"] == "my-group-aws-model-group"
    assert sagemaker.list_artifacts(SourceUri=DATA, ArtifactType="Model")["ArtifactSummaries"] == []
    into = sagemaker.list_associations(DestinationArn=component["TrialComponentArn"], SourceType="Image")
    assert [each["SourceArn"] for each in into["AssociationSummaries"]] == [arn("artifact", "image:1")]
    refused = [
        (sagemaker.describe_artifact, {"ArtifactArn": arn("artifact", "s3://b/none")}, "ResourceNotFound"),
        (sagemaker.describe_context, {"ContextName": "none"}, "ResourceNotFound"),
        (sagemaker.list_artifacts, {}, "needs the SourceUri"),
        (sagemaker.list_associations, {}, "needs SourceArn or DestinationArn"),
    ]
    for operation, request, said in refused:
        with pytest.raises(ClientError, match=said):
            operation(**request)


def test_the_sdks_own_table_shows_what_a_package_and_an_endpoint_come_from(sagemaker: Any) -> None:
    from sagemaker.core.lineage.visualizer import LineageTableVisualizer

    table = LineageTableVisualizer(SimpleNamespace(sagemaker_client=sagemaker, boto_session=None))
    rows = table.show(model_package_arn=PACKAGE)[["Direction", "Type", "Association Type", "Lineage Type"]]
    assert sorted(map(tuple, rows.to_numpy().tolist())) == [
        ("Input", "Approval", "ContributedTo", "action"), ("Input", "Image", "ContributedTo", "artifact"),
        ("Input", "Model", "ContributedTo", "artifact"), ("Output", "ModelDeployment", "ContributedTo", "action"),
        ("Output", "ModelGroup", "AssociatedWith", "context"),
    ]  # fmt: skip
    assert list(table.show(training_job_name="train")["Type"]) == ["DataSet", "Image", "Model"]
    assert list(table.show(endpoint_arn=arn("endpoint", "e"))["Type"]) == ["ModelDeployment"]
