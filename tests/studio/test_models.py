"""The pages of the model registry, on groups that no pipeline has made: hostile names, versions with nothing kept."""

import json
from typing import Any

import pytest

from pipeline.local import session
from tests.studio.conftest import Studio

GROUP, HOSTILE = "Boots", "<script>alert(1)</script>"
PREDICTED = {
    "1": f"a.png,cat,dog b.png,dog,dog c.png,{HOSTILE},cat d.png,dog,dog",
    "2": f"a.png,cat,cat b.png,dog,{HOSTILE} c.png,{HOSTILE},dog e.png,dog,dog",
}


@pytest.fixture(scope="module")
def sagemaker(studio: Studio) -> Any:
    """A group with two evaluated versions and one of which nothing is known."""
    here = session(studio.home)
    client, s3 = here.client("sagemaker"), here.client("s3")
    container = {"Image": "any", "ModelDataUrl": "s3://models/model.tar.gz"}
    for number, accuracy in (("1", 0.5), ("2", 0.75)):
        lines = ["name,label,predicted,score", *(f"{each},0.9" for each in PREDICTED[number].split())]
        s3.put_object(Bucket="b", Key=f"{number}/predictions.csv", Body="\n".join(lines).encode())
        figures = {"accuracy": {"value": accuracy}, "per_class": {HOSTILE: {"recall": accuracy}}}
        document = json.dumps({"multiclass_classification_metrics": figures}).encode()
        s3.put_object(Bucket="b", Key=f"{number}/evaluation.json", Body=document)
        statistics = {"ContentType": "application/json", "S3Uri": f"s3://b/{number}/evaluation.json"}
        client.create_model_package(
            ModelPackageGroupName=GROUP,
            InferenceSpecification={"Containers": [container], "SupportedContentTypes": ["image/png"]},
            ModelMetrics={"ModelQuality": {"Statistics": statistics}},
            CustomerMetadataProperties={"accuracy": str(accuracy), "classes": f"3: cat / dog / {HOSTILE}"},
            ModelCard={
                "ModelCardStatus": "Draft",
                "ModelCardContent": json.dumps({"intended_uses": {"risk_rating": HOSTILE, "more": [1, {"a": None}]}}),
            },
            MetadataProperties={"CommitId": f"c0ffee{number}"},
        )
    client.create_model_package(ModelPackageGroupName=GROUP, CustomerMetadataProperties={"f1": "0.25", "note": "x"})
    return client


def test_without_a_model_the_page_says_how_one_is_made(studio: Studio) -> None:
    assert "run_pipeline.py run" in studio.get("/models").text


def test_versions_are_listed_with_what_is_known_of_them(studio: Studio, sagemaker: Any) -> None:
    found = studio.get("/models").text
    assert "0.75" in found
    assert "PendingManualApproval" in found
    assert HOSTILE not in found


def test_a_version_shows_its_card_its_origin_and_where_it_differs_from_another(studio: Studio, sagemaker: Any) -> None:
    found = studio.get(f"/models/{GROUP}/2?with=1").text
    for said in ("Risk rating", "c0ffee2", "Not registered by a pipeline", "+0.2500", "the two differ on 3",
                 "Right now, wrong before: 1", "Wrong now, right before: 1", "Wrong in another way: 1"):  # fmt: skip
        assert said in found
    assert HOSTILE not in found
    assert "3 images are in the test split of both" in found


def test_what_was_not_kept_is_said(studio: Studio, sagemaker: Any) -> None:
    found = studio.get(f"/models/{GROUP.lower()}/3?with=1").text
    assert "registered without a model card" in found
    assert "predictions.csv" in found
    assert "0.25" in found


def test_a_decision_is_kept_with_its_comment(studio: Studio, sagemaker: Any) -> None:
    page = f"/models/{GROUP}/1"
    for decision in ("Approved", "Rejected"):
        found = studio.post(page, {"decision": decision, "comment": f"since {HOSTILE}"})
        assert f"Version 1 is {decision} now." in found.text
        assert HOSTILE not in found.text
        described = sagemaker.describe_model_package(ModelPackageName=f"{GROUP}/1")
        assert described["ModelApprovalStatus"] == decision
        assert described["ApprovalDescription"] == f"since {HOSTILE}"


@pytest.mark.parametrize("place", ["/models/none/1", f"/models/{GROUP}/9", f"/models/{GROUP}/%3Cscript%3E"])
def test_a_version_that_is_not_there_is_named(studio: Studio, sagemaker: Any, place: str) -> None:
    found = studio.get(place)
    assert (found.status_code, "<script>" in found.text) == (404, False)
    assert "There is no model version" in found.text
    assert studio.post(place, {"decision": "Approved"}).status_code == 404
