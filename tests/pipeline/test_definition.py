"""The compiled definition: pure, the same bytes everywhere, and what pipeline.yaml says is in it."""

import functools
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import rollout
from pipeline import formats
from pipeline.bundle import training_bundle, trial_bundle
from pipeline.checks import check
from pipeline.config import load
from pipeline.offline import offline
from pipeline.placement import Placement, local_placement

ROOT = Path(__file__).parents[2]
PROCESSING_STEPS = ("PrepareData", "EvaluateModel")
TRAINING_STEPS = ("TuneHyperparameters", "TrainWithDebugger")
KEY = "arn:aws:kms:us-east-1:123456789012:key/1234abcd-12ab-34cd-56ef-1234567890ab"
SEARCHED = ("hidden_units", "dropout", "label_smoothing", "weight_decay")
Json = dict[str, Any]

HERE = local_placement("deploy")

with offline():
    from pipeline.definition import compile_definition


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """A function from the text of a pipeline.yaml to its definition; a sound one."""
    path = tmp_path_factory.mktemp("definition") / "pipeline.yaml"

    @functools.cache  # a second each
    def compile_text(text: str = "data: {source: sample}", placement: Placement = HERE) -> Json:
        path.write_text(text)
        uris = {"input_data_uri": "s3://local/data", "weights_uri": "s3://local/weights"}
        definition: Json = json.loads(compile_definition(load(path), placement, **uris))
        assert check(definition) == []
        return definition

    return compile_text


def steps_of(definition: Json) -> dict[str, Json]:
    """Name -> step, those of branches included."""
    found = {step["Name"]: step for step in definition["Steps"]}
    for step in definition["Steps"]:
        for branch in ("IfSteps", "ElseSteps"):
            found |= {inner["Name"]: inner for inner in step["Arguments"].get(branch, [])}
    return found


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
        "PrepareData": "Processing",
        "TuneHyperparameters": "Tuning",
        "TrainWithDebugger": "Training",
        "EvaluateModel": "Processing",
        "CheckAccuracy": "Condition",
        "RegisterModel": "RegisterModel",
        "DeployEndpoint": "Lambda",
        "AccuracyTooLow": "Fail",
    }
    for name, step in steps.items():
        assert step["DisplayName"], name
        assert step["Description"].endswith("."), name
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


def test_the_cache_of_embeddings_is_read_and_added_to_and_the_same_for_every_execution(compiled):
    arguments = steps_of(compiled("data: {instance_count: 3}\nmodel: {backbone: tf_efficientnet_lite0}\n"))[
        "PrepareData"
    ]["Arguments"]
    [given] = [i["S3Input"] for i in arguments["ProcessingInputs"] if i["InputName"] == "embedding_cache"]
    outputs = arguments["ProcessingOutputConfig"]["Outputs"]
    [added] = [o["S3Output"] for o in outputs if o["OutputName"] == "embedding_cache"]
    assert given["S3Uri"] == added["S3Uri"]
    assert given["S3Uri"].endswith("/image-classification/embedding-cache/tf_efficientnet_lite0")
    assert added["S3UploadMode"] == "Continuous"
    assert {o["S3Output"]["S3UploadMode"] for o in outputs if o["OutputName"] != "embedding_cache"} == {"EndOfJob"}
    assert arguments["ProcessingResources"]["ClusterConfig"]["InstanceCount"] == 3
    words = arguments["AppSpecification"]["ContainerArguments"]
    assert words[words.index("--embedding-cache") + 1] == given["LocalPath"]
    assert words[words.index("--resource-config") + 1] == "/opt/ml/config/resourceconfig.json"


def test_a_grid_is_run_whole_and_takes_no_number(compiled):
    text = """
tuning:
  strategy: Grid
  max_jobs: 4
  max_parallel_jobs: 2
  ranges:
    lr: {type: categorical, values: [0.001, 0.01]}
    batch_size: {type: categorical, values: [32, 64]}
"""
    config = steps_of(compiled(text))["TuneHyperparameters"]["Arguments"]["HyperParameterTuningJobConfig"]
    assert config["Strategy"] == "Grid"
    assert config["ResourceLimits"] == {"MaxParallelTrainingJobs": {"Get": "Parameters.MaxParallelTuningJobs"}}
    assert config["ParameterRanges"]["CategoricalParameterRanges"] == [
        {"Name": "lr", "Values": ["0.001", "0.01"]},
        {"Name": "batch_size", "Values": ["32", "64"]},
    ]


@pytest.mark.parametrize("strategy", ["Bayesian", "Hyperband"])
def test_other_strategies_take_their_number_at_run_time(compiled, strategy):
    text = f"tuning: {{strategy: {strategy}, early_stopping: 'Off', max_jobs: 9}}\n"
    definition = compiled(text)
    config = steps_of(definition)["TuneHyperparameters"]["Arguments"]["HyperParameterTuningJobConfig"]
    assert config["Strategy"] == strategy
    assert config["ResourceLimits"]["MaxNumberOfTrainingJobs"] == {"Get": "Parameters.MaxTuningJobs"}
    defaults = {parameter["Name"]: parameter["DefaultValue"] for parameter in definition["Parameters"]}
    assert (defaults["MaxTuningJobs"], defaults["MaxParallelTuningJobs"]) == (9, 2)


def test_a_search_begins_with_the_one_that_a_parameter_names(tmp_path):
    path = tmp_path / "pipeline.yaml"
    path.write_text("tuning: {warm_start: last}\n")
    uris = {"input_data_uri": "s3://local/data", "weights_uri": "s3://local/weights"}
    definition = json.loads(compile_definition(load(path), HERE, **uris, warm_start_parent="e-Tune-1"))
    assert check(definition) == []
    assert steps_of(definition)["TuneHyperparameters"]["Arguments"]["WarmStartConfig"] == {
        "WarmStartType": "TransferLearning",
        "ParentHyperParameterTuningJobs": [{"HyperParameterTuningJobName": {"Get": "Parameters.WarmStartParent"}}],
    }
    assert definition["Parameters"][-1] == {
        "Name": "WarmStartParent",
        "Type": "String",
        "DefaultValue": "e-Tune-1",
    }
    without = json.loads(compile_definition(load(path), HERE, **uris))
    assert "WarmStartConfig" not in steps_of(without)["TuneHyperparameters"]["Arguments"]


def test_hyperband_shares_out_epochs_and_does_not_search_them(compiled):
    text = """
tuning:
  strategy: Hyperband
  early_stopping: "Off"
  ranges:
    lr: {type: continuous, min: 0.001, max: 0.1}
    epochs: {type: integer, min: 2, max: 18}
"""
    steps = steps_of(compiled(text))
    tuning = steps["TuneHyperparameters"]["Arguments"]
    config = tuning["HyperParameterTuningJobConfig"]
    assert config["StrategyConfig"] == {"HyperbandStrategyConfig": {"MinResource": 2, "MaxResource": 18}}
    assert [found["Name"] for kind in config["ParameterRanges"].values() for found in kind] == ["lr"]
    assert tuning["TrainingJobDefinition"]["StaticHyperParameters"]["epochs"] == "18"
    assert steps["TrainWithDebugger"]["Arguments"]["HyperParameters"]["epochs"] == "18"


def test_what_is_searched_is_not_fixed_and_goes_from_the_winner_into_the_training(compiled):
    text = """
tuning:
  ranges:
    lr: {type: continuous, min: 0.001, max: 0.1, scaling: Logarithmic}
    hidden_units: {type: integer, min: 16, max: 512, scaling: Linear}
    dropout: {type: continuous, min: 0.0, max: 0.5, scaling: Linear}
    label_smoothing: {type: categorical, values: [0.0, 0.1]}
    weight_decay: {type: continuous, min: 0.00001, max: 0.01, scaling: ReverseLogarithmic}
"""
    steps = steps_of(compiled(text))
    tuning = steps["TuneHyperparameters"]["Arguments"]
    assert not set(SEARCHED) & set(tuning["TrainingJobDefinition"]["StaticHyperParameters"])
    ranges = tuning["HyperParameterTuningJobConfig"]["ParameterRanges"]
    assert [found["Name"] for found in ranges["IntegerParameterRanges"]] == ["hidden_units"]
    assert {found["Name"]: found["ScalingType"] for found in ranges["ContinuousParameterRanges"]} == {
        "lr": "Logarithmic",
        "dropout": "Linear",
        "weight_decay": "ReverseLogarithmic",
    }
    winner = "Steps.TuneHyperparameters.BestTrainingJob.TunedHyperParameters"
    training = steps["TrainWithDebugger"]["Arguments"]["HyperParameters"]
    for name in ("lr", *SEARCHED):
        assert training[name] == {"Get": f"{winner}['{name}']"}
    assert "batch_size" not in training


def test_what_is_not_searched_is_the_same_for_trials_and_training(compiled):
    steps = steps_of(compiled("model: {hidden_units: 512, dropout: 0.3}\n"))
    trials = steps["TuneHyperparameters"]["Arguments"]["TrainingJobDefinition"]["StaticHyperParameters"]
    training = steps["TrainWithDebugger"]["Arguments"]["HyperParameters"]
    assert {name: trials[name] for name in SEARCHED} == {name: training[name] for name in SEARCHED}
    assert (trials["hidden_units"], trials["dropout"]) == ("512", "0.3")
    programs = (trials["sagemaker_program"], training["sagemaker_program"])
    assert programs == ("trial.py", "train.py")
    assert not any(name.startswith("debug") for name in trials)


RULES = """
debug:
  save_interval_steps: 7
  managed_rules: true
  rules:
    VanishingGradient: {threshold: 0.001, action: stop}
    NoNaN: {rule: ExplodingTensor, only_nan: true, collection_names: [losses, weights]}
    LowGPUUtilization: {}
"""


def test_each_rule_is_a_metric_of_the_final_training_only(compiled):
    steps = steps_of(compiled(RULES))
    algorithm = steps["TrainWithDebugger"]["Arguments"]["AlgorithmSpecification"]
    metrics = {found["Name"]: found["Regex"] for found in algorithm["MetricDefinitions"]}
    assert [name for name in metrics if name.startswith("rule:")] == [
        "rule:VanishingGradient",
        "rule:NoNaN",
        "rule:LowGPUUtilization",
    ]
    assert re.search(metrics["rule:NoNaN"], "rule_NoNaN=1 status=IssuesFound")[1] == "1"
    assert re.search(metrics["rule:NoNaN"], "rule_VanishingGradient=0 rule_NoNaN=-1")[1] == "-1"
    trials = steps["TuneHyperparameters"]["Arguments"]["TrainingJobDefinition"]["AlgorithmSpecification"]
    assert not [found for found in trials["MetricDefinitions"] if found["Name"].startswith("rule:")]


def test_managed_rules_are_the_services_own_beside_ours(compiled):
    training = steps_of(compiled(RULES))["TrainWithDebugger"]["Arguments"]
    assert training["DebugHookConfig"]["HookParameters"] == {"save_interval": "7"}
    image = "503895931360.dkr.ecr.us-east-1.amazonaws.com/sagemaker-debugger-rules:latest"
    assert training["DebugRuleConfigurations"] == [
        {
            "RuleConfigurationName": "VanishingGradient",
            "RuleEvaluatorImage": image,
            "RuleParameters": {"rule_to_invoke": "VanishingGradient", "threshold": "0.001"},
        },
        {
            "RuleConfigurationName": "NoNaN",
            "RuleEvaluatorImage": image,
            "RuleParameters": {
                "rule_to_invoke": "ExplodingTensor",
                "only_nan": "True",
                "collection_names": "losses,weights",
            },
        },
    ]
    assert training["ProfilerConfig"]["ProfilingIntervalInMilliseconds"] == 500
    assert [found["RuleConfigurationName"] for found in training["ProfilerRuleConfigurations"]] == ["LowGPUUtilization"]
    unmanaged = steps_of(compiled())["TrainWithDebugger"]["Arguments"]
    assert not [name for name in unmanaged if name.startswith(("Debug", "Profiler"))]


def test_a_gate_on_rules_joins_the_accuracy_in_the_condition(compiled):
    steps = steps_of(compiled(RULES + "condition: {fail_on_rules: [NoNaN]}\n"))
    accuracy, rule = steps["CheckAccuracy"]["Arguments"]["Conditions"]
    assert accuracy["Type"] == "GreaterThanOrEqualTo"
    assert rule == {
        "Type": "Equals",
        "LeftValue": {"Get": "Steps.TrainWithDebugger.FinalMetricDataList['rule:NoNaN'].Value"},
        "RightValue": 0,
    }
    said = steps["AccuracyTooLow"]["Arguments"]["ErrorMessage"]["Std:Join"]["Values"]
    assert rule["LeftValue"] in said


def test_training_and_trials_are_given_their_code_as_a_channel_which_needs_no_network_inside(compiled):
    steps = steps_of(compiled())
    jobs = [steps["TuneHyperparameters"]["Arguments"]["TrainingJobDefinition"], steps["TrainWithDebugger"]["Arguments"]]
    for job, bundle in zip(jobs, (trial_bundle(), training_bundle()), strict=True):
        [code] = [found for found in job["InputDataConfig"] if found["ChannelName"] == "code"]
        source = code["DataSource"]["S3DataSource"]
        expected = f"s3://local/{bundle.key('image-classification')}/source"
        assert (source["S3DataType"], source["S3Uri"]) == ("S3Prefix", expected)
        launcher = job.get("HyperParameters") or job["StaticHyperParameters"]
        assert launcher["sagemaker_submit_directory"] == "/opt/ml/input/data/code"


def test_isolation_and_vpc_reach_every_job(compiled):
    vpc = "vpc: {subnet_ids: [subnet-0123abcd], security_group_ids: [sg-0123abcd]}"
    placed = {"Subnets": ["subnet-0123abcd"], "SecurityGroupIds": ["sg-0123abcd"]}
    for text, isolated, network in (
        ("aws: {network_isolation: true}\n", True, None),
        (f"aws: {{{vpc}}}\n", False, placed),
        (f"aws: {{network_isolation: true, {vpc}}}\n", True, placed),
        ("data: {source: sample}", False, None),
    ):
        for step, job in jobs_of(compiled(text)).items():
            found = job.get("NetworkConfig", job)
            assert (found.get("EnableNetworkIsolation", False), found.get("VpcConfig")) == (isolated, network), step


def test_a_key_encrypts_the_volumes_and_outputs_of_every_job(compiled):
    for job in jobs_of(compiled(f"aws: {{kms_key_arn: '{KEY}'}}\n")).values():
        assert keys_of(job) == (KEY, KEY)
    for job in jobs_of(compiled()).values():
        assert keys_of(job) == (None, None)


def test_a_type_with_disks_of_its_own_is_not_asked_to_encrypt_them_by_a_key(compiled):
    own_disks = "{instance_type: ml.g5.xlarge}"
    jobs = jobs_of(compiled(f"aws: {{kms_key_arn: '{KEY}'}}\ntraining: {own_disks}\ndata: {own_disks}\n"))
    assert {step: keys_of(job) for step, job in jobs.items()} == {
        "PrepareData": (None, KEY),
        "TuneHyperparameters": (KEY, KEY),
        "TrainWithDebugger": (None, KEY),
        "EvaluateModel": (KEY, KEY),
    }


def test_jobs_and_endpoint_agree_on_the_types_that_refuse_a_key():
    assert formats.LOCAL_STORAGE.pattern == rollout.LOCAL_STORAGE.pattern


def test_training_on_spot_capacity_keeps_checkpoints_of_its_own_execution(compiled):
    jobs = jobs_of(compiled("training: {use_spot: true}\ntuning: {use_spot: true}\n"))
    at = ["s3://local/image-classification/checkpoints", {"Get": "Execution.PipelineExecutionId"}, "TrainWithDebugger"]
    assert jobs["TrainWithDebugger"]["CheckpointConfig"] == {
        "S3Uri": {"Std:Join": {"On": "/", "Values": at}},
        "LocalPath": "/opt/ml/checkpoints",
    }
    assert "CheckpointConfig" not in jobs["TuneHyperparameters"]  # trials would share it, and are short
    assert all(jobs[step]["EnableManagedSpotTraining"] for step in ("TuneHyperparameters", "TrainWithDebugger"))
    assert "CheckpointConfig" not in jobs_of(compiled())["TrainWithDebugger"]


def jobs_of(definition: Json) -> dict[str, Json]:
    """Name -> the request of each step that is a job, a search's that of its trials."""
    steps = steps_of(definition)
    arguments = {name: steps[name]["Arguments"] for name in (*PROCESSING_STEPS, *TRAINING_STEPS)}
    return {name: found.get("TrainingJobDefinition", found) for name, found in arguments.items()}


def keys_of(job: Json) -> tuple[str | None, str | None]:
    """The KMS keys of volumes and outputs."""
    resources = job.get("ResourceConfig") or job["ProcessingResources"]["ClusterConfig"]
    outputs = job.get("OutputDataConfig") or job["ProcessingOutputConfig"]
    return resources.get("VolumeKmsKeyId"), outputs.get("KmsKeyId")


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
        deploy_function="deploy",
    )
    here, there = json.dumps(compiled()), json.dumps(compiled(placement=other))
    for old, new in (
        (HERE.training_image, other.training_image),
        (HERE.inference_image, other.inference_image),
        (HERE.role_arn, other.role_arn),
        (HERE.function_arn, other.function_arn),
        ('REGION": "us-east-1"', 'REGION": "eu-west-1"'),
        ("s3://local/image-classification", "s3://images-eu/image-classification"),
    ):
        assert old in here
        here = here.replace(old, new)
    assert here == there


def test_the_condition_names_both_numbers_when_it_fails(compiled):
    steps = steps_of(compiled())
    [condition] = steps["CheckAccuracy"]["Arguments"]["Conditions"]
    assert condition["Type"] == "GreaterThanOrEqualTo"
    assert condition["RightValue"] == {"Get": "Parameters.AccuracyThreshold"}
    assert condition["LeftValue"]["Std:JsonGet"]["Path"] == "multiclass_classification_metrics.accuracy.value"
    said = steps["AccuracyTooLow"]["Arguments"]["ErrorMessage"]["Std:Join"]["Values"]
    assert condition["LeftValue"] in said
    assert condition["RightValue"] in said


FINE_TUNED = "model: {finetune: all}\ntraining: {instance_count: 2}\n"


def channels_of(request: Json) -> dict[str, Json]:
    return {channel["ChannelName"]: channel for channel in request["InputDataConfig"]}


def test_a_frozen_backbone_needs_no_images_and_no_hyperparameters_of_fine_tuning(compiled):
    training = steps_of(compiled())["TrainWithDebugger"]["Arguments"]
    assert not {"train", "validation"} & channels_of(training).keys()
    assert not [name for name in training["HyperParameters"] if "finetune" in name]


def test_fine_tuning_streams_the_prepared_images_into_the_training_alone(compiled):
    steps = steps_of(compiled(FINE_TUNED))
    training = steps["TrainWithDebugger"]["Arguments"]
    for name in ("train", "validation"):
        channel = channels_of(training)[name]
        source = channel["DataSource"]["S3DataSource"]["S3Uri"]
        assert source == {"Get": f"Steps.PrepareData.ProcessingOutputConfig.Outputs['{name}'].S3Output.S3Uri"}
        assert channel["InputMode"] == "FastFile"
    assert training["ResourceConfig"]["InstanceCount"] == 2
    assert training["HyperParameters"]["finetune"] == "all"
    assert training["HyperParameters"]["finetune_image_size"] == "0"  # the script chooses
    assert training["HyperParameters"]["finetune_epochs"] == "0"
    trials = steps["TuneHyperparameters"]["Arguments"]["TrainingJobDefinition"]
    assert not {"train", "validation", "weights"} & channels_of(trials).keys()
    assert trials["ResourceConfig"]["InstanceCount"] == 1
    assert "finetune" not in trials["StaticHyperParameters"]


def test_trials_fine_tune_where_the_search_covers_it(compiled):
    ranges = "tuning: {ranges: {finetune_lr: {type: continuous, min: 0.0001, max: 0.001}}}"
    steps = steps_of(compiled(f"{FINE_TUNED}{ranges}"))
    trials = steps["TuneHyperparameters"]["Arguments"]["TrainingJobDefinition"]
    assert {"train", "validation", "weights"} < channels_of(trials).keys()
    assert trials["StaticHyperParameters"]["finetune"] == "all"
    assert "finetune_lr" not in trials["StaticHyperParameters"]
    winner = "Steps.TuneHyperparameters.BestTrainingJob.TunedHyperParameters['finetune_lr']"
    assert steps["TrainWithDebugger"]["Arguments"]["HyperParameters"]["finetune_lr"] == {"Get": winner}
