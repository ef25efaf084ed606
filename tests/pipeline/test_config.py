"""pipeline.yaml: what is accepted, and every sentence about what is not."""

import json
import subprocess
import sys
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.config.config import CategoricalRange, Config, ContinuousRange, IntegerRange, load
from pipeline.errors import ConfigError

CASES = json.loads((Path(__file__).parent / "cases" / "config_problems.json").read_text())
SHIPPED = Path(__file__).parents[2] / "pipeline.yaml"


@pytest.fixture
def problems(tmp_path, monkeypatch):
    """A function from the text of a pipeline.yaml to the problems that `load` reports."""
    monkeypatch.chdir(tmp_path)

    def find(text: str) -> list[str]:
        Path("pipeline.yaml").write_text(text)
        with pytest.raises(ConfigError) as caught:
            load(Path("pipeline.yaml"))
        return caught.value.problems

    return find


@pytest.fixture
def loaded(tmp_path):
    """A function from the text of a pipeline.yaml to its Config."""

    def read(text: str) -> Config:
        path = tmp_path / "pipeline.yaml"
        path.write_text(text)
        return load(path)

    return read


def settings(section: Any) -> Any:
    """The keys of a section, nested as in the file."""
    return (
        {item.name: settings(getattr(section, item.name)) for item in fields(section)} if is_dataclass(section) else 0
    )


def keys(document: Any, known: Any) -> Any:
    """The keys of a document as deep as sections go."""
    return {key: keys(value, known[key]) for key, value in document.items()} if isinstance(known, dict) else 0


def test_the_shipped_file_states_every_setting():
    known = settings(Config())
    assert keys(yaml.safe_load(SHIPPED.read_text()), known) == known


def test_the_shipped_file_is_acceptable():
    config = load(SHIPPED)
    assert isinstance(config.tuning.max_jobs, int)
    assert set(config.tuning.ranges) <= {
        "lr", "batch_size", "epochs", "hidden_units", "dropout", "label_smoothing", "weight_decay",
        "class_balance", "patience",
    }  # fmt: skip


def test_a_missing_setting_takes_its_default(loaded):
    assert loaded("tuning: {max_jobs: 9}\ntraining:\n").tuning.max_jobs == 9
    assert loaded("tuning: {max_jobs: 9}\n").training == Config().training
    assert loaded("training:\n") == Config()


def test_values_have_the_types_of_their_settings(loaded):
    config = loaded(
        """
data: {image_size_px: 96, horizontal_flip: no, split: {train: 0.5, validation: 0.25, test: 0.25}}
model: {dropout: 0, weight_decay: 1e-3}
tuning:
  early_stopping: Off
  ranges:
    lr: {type: continuous, min: 1e-4, max: 1, scaling: Logarithmic}
    epochs: {type: integer, min: 1, max: 3}
    dropout: {type: categorical, values: [0, 0.5]}
aws: {bucket: my-bucket, role_arn: "arn:aws:iam::123456789012:role/pipeline"}
"""
    )
    assert (config.data.image_size_px, config.data.horizontal_flip) == (96, False)
    assert (config.data.split.train, config.model.dropout, config.model.weight_decay) == (0.5, 0.0, 0.001)
    assert config.tuning.early_stopping == "Off"
    assert config.tuning.ranges == {
        "lr": ContinuousRange(min=0.0001, max=1.0, scaling="Logarithmic"),
        "epochs": IntegerRange(min=1, max=3, scaling="Auto"),
        "dropout": CategoricalRange(values=(0, 0.5)),
    }
    assert (config.aws.bucket, config.aws.training_image) == ("my-bucket", None)


def test_the_account_takes_lists_tags_and_null(loaded):
    config = loaded(
        """
training: {use_spot: false, max_wait_seconds: 60}
deploy: {max_request_megabytes: 4, serverless: {memory_mb: 2048}}
aws:
  tags: {team: vision, "cost centre": "4711"}
  kms_key_arn: null
  retrain_schedule: cron(0 3 ? * SUN *)
prices: {date: 2026-01-31, per_hour: {ml.m5.large: 1}}
"""
    )
    assert config.aws.tags == {"team": "vision", "cost centre": "4711"}
    assert (config.aws.kms_key_arn, config.aws.retrain_schedule) == (None, "cron(0 3 ? * SUN *)")
    assert (config.prices.date, config.prices.per_hour) == ("2026-01-31", {"ml.m5.large": 1.0})
    assert (config.deploy.serverless.enabled, config.deploy.autoscaling.enabled) == (True, False)


def test_a_vpc_has_subnets_and_security_groups(loaded):
    vpc = loaded(
        "aws: {vpc: {subnet_ids: [subnet-0123abcd, subnet-4567cdef], security_group_ids: [sg-0123abcd]}}"
    ).aws.vpc
    assert vpc.subnet_ids == ("subnet-0123abcd", "subnet-4567cdef")
    assert vpc.security_group_ids == ("sg-0123abcd",)


def test_a_rule_between_sections_is_reported_where_its_first_setting_stands(problems):
    text = "pipeline:\n  cache_expire_days: 100\naws:\n  region: eu-west-1\n  artifact_retention_days: 90\n"
    assert problems(text) == [
        "pipeline.yaml:5: aws.artifact_retention_days must be more than pipeline.cache_expire_days (100), but got 90."
    ]
    assert problems("pipeline: {cache_expire_days: 100}\n") == [
        "pipeline.yaml:1: aws.artifact_retention_days must be more than pipeline.cache_expire_days (100), but got 90."
    ]


def test_auto_is_none(loaded):
    data = loaded("data: {image_size_px: auto, horizontal_flip: auto}").data
    assert (data.image_size_px, data.horizontal_flip) == (None, None)


def test_a_section_may_be_merged_from_an_anchor(loaded):
    config = loaded("training: &job {volume_size_gb: 50}\ntuning: {<<: *job, max_jobs: 3}\n")
    assert (config.training.volume_size_gb, config.tuning.volume_size_gb, config.tuning.max_jobs) == (50, 50, 3)


def test_every_problem_is_reported_at_once_in_the_order_of_the_lines(problems):
    text = """\
pipeline:
  name: bad_name!
  max_parallel_step: 4
data:
  split:
    train: 0.7
    validation: 0.2
    test: 0.2
tuning:
  max_jobs: 0
  strategy: Baysian
"""
    assert problems(text) == [
        "pipeline.yaml:2: pipeline.name must be letters, digits and dashes, with a letter or digit at both ends, "
        "but got 'bad_name!'.",
        "pipeline.yaml:3: pipeline.max_parallel_step is not a known setting. Did you mean 'max_parallel_steps'?",
        "pipeline.yaml:5: data.split must sum to 1, but 0.7 + 0.2 + 0.2 = 1.1.",
        "pipeline.yaml:10: tuning.max_jobs must be at least 1, but got 0.",
        "pipeline.yaml:11: tuning.strategy must be Bayesian, Random, Grid or Hyperband, but got 'Baysian'. "
        "Did you mean 'Bayesian'?",
    ]


@pytest.mark.parametrize("case", CASES["settings"], ids=lambda case: case["yaml"])
def test_a_mistake_is_named_with_what_is_accepted(problems, case):
    assert problems(case["yaml"])[0] == f"pipeline.yaml:1: {case['problem']}"


@pytest.mark.parametrize("case", CASES["ranges"], ids=lambda case: case["yaml"])
def test_a_range_must_be_one_that_can_be_searched(problems, case):
    found = problems(f"tuning:\n  ranges:\n    {case['yaml']}\n")
    assert found == [f"pipeline.yaml:3: tuning.ranges.{case['problem']}"]


def test_no_range_at_all_is_refused(problems):
    assert problems("tuning:\n  ranges: {}\n") == [
        "pipeline.yaml:2: tuning.ranges must hold at least one range, but holds none."
    ]


def test_a_value_below_its_key_is_found_on_its_own_line(problems):
    assert problems("tuning:\n  max_jobs:\n    0\n") == [
        "pipeline.yaml:3: tuning.max_jobs must be at least 1, but got 0."
    ]


@pytest.mark.parametrize("case", CASES["files"], ids=lambda case: repr(case["yaml"]))
def test_a_file_that_is_no_configuration_is_refused(problems, case):
    assert problems(case["yaml"]) == [case["problem"]]


def test_a_missing_file_a_folder_and_bytes_that_are_no_text_are_refused(tmp_path):
    (tmp_path / "latin.yaml").write_bytes("pipeline: {name: é}".encode("latin-1"))
    found = {}
    for name in ("absent.yaml", "latin.yaml", "."):
        with pytest.raises(ConfigError) as caught:
            load(tmp_path / name)
        found[name] = str(caught.value)
    assert found == {
        "absent.yaml": f"{tmp_path}/absent.yaml does not exist; name the configuration file with --config.",
        "latin.yaml": f"{tmp_path}/latin.yaml is not UTF-8 text.",
        ".": f"{tmp_path} cannot be read: Is a directory.",
    }


def test_a_file_below_the_working_directory_is_named_as_one_would_type_it(problems, tmp_path):
    (tmp_path / "pipeline.yaml").write_text("tuning: {max_jobs: 0}")
    with pytest.raises(ConfigError, match=r"^pipeline\.yaml:1: tuning\.max_jobs"):
        load(tmp_path / "pipeline.yaml")


def test_reading_a_configuration_imports_neither_boto_nor_the_sdk():
    heavy = "{name.split('.')[0] for name in sys.modules} & {'boto3', 'botocore', 'sagemaker', 'torch', 'numpy'}"
    command = f"import sys, pipeline.config.config; print(sorted({heavy}))"
    found = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, cwd=SHIPPED.parent)
    assert found.stdout == "[]\n"
