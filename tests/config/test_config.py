"""pipeline.yaml: what is accepted, and what is said about what is not."""

import json
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
import yaml

from pipeline.config.config import Config, check_parameters, load
from pipeline.config.reference import pages
from pipeline.config.sections import DEFAULT_RULES, CategoricalRange, ContinuousRange, IntegerRange
from pipeline.errors import ConfigError, ParameterError

CASES = json.loads((Path(__file__).parent / "cases" / "problems.json").read_text())
ROOT = Path(__file__).parents[2]


def test_the_shipped_file_changes_no_default():
    assert load(ROOT / "pipeline.yaml") == Config()


def test_editors_accept_the_shipped_file_and_show_mistakes():
    schema = json.loads((ROOT / "docs" / "pipeline.schema.json").read_text())
    shipped = yaml.safe_load((ROOT / "pipeline.yaml").read_text())
    jsonschema.validate(shipped, schema)
    for section, setting, value in (("tuning", "max_jobs", 0), ("data", "sourc", "x"), ("model", "dropout", "high")):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({**shipped, section: {setting: value}}, schema)


def test_the_reference_and_the_schema_are_up_to_date():
    for name, text in pages().items():
        assert (ROOT / "docs" / name).read_text() == text, "run `python -m pipeline.config.reference`"


def test_a_missing_setting_takes_its_default(read):
    assert read("tuning: {max_jobs: 9}\ntraining:\n").tuning.max_jobs == 9
    assert read("tuning: {max_jobs: 9}\n").training == Config().training
    assert read("training:\n") == Config()


def test_values_have_the_types_of_their_settings(read):
    config = read(
        """
data: {image_size_px: 96, horizontal_flip: no, split: {train: 0.5, validation: 0.25, test: 0.25}}
model: {dropout: 0, weight_decay: 1e-3}
tuning:
  early_stopping: Off
  ranges:
    lr: {type: continuous, min: 1e-4, max: 1, scaling: Logarithmic}
    epochs: {type: integer, min: 1, max: 3}
    dropout: {type: categorical, values: [0, 0.5]}
pipeline: {name: no}
aws: {bucket: my-bucket, role_arn: "arn:aws:iam::123456789012:role/pipeline"}
"""
    )
    assert (config.data.image_size_px, config.data.horizontal_flip, config.pipeline.name) == (96, False, "no")
    assert (config.data.split.train, config.model.dropout, config.model.weight_decay) == (0.5, 0.0, 0.001)
    assert config.tuning.early_stopping == "Off"
    assert config.tuning.ranges == {
        "lr": ContinuousRange(min=0.0001, max=1.0, scaling="Logarithmic"),
        "epochs": IntegerRange(min=1, max=3, scaling="Auto"),
        "dropout": CategoricalRange(values=(0, 0.5)),
    }
    assert (config.aws.bucket, config.aws.training_image) == ("my-bucket", None)
    sizes = read("tuning: {ranges: {batch_size: {type: categorical, values: [32, 64]}}}").tuning.ranges["batch_size"]
    assert [str(size) for size in sizes.values] == ["32", "64"]


def test_the_account_takes_lists_tags_and_null(read):
    config = read(
        """
training: {use_spot: false, max_wait_seconds: 60}
deploy: {max_request_megabytes: 4, serverless: {memory_mb: 2048}}
aws:
  tags: {team: vision, "cost centre": "4711"}
  kms_key_arn: null
  retrain_schedule: cron(0 3 ? * SUN *)
"""
    )
    assert config.aws.tags == {"team": "vision", "cost centre": "4711"}
    assert (config.aws.kms_key_arn, config.aws.retrain_schedule) == (None, "cron(0 3 ? * SUN *)")
    vpc = "{subnet_ids: [subnet-0123abcd, subnet-4567cdef], security_group_ids: [sg-0123abcd]}"
    assert read(f"aws: {{vpc: {vpc}}}").aws.vpc.subnet_ids == ("subnet-0123abcd", "subnet-4567cdef")
    assert (config.deploy.serverless.enabled, config.deploy.autoscaling.enabled) == (True, False)


def test_rules_that_are_left_out_are_the_default_ones_and_none_is_none(read):
    assert read("debug: {enabled: true}").debug.rules == DEFAULT_RULES
    assert read("debug: {rules: {}}").debug.rules == {}
    assert read("debug: {rules: {Overfit: }}").debug.rules == {"Overfit": {}}


def test_auto_is_none_and_left_to_the_job(read):
    config = read("data: {image_size_px: auto, horizontal_flip: auto}\nfinetuning: {epochs: 3, crop_area_min: auto}")
    assert (config.data.image_size_px, config.data.horizontal_flip) == (None, None)
    assert config.finetuning.hyperparameters["finetune_epochs"] == 3
    assert "crop_area_min" not in config.finetuning.hyperparameters


def test_a_section_may_be_merged_from_an_anchor(read):
    config = read("training: &job {volume_size_gb: 50}\ntuning: {<<: *job, max_jobs: 3}\n")
    assert (config.training.volume_size_gb, config.tuning.volume_size_gb, config.tuning.max_jobs) == (50, 50, 3)


def test_a_mark_of_the_byte_order_and_other_alphabets_are_read(read):
    assert read("\ufeffpipeline: {description: Bücher und 書}").pipeline.description == "Bücher und 書"


@pytest.mark.parametrize("case", CASES["settings"], ids=lambda case: case[0])
def test_a_mistake_is_named_with_what_is_accepted(problems, case):
    assert problems(case[0])[0].startswith(f"pipeline.yaml:1: {case[1]}")


@pytest.mark.parametrize("case", CASES["ranges"], ids=lambda case: case[0])
def test_a_range_must_be_one_that_can_be_searched(problems, case):
    (found,) = problems(f"tuning:\n  ranges:\n    {case[0]}\n")
    assert found.startswith(f"pipeline.yaml:3: tuning.ranges.{case[1]}")


@pytest.mark.parametrize("case", CASES["files"], ids=lambda case: repr(case[0]))
def test_a_file_that_is_no_configuration_is_refused(problems, case):
    assert problems(case[0])[0].startswith(case[1])


def test_no_range_and_a_value_below_its_key_are_found_on_their_lines(problems):
    assert problems("tuning:\n  ranges: {}\n  max_jobs:\n    0\n") == [
        "pipeline.yaml:2: tuning.ranges must hold at least 1, but holds none.",
        "pipeline.yaml:4: tuning.max_jobs must be at least 1, but got 0.",
    ]


@pytest.mark.parametrize(
    "text",
    [
        "{pipeline: {null: 1}}", "{1: 2}", "{integer: 1}", "pipeline: !!int x", "data: {source: !!timestamp z}",
        "pipeline: {name: !!python/object:os.system x}", "debug: {rules: {x: {rule: [1]}}}",
        "debug: {rules: {x: {rule: !!binary aGk=}}}", 'pipeline: {name: "a\\nb"}',
        "tuning: {ranges: {lr: {integer: 1}}}",
    ],
)  # fmt: skip
def test_hostile_values_are_one_line_each(problems, text):
    (found,) = problems(text)
    assert found.startswith("pipeline.yaml") and "\n" not in found


def test_a_small_file_of_many_values_and_a_deep_one_end_soon(problems):
    doubling = "".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 60))
    assert len(problems(f"a0: &a0 [1]\n{doubling}debug: {{rules: {{Overfit: {{x: *a59}}}}}}\n")) == 61
    assert "nested too deep" in problems("a: " + "[" * 5000)[0] or "not YAML" in problems("a: " + "[" * 5000)[0]


def test_a_missing_file_a_folder_and_bytes_that_are_no_text_are_refused(tmp_path):
    (tmp_path / "latin.yaml").write_bytes("pipeline: {name: é}".encode("latin-1"))
    for name, part in {"absent.yaml": "does not exist", "latin.yaml": "is not UTF-8", ".": "Is a directory"}.items():
        with pytest.raises(ConfigError, match=part):
            load(tmp_path / name)


def test_a_file_below_the_working_directory_is_named_as_one_would_type_it(problems, tmp_path):
    assert problems("tuning: {max_jobs: 0}")[0].startswith("pipeline.yaml:1: tuning.max_jobs")
    with pytest.raises(ConfigError, match=r"^pipeline\.yaml:1: tuning\.max_jobs"):
        load(tmp_path / "pipeline.yaml")


def test_reading_a_configuration_imports_nothing_slow():
    heavy = "{'boto3', 'botocore', 'sagemaker', 'torch', 'numpy', 'croniter', 'jsonschema'}"
    command = "from pathlib import Path; from pipeline.config.config import load; load(Path('pipeline.yaml'))"
    command = f"import sys; {command}; print(sorted({{name.split('.')[0] for name in sys.modules}} & {heavy}))"
    found = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, cwd=ROOT)
    assert found.stdout == "[]\n"


@pytest.mark.parametrize(
    ("name", "text", "part"),
    [
        ("AccuracyThreshold", "95", "must be at least 0 and at most 1, but got 95"),
        ("AccuracyThreshold", "high", "must be a number"),
        ("MaxTuningJobs", "0", "must be at least 1"),
        ("MaxTuningJobs", "2.5", "must be a whole number"),
        ("MaxParallelTuningJobs", "7", "must not exceed max_jobs (6)"),
        ("TrainingInstanceType", "m5", "must be an instance type such as ml.m5.xlarge"),
        ("TuningInstanceType", "ml.m5.xlarg", "Did you mean 'ml.m5.xlarge'?"),
        ("EndpointName", "a_b", "must be letters, digits and dashes"),
        ("InputDataUri", "photos", "must be s3://bucket/prefix"),
    ],
)
def test_a_parameter_is_checked_like_the_setting_that_is_its_default(name, text, part):
    with pytest.raises(ParameterError) as caught:
        check_parameters(Config(), {name: text})
    (problem,) = caught.value.problems
    assert problem.startswith(f"Parameter '{name}' ") and part in problem


def test_parameters_that_fit_together_are_accepted_and_others_left_alone():
    check_parameters(Config(), {"MaxTuningJobs": "8", "MaxParallelTuningJobs": "8", "AccuracyThreshold": "1"})
    check_parameters(Config(), {"Other": "?", "EndpointName": "1234", "InputDataUri": "s3://bucket/images"})
