"""What the compiled definition demands of a model before it is registered, and what a version carries."""

import dataclasses
import json

import pytest

from pipeline.local.checks.requests import as_request
from pipeline.local.engine.values import Scope, holds, resolve
from tests.compile.definitions import HERE, Json, steps_of

COMMIT = "0123456789abcdef0123456789abcdef01234567"
ARN = "arn:aws:sagemaker:us-east-1:000000000000:pipeline/p/execution/abc"


@pytest.fixture(scope="module")
def steps(compiled):
    """A function from settings of `registry` to the compiled steps by name, those of branches included."""

    def found(registry: str = "{}", commit: str | None = None) -> dict[str, Json]:
        return steps_of(compiled(f"registry: {registry}", commit=commit))

    return found


ON = "{require_improvement: true, improvement_margin: 0.01}"


def scope(document: Json, registered: str = "none", approved: str = "none") -> Scope:
    """Where EvaluateModel wrote this evaluation.json, and DescribeInputs found models of these digests."""
    known = {"registered_sha256": registered, "champion_sha256": approved}
    return Scope(
        parameters={"AccuracyThreshold": 0.8, "ModelApprovalStatus": "Approved"},
        steps={
            "EvaluateModel": {"ProcessingOutputConfig": {"Outputs": []}},
            "DescribeInputs": {"OutputParameters": known},
        },
        execution={"PipelineExecutionArn": ARN},
        read_property_file=lambda step, file: document,
        read_json=lambda uri: {},
    )


def measured(accuracy: float, improvement: float, champion: str = "digits/3 with accuracy 0.9500") -> Json:
    return {
        "multiclass_classification_metrics": {"accuracy": {"value": accuracy}},
        "words": {"accuracy": "268 images, 95 %: 0.905 to 0.963", "training_faults": ""},
        "training_faults": {"value": 0},
        "improvement": {"value": improvement, "champion": champion},
        "model_sha256": "abc",
    }


def test_when_off_nothing_of_it_is_in_the_definition(steps):
    text = json.dumps([steps()[name] for name in ("EvaluateModel", "CheckAccuracy", "DeployEndpoint")])
    assert "champion" not in text
    assert "improvement" not in text
    assert steps()["EvaluateModel"]["CacheConfig"]["Enabled"]


def test_when_on_the_champion_is_an_input_whose_version_is_part_of_the_cache_key(steps):
    evaluate = steps(ON)["EvaluateModel"]
    inputs = {each["InputName"]: each["S3Input"] for each in evaluate["Arguments"]["ProcessingInputs"]}
    assert inputs["champion"]["S3Uri"] == "s3://local/image-classification/champion"
    words = evaluate["Arguments"]["AppSpecification"]["ContainerArguments"]
    assert words[words.index("--champion-dir") + 1] == inputs["champion"]["LocalPath"]
    assert words[words.index("--improvement-margin") + 1] == "0.01"
    champion = {"Get": "Steps.DescribeInputs.OutputParameters['champion']"}
    assert words[words.index("--champion-version") + 1] == champion
    assert evaluate["CacheConfig"]["Enabled"]
    assert set(steps(ON)["DeployEndpoint"]["Arguments"]) == {"model_package_arn", "endpoint_name"}


@pytest.mark.parametrize(
    ("registry", "accuracy", "improvement", "known", "accepted", "registers"),
    [
        (ON, 0.96, 0.01, {}, True, True),
        (ON, 0.96, 0.009, {}, False, False),
        (ON, 0.79, 0.5, {}, False, False),
        (ON, 0.8, 0.8, {"registered": "def", "approved": "ghi"}, True, True),
        (ON, 0.96, 0.0, {"registered": "abc"}, True, False),  # a known model need not improve on itself
        (ON, 0.96, 0.0, {"registered": "def", "approved": "abc"}, True, False),
        (ON, 0.79, 0.0, {"registered": "abc"}, False, False),
        ("{}", 0.96, 0.0, {}, True, True),
        ("{}", 0.96, 0.0, {"registered": "abc", "approved": "def"}, True, False),
        ("{}", 0.96, 0.0, {"approved": "abc"}, True, False),
        ("{}", 0.79, 0.0, {"approved": "abc"}, False, False),
    ],
)
def test_a_model_is_registered_if_it_meets_every_demand_and_is_new(
    steps, registry, accuracy, improvement, known, accepted, registers
):
    found, there = steps(registry), scope(measured(accuracy, improvement), **known)
    decided = [holds(found[name]["Arguments"]["Conditions"], there) for name in ("CheckAccuracy", "CheckIsNew")]
    assert decided == [accepted, registers]
    assert [step["Name"] for step in found["CheckIsNew"]["Arguments"]["IfSteps"]] == ["RegisterModel", "DeployEndpoint"]


@pytest.mark.parametrize(
    ("placed", "text", "parameter", "status"),
    [
        ({}, "{}", "Approved", {"Get": "Parameters.ModelApprovalStatus"}),
        (
            {},
            "{approval_status: PendingManualApproval}",
            "PendingManualApproval",
            {"Get": "Parameters.ModelApprovalStatus"},
        ),
        ({"auto_approves": False}, "{}", None, "PendingManualApproval"),
        ({"auto_approves": False}, "{approval_status: PendingManualApproval}", None, "PendingManualApproval"),
    ],
)
def test_nobody_can_start_with_an_approval_where_versions_do_not_approve_themselves(
    compiled, placed, text, parameter, status
):
    definition = compiled(f"registry: {text}", placement=dataclasses.replace(HERE, **placed))
    defaults = {found["Name"]: found["DefaultValue"] for found in definition["Parameters"]}
    assert defaults.get("ModelApprovalStatus") == parameter
    assert steps_of(definition)["RegisterModel"]["Arguments"]["ModelApprovalStatus"] == status


def test_refusal_names_every_number(steps):
    message = steps(ON)["ModelRefused"]["Arguments"]["ErrorMessage"]
    assert resolve(message, scope(measured(0.94, -0.01))) == (
        "Test accuracy 0.94 (268 images, 95 %: 0.905 to 0.963; at least AccuracyThreshold = 0.8 is needed) is an "
        "improvement of -0.01 over digits/3 with accuracy 0.9500 (at least "
        "registry.improvement_margin = 0.01 is needed), so nothing is registered."
    )


def test_demands_on_interval_classes_and_groups_join_the_condition_and_the_message(compiled):
    steps = steps_of(
        compiled("data: {attributes: a.csv}\ncondition: {lower_bound: true, min_class_recall: 0.7, max_group_gap: 0.1}")
    )
    conditions = steps["CheckAccuracy"]["Arguments"]["Conditions"]
    assert [(found["Type"], found["LeftValue"]["Std:JsonGet"]["Path"]) for found in conditions] == [
        ("GreaterThanOrEqualTo", "multiclass_classification_metrics.accuracy.lower_bound"),
        ("GreaterThanOrEqualTo", "worst_class.recall.value"),
        ("LessThanOrEqualTo", "group_gap.value"),
        ("Equals", "training_faults.value"),
    ]
    assert [found["RightValue"] for found in conditions[1:]] == [0.7, 0.1, 0]
    arguments = steps["EvaluateModel"]["Arguments"]["AppSpecification"]["ContainerArguments"]
    given = ["--min-class-recall", "0.7", "--max-group-gap", "0.1", "--fail-on-rules", "fatal"]
    assert arguments[-6:] == given
    document = {
        "multiclass_classification_metrics": {"accuracy": {"value": 0.9, "lower_bound": 0.82}},
        "worst_class": {"recall": {"value": 0.7}},
        "group_gap": {"value": 0.1},
        "training_faults": {"value": 0},
        "words": {
            "accuracy": "90 images",
            "min_class_recall": "one class",
            "max_group_gap": "one gap",
            "training_faults": "Rule R: bad. ",
        },
    }
    assert holds(conditions, scope(document))
    assert not holds(conditions, scope(document | {"worst_class": {"recall": {"value": 0.69}}}))
    assert not holds(conditions, scope(document | {"group_gap": {"value": 0.11}}))
    assert resolve(steps["ModelRefused"]["Arguments"]["ErrorMessage"], scope(document)) == (
        "Rule R: bad. "
        "Test accuracy 0.9 (90 images, whose lower bound 0.82 counts; at least AccuracyThreshold = 0.8 is needed); "
        "one class; one gap, so nothing is registered."
    )


def test_evaluation_lies_where_no_lifecycle_rule_removes_it(steps):
    [output] = steps()["EvaluateModel"]["Arguments"]["ProcessingOutputConfig"]["Outputs"]
    assert output["S3Output"]["S3Uri"]["Std:Join"]["Values"] == [
        "s3://local/image-classification/evaluations",
        {"Get": "Execution.PipelineExecutionId"},
    ]


def test_registered_version_says_what_it_is_and_where_it_came_from(steps):
    request = steps(commit=COMMIT)["RegisterModel"]["Arguments"]
    assert request["CustomerMetadataProperties"].pop("replace_classes") == {"Get": "Parameters.ReplaceClasses"}
    names = list(request["CustomerMetadataProperties"])
    said = {"customer_metadata_properties": {name: f"the {name}" for name in names}}
    properties = {"MetadataProperties": request["MetadataProperties"], "Customer": {}}
    assert as_request("CreateModelPackage", resolve(properties, scope(said)))["MetadataProperties"] == {
        "CommitId": COMMIT,
        "GeneratedBy": ARN,
    }
    assert resolve(request["CustomerMetadataProperties"], scope(said)) == said["customer_metadata_properties"]
    assert {"accuracy", "macro_f1", "dataset_sha256", "hyperparameters", "rules"} <= set(names)


def test_without_a_commit_none_is_named(steps):
    assert steps()["RegisterModel"]["Arguments"]["MetadataProperties"] == {
        "GeneratedBy": {"Get": "Execution.PipelineExecutionArn"}
    }


def test_evaluate_writes_every_property_that_the_version_carries(steps):
    from classifier.evaluation.metrics import version_metadata
    from classifier.model.accuracy import figure

    figures = {name: figure(0.5, 8) for name in ("accuracy", "macro_f1", "top_5_accuracy", "loss")}
    document = {
        "multiclass_classification_metrics": figures, "test_images": 1, "dataset_images": 9,
        "classes": ["hat", "cap"], "dataset_sha256": "0", "hyperparameters": {},
        "model_sha256": "1", "archive_sha256": "2",
        "rules": {}, "worst_class": {"class": "hat", "recall": figures["accuracy"]}, "group_gap": {"value": 0.0},
    }  # fmt: skip
    carried = set(steps()["RegisterModel"]["Arguments"]["CustomerMetadataProperties"])
    assert carried - {"replace_classes"} == set(version_metadata(document))


def test_version_carries_its_model_card_and_what_later_requests_are_compared_with(steps):
    card = '{"model_overview":{}}'
    request = steps("{intended_use: Sorting clothes., limits: Not shoes.}")
    arguments = request["EvaluateModel"]["Arguments"]["AppSpecification"]["ContainerArguments"]
    assert [arguments[arguments.index(name) + 1] for name in ("--intended-use", "--limits")] == [
        "Sorting clothes.", "Not shoes.",
    ]  # fmt: skip
    properties = {name: request["RegisterModel"]["Arguments"][name] for name in ("ModelCard", "DriftCheckBaselines")}
    folder = "s3://local/image-classification/evaluations/e"
    written = scope({"model_card": card})
    written.steps["EvaluateModel"]["ProcessingOutputConfig"]["Outputs"] = [
        {"OutputName": "evaluation", "S3Output": {"S3Uri": folder}}
    ]
    found = as_request("CreateModelPackage", resolve(properties, written))
    assert found["ModelCard"] == {"ModelCardContent": card, "ModelCardStatus": "PendingReview"}
    assert found["DriftCheckBaselines"]["ModelQuality"]["Statistics"]["S3Uri"] == f"{folder}/evaluation.json"
    assert found["DriftCheckBaselines"]["ModelDataQuality"]["Statistics"]["S3Uri"] == f"{folder}/baseline.json"
