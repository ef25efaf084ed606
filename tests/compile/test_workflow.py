"""The compiled definition: pure, the same bytes everywhere, and what pipeline.yaml says is in it."""

import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

from pipeline.cli.runs import Start, choose_steps
from pipeline.compile.placement import Placement
from pipeline.config.config import describe_pipeline, load
from tests.compile.definitions import HERE, steps_of

ROOT = Path(__file__).parents[2]


def printed(folder: Path, words: list[str], environment: dict[str, str]) -> bytes:
    """What `definition` prints, in a process of its own."""
    command = [*words, sys.executable, str(ROOT / "run_pipeline.py"), "definition"]
    found = {"PATH": os.environ["PATH"], "HOME": str(folder), "PYTHONDONTWRITEBYTECODE": "1", **environment}
    done = subprocess.run(command, cwd=folder, env=found, capture_output=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr.decode()
    assert done.stderr == b""
    return done.stdout


def without_network() -> list[str]:
    """The words that start a command without a network; none where the machine does not allow it."""
    for words in (["unshare", "-n"], ["unshare", "-rn"]) if shutil.which("unshare") else ():
        if subprocess.run([*words, "true"], capture_output=True, check=False).returncode == 0:
            return words
    return []


def test_the_same_bytes_anywhere_without_network_whatever_the_machine_says_about_aws(tmp_path):
    wrong = tmp_path / "aws-config"
    wrong.write_text("this is no configuration")
    odd = {
        "AWS_PROFILE": "nobody",
        "AWS_CONFIG_FILE": str(wrong),
        "AWS_DEFAULT_REGION": "eu-central-1",
        "AWS_RETRY_MODE": "wild",
        "AWS_ENDPOINT_URL": "http://127.0.0.1:9",
        "SAGEMAKER_USER_CONFIG_OVERRIDE": str(wrong),
        "PYTHONHASHSEED": "7",
    }
    bare = printed(tmp_path, without_network(), {})
    assert bare == printed(Path("/"), [], odd)
    assert json.loads(bare)["Version"] == "2020-12-01"
    assert [entry.name for entry in tmp_path.iterdir()] == ["aws-config"]  # nothing was written


def test_the_steps_of_the_workflow_are_there_with_all_that_studio_shows(compiled):
    steps = steps_of(compiled())
    assert {name: step["Type"] for name, step in steps.items()} == {
        "DescribeInputs": "Lambda",
        "PrepareData": "Processing",
        "TuneHyperparameters": "Tuning",
        "TrainWithDebugger": "Training",
        "EvaluateModel": "Processing",
        "CheckAccuracy": "Condition",
        "CheckIsNew": "Condition",
        "RegisterModel": "RegisterModel",
        "DeployEndpoint": "Lambda",
        "ModelRefused": "Fail",
    }
    for name, step in steps.items():
        assert step["DisplayName"], name
        assert step["Description"].endswith("."), name
    assert "CacheConfig" not in steps["DescribeInputs"]
    for name in ("PrepareData", "TuneHyperparameters", "TrainWithDebugger", "EvaluateModel"):
        assert steps[name]["CacheConfig"] == {"Enabled": True, "ExpireAfter": "P30D"}
        assert steps[name]["RetryPolicies"]
        arguments = steps[name]["Arguments"].get("TrainingJobDefinition", steps[name]["Arguments"])
        assert arguments["StoppingCondition"]["MaxRuntimeInSeconds"] > 0


def test_nothing_in_it_tells_when_or_where_it_was_compiled(compiled):
    text = json.dumps(compiled())
    assert str(ROOT) not in text
    assert str(Path.cwd()) not in text
    assert not re.search(r"\d{4}-\d\d-\d\d(?!\")", text)  # the version's date is the only one


def test_seeds_of_zero_are_kept(compiled):
    steps = steps_of(compiled("tuning: {seed: 0}\ntraining: {seed: 0}\ndata: {split_seed: 0}\n"))
    assert steps["TuneHyperparameters"]["Arguments"]["HyperParameterTuningJobConfig"]["RandomSeed"] == 0
    assert steps["TuneHyperparameters"]["Arguments"]["TrainingJobDefinition"]["StaticHyperParameters"]["seed"] == "0"
    assert steps["TrainWithDebugger"]["Arguments"]["HyperParameters"]["seed"] == "0"
    words = steps["PrepareData"]["Arguments"]["AppSpecification"]["ContainerArguments"]
    assert words[words.index("--split-seed") + 1] == "0"


@pytest.mark.parametrize(
    ("size", "finetune", "expected"), [("auto", "all", ["all"]), ("auto", "none", []), ("256", "all", [])]
)
def test_only_an_auto_size_depends_on_whether_the_backbone_learns(
    compiled, size: str, finetune: str, expected: list[str]
):
    steps = steps_of(compiled(f"data: {{image_size_px: {size}}}\nmodel: {{finetune: {finetune}}}\n"))
    words = steps["PrepareData"]["Arguments"]["AppSpecification"]["ContainerArguments"]
    assert words[words.index("--image-size") + 1] == size
    assert [value for name, value in pairwise(words) if name == "--finetune"] == expected


def test_the_cache_of_embeddings_is_read_and_added_to_and_the_same_for_every_execution(compiled):
    arguments = steps_of(compiled("data: {instance_count: 3}\nmodel: {backbone: tf_efficientnet_lite0}\n"))[
        "PrepareData"
    ]["Arguments"]
    [given] = [i["S3Input"] for i in arguments["ProcessingInputs"] if i["InputName"] == "embedding_cache"]
    outputs = arguments["ProcessingOutputConfig"]["Outputs"]
    [added] = [o["S3Output"] for o in outputs if o["OutputName"] == "embedding_cache"]
    [known] = [i["S3Input"]["S3Uri"] for i in arguments["ProcessingInputs"] if i["InputName"] == "split_history"]
    assert known in [o["S3Output"]["S3Uri"] for o in outputs if o["OutputName"] == "split_history"]
    assert given["S3Uri"] == added["S3Uri"]
    assert given["S3Uri"].endswith("/image-classification/embedding-cache/tf_efficientnet_lite0")
    assert added["S3UploadMode"] == "Continuous"
    assert {o["S3Output"]["S3UploadMode"] for o in outputs if o["OutputName"] != "embedding_cache"} == {"EndOfJob"}
    assert arguments["ProcessingResources"]["ClusterConfig"]["InstanceCount"] == 3
    words = arguments["AppSpecification"]["ContainerArguments"]
    assert words[words.index("--embedding-cache") + 1] == given["LocalPath"]
    assert words[words.index("--resource-config") + 1] == "/opt/ml/config/resourceconfig.json"


def test_the_runtime_parameters_are_those_of_the_design_with_the_defaults_of_the_file(compiled):
    text = "evaluation: {accuracy_threshold: 0.9}\nregistry: {approval_status: PendingManualApproval}\n"
    declared = {parameter["Name"]: parameter for parameter in compiled(text)["Parameters"]}
    assert list(declared) == [
        "InputDataUri",
        "AccuracyThreshold",
        "ModelApprovalStatus",
        "MaxTuningJobs",
        "MaxParallelTuningJobs",
        "ProcessingInstanceType",
        "TuningInstanceType",
        "TrainingInstanceType",
        "EndpointName",
        "ReplaceClasses",
    ]
    assert declared["AccuracyThreshold"]["DefaultValue"] == 0.9
    assert declared["ModelApprovalStatus"]["DefaultValue"] == "PendingManualApproval"
    assert declared["InputDataUri"]["DefaultValue"] == "s3://local/data"


def test_a_definition_for_another_account_differs_in_its_placement_only(compiled):
    other = Placement(
        region="eu-west-1",
        account_id="123456789012",
        bucket="images-eu",
        role_arn="arn:aws:iam::123456789012:role/pipeline",
        training_image="123456789012.dkr.ecr.eu-west-1.amazonaws.com/training:1",
        inference_image="123456789012.dkr.ecr.eu-west-1.amazonaws.com/inference:1",
        job_role_arn="arn:aws:iam::123456789012:role/job",
        deploy_function="deploy",
        inputs_function="inputs",
        auto_approves=True,
    )
    here, there = json.dumps(compiled()), json.dumps(compiled(placement=other))
    for old, new in (
        (HERE.training_image, other.training_image),
        (HERE.inference_image, other.inference_image),
        (HERE.job_role_arn, other.job_role_arn),
        (HERE.function_arn("deploy"), other.function_arn("deploy")),
        (HERE.function_arn("inputs"), other.function_arn("inputs")),
        ('REGION": "us-east-1"', 'REGION": "eu-west-1"'),
        ("s3://local/image-classification", "s3://images-eu/image-classification"),
    ):
        assert old in here
        here = here.replace(old, new)
    assert here == there


def test_the_condition_names_both_numbers_when_it_fails(compiled):
    steps = steps_of(compiled())
    condition, _ = steps["CheckAccuracy"]["Arguments"]["Conditions"]
    assert condition["Type"] == "GreaterThanOrEqualTo"
    assert condition["RightValue"] == {"Get": "Parameters.AccuracyThreshold"}
    assert condition["LeftValue"]["Std:JsonGet"]["Path"] == "multiclass_classification_metrics.accuracy.value"
    said = steps["ModelRefused"]["Arguments"]["ErrorMessage"]["Std:Join"]["Values"]
    assert condition["LeftValue"] in said
    assert condition["RightValue"] in said


def test_the_version_of_the_data_is_an_argument_of_its_preparation(compiled):
    steps = steps_of(compiled())
    words = steps["PrepareData"]["Arguments"]["AppSpecification"]["ContainerArguments"]
    version = {"Get": "Steps.DescribeInputs.OutputParameters['data_version']"}
    assert words[words.index("--data-version") + 1] == version
    assert steps["DescribeInputs"]["Arguments"]["data_uri"] == {"Get": "Parameters.InputDataUri"}


def test_an_mlflow_server_follows_executions_where_one_is_named(compiled):
    server = "arn:aws:sagemaker:us-east-1:123456789012:mlflow-tracking-server/ours"
    followed = compiled(placement=dataclasses.replace(HERE, mlflow_tracking_server_arn=server))
    named = {"MlflowResourceArn": server, "MlflowExperimentName": "image-classification"}
    assert [compiled()["MlflowConfig"], followed["MlflowConfig"]] == [None, named]


@pytest.mark.parametrize("words", ["Sorts images.", "w" * 1024])
def test_the_description_says_what_each_parameter_means(compiled, tmp_path, words):
    path = tmp_path / "pipeline.yaml"
    path.write_text(f"pipeline: {{description: '{words}'}}")
    names = [found["Name"] for found in compiled(warm_start_parent="search-1")["Parameters"]]
    text = describe_pipeline(load(path), names)
    assert text.startswith(words)
    assert len(text) <= 3072 and "\n" not in text  # AWS API, PipelineDescription
    assert all(f"{name}: " in text for name in names)


@pytest.mark.parametrize(
    ("start", "looks_again"),
    [
        (Start(from_step="PrepareData"), True),
        (Start(only="PrepareData"), True),
        (Start(from_step="DescribeInputs"), True),
        (Start(from_step="EvaluateModel"), False),  # the steps between are not chosen
        (Start(only="RegisterModel"), False),
    ],
)
def test_chosen_steps_look_at_the_data_again_where_that_can_be_chosen_too(compiled, start, looks_again):
    config, needed = choose_steps(start, compiled())
    chosen = [step["StepName"] for step in config["SelectedSteps"]]
    assert chosen.count("DescribeInputs") == looks_again
    assert ("DescribeInputs" in needed) is (start.from_step == "EvaluateModel")
