"""The jobs in the compiled definition: rules, channels, isolation, keys, spot capacity, fine-tuning."""

import re
import subprocess

import pytest

import deploy
from pipeline.compile.bundle import Bundle, bundle
from pipeline.config import sections
from tests.compile.definitions import Json, jobs_of, steps_of

KEY = "arn:aws:kms:us-east-1:123456789012:key/1234abcd-12ab-34cd-56ef-1234567890ab"
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


@pytest.mark.parametrize(("settings", "demanded"), [
    ("", "fatal"), ("condition: {fail_on_rules: [NoNaN]}\n", "NoNaN"), ("condition: {fail_on_rules: []}\n", None),
])  # fmt: skip
def test_a_gate_on_rules_joins_the_accuracy_in_the_condition(compiled, settings, demanded):
    steps = steps_of(compiled(RULES + settings))
    _accuracy, *rest = steps["CheckAccuracy"]["Arguments"]["Conditions"]
    words = steps["EvaluateModel"]["Arguments"]["AppSpecification"]["ContainerArguments"]
    said = steps["ModelRefused"]["Arguments"]["ErrorMessage"]["Std:Join"]["Values"]
    if demanded:
        assert words[words.index("--fail-on-rules") + 1] == demanded
        paths = [value["Std:JsonGet"]["Path"] for value in (rest[0]["LeftValue"], said[0])]
        assert paths == ["training_faults.value", "words.training_faults"]
    else:
        assert (rest, "--fail-on-rules" in words, said[0]) == ([], False, "Test accuracy ")


@pytest.mark.parametrize(("settings", "is_uploaded"), [
    ("debug: {enabled: true}\n", True), ("debug: {enabled: false}\n", False),
    ("aws: {network_isolation: true}\n", False),
])  # fmt: skip
def test_the_debuggers_files_go_beside_the_training_output(compiled, settings, is_uploaded):
    steps = steps_of(compiled(settings))
    training = steps["TrainWithDebugger"]["Arguments"]
    uri = training["OutputDataConfig"]["S3OutputPath"]
    assert training["HyperParameters"].get("debug_output_uri") == (uri if is_uploaded else None)
    words = steps["EvaluateModel"]["Arguments"]["AppSpecification"]["ContainerArguments"]
    assert ("--fail-on-rules" in words) == ("enabled: false" not in settings)


def test_training_and_trials_are_given_their_code_as_a_channel_which_needs_no_network_inside(compiled):
    steps = steps_of(compiled())
    jobs = [steps["TuneHyperparameters"]["Arguments"]["TrainingJobDefinition"], steps["TrainWithDebugger"]["Arguments"]]
    for job, code in zip(jobs, (bundle("trial.py"), bundle("train.py")), strict=True):
        [channel] = [found for found in job["InputDataConfig"] if found["ChannelName"] == "code"]
        source = channel["DataSource"]["S3DataSource"]
        expected = f"s3://local/{code.key('image-classification')}/source.tar.gz"
        assert (source["S3DataType"], source["S3Uri"]) == ("S3Prefix", expected)
        launcher = job.get("HyperParameters") or job["StaticHyperParameters"]
        assert launcher["sagemaker_submit_directory"] == "/opt/ml/input/data/code/source.tar.gz"


def test_a_processing_job_unpacks_its_code_and_hands_the_script_its_arguments(compiled, tmp_path):
    for step, script in (("PrepareData", "prepare.py"), ("EvaluateModel", "evaluate.py")):
        job = steps_of(compiled())[step]["Arguments"]
        code = next(found["S3Input"] for found in job["ProcessingInputs"] if found["InputName"] == "code")
        assert code["S3Uri"] == f"s3://local/{bundle(script).key('image-classification')}/source.tar.gz"
        words = job["AppSpecification"]["ContainerEntrypoint"]
        assert max(map(len, words)) <= 256  # AWS API, AppSpecification
        archive = Bundle(script, {script: b"import sys; print(sys.argv[1:])"}).archive()
        (tmp_path / "source.tar.gz").write_bytes(archive)
        here = [word.replace(code["LocalPath"], str(tmp_path)) for word in words]
        ran = subprocess.run([*here, "--name", "two words", "$HOME"], capture_output=True, text=True)
        assert (ran.stdout, ran.stderr) == ("['--name', 'two words', '$HOME']\n", "")


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


def keys_of(job: Json) -> tuple[str | None, str | None]:
    """The KMS keys of volumes and outputs."""
    resources = job.get("ResourceConfig") or job["ProcessingResources"]["ClusterConfig"]
    outputs = job.get("OutputDataConfig") or job["ProcessingOutputConfig"]
    return resources.get("VolumeKmsKeyId"), outputs.get("KmsKeyId")


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
    assert sections.LOCAL_STORAGE.pattern == deploy.LOCAL_STORAGE.pattern


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
    assert not {"finetune_image_size", "finetune_epochs"} & training["HyperParameters"].keys()  # the script chooses
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


def test_a_wanted_precision_reaches_evaluation_and_endpoint_and_trains_nothing_again(compiled):
    texts = [compiled(yaml) for yaml in ("deploy: {}", "deploy: {min_precision: 0.97}")]
    before, after = map(steps_of, texts)
    for name in ("PrepareData", "TuneHyperparameters", "TrainWithDebugger"):
        assert after[name] == before[name]
    arguments = after["EvaluateModel"]["Arguments"]["AppSpecification"]["ContainerArguments"]
    assert arguments[arguments.index("--min-precision") + 1] == "0.97"
    environments = [re.findall(r"'MIN_PRECISION': '(.*?)'", str(found["RegisterModel"])) for found in (before, after)]
    assert environments == [[], ["0.97"]]
    assert [found["DescribeInputs"]["Arguments"]["environment"]["MIN_PRECISION"] for found in (before, after)] == [
        "",
        "0.97",
    ]
