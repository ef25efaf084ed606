"""Environments of pipeline.yaml: what an overlay changes, the names it gives, and mistakes in it."""

import pytest

from pipeline.config.config import Config
from pipeline.config.sections import CategoricalRange

TWO = """\
pipeline: {name: digits}
tuning: {max_jobs: 4, max_parallel_jobs: 4}
deploy: {instance_count: 1, autoscaling: {max_instances: 3}}
environments:
  staging:
    deploy: {instance_type: ml.t2.medium, autoscaling: {min_instances: 2}}
  prod:
    pipeline: {name: digits}
    registry: {approval_status: PendingManualApproval}
    aws: {region: eu-west-1, project: digits-in-production}
"""


def test_without_an_environment_the_overlays_change_nothing(read):
    config = read(TWO)
    assert (config.pipeline.name, config.deploy.instance_type, config.aws.region) == (
        "digits",
        "ml.m5.large",
        "us-east-1",
    )
    assert list(config.environments) == ["staging", "prod"]


def test_an_overlay_is_merged_section_by_section(read):
    deploy = read(TWO, "staging").deploy
    assert (deploy.instance_type, deploy.instance_count) == ("ml.t2.medium", 1)
    assert (deploy.autoscaling.min_instances, deploy.autoscaling.max_instances) == (2, 3)
    assert read(TWO, "prod").registry.approval_status == "PendingManualApproval"


def test_names_that_an_account_holds_once_get_the_environment_as_a_suffix(read):
    config = read(TWO, "staging")
    assert (config.pipeline.name, config.registry.model_package_group, config.deploy.endpoint_name) == (
        "digits-staging", "image-classification-staging", "image-classification-staging",
    )  # fmt: skip
    assert (config.aws.project, config.aws.deploy_function) == (
        "image-classification-staging", "image-classification-deploy-staging",
    )  # fmt: skip


def test_names_that_the_overlay_states_are_kept(read):
    config = read(TWO, "prod")
    assert (config.pipeline.name, config.aws.project) == ("digits", "digits-in-production")
    assert config.deploy.endpoint_name == "image-classification-prod"


def test_ranges_tags_and_lists_are_replaced_whole(read):
    text = """\
tuning: {ranges: {lr: {type: continuous, min: 0.001, max: 0.1}, epochs: {type: integer, min: 1, max: 3}}}
aws: {tags: {team: vision, cost: "1"}}
environments:
  small:
    tuning: {ranges: {lr: {type: categorical, values: [0.01, 0.1]}}}
    aws: {tags: {team: language}}
"""
    config = read(text, "small")
    assert config.tuning.ranges == {"lr": CategoricalRange(values=(0.01, 0.1))}
    assert config.aws.tags == {"team": "language"}


def test_an_empty_environment_differs_by_its_names_only(read):
    config = read("environments: {staging: }\n", "staging")
    assert config.pipeline.name == "image-classification-staging"
    assert config.tuning == Config().tuning


def test_an_unknown_environment_is_named_with_those_that_there_are(problems):
    assert problems(TWO, "stagging") == [
        "pipeline.yaml has no environment 'stagging' in environments; it has staging, prod. Did you mean 'staging'?"
    ]
    assert problems("tuning: {max_jobs: 3}\n", "prod") == [
        "pipeline.yaml has no environment 'prod' in environments; it has none."
    ]


def test_every_overlay_is_checked_whichever_is_chosen(problems):
    text = "environments: {staging: {tuning: {max_jobs: 0}}, prod: {deploy: {instance_count: 0}}}"
    assert problems(text, "prod") == problems(text)
    assert len(problems(text)) == 2


def test_a_mistake_outside_the_overlays_is_reported_once(problems):
    assert problems("tuning: {max_jobs: 0}\nenvironments: {staging: {}, prod: {}}\n") == [
        "pipeline.yaml:1: tuning.max_jobs must be at least 1, but got 0."
    ]


@pytest.mark.parametrize(
    ("yaml", "problem"),
    [
        ("environments: [staging]", "environments must be a mapping named by at most 20 lower-case letters"),
        ("environments: {staging: {deploy: 3}}", "environments.staging.deploy must be a mapping of settings"),
        ("environment: {}", "environment is not a known setting. Did you mean 'environments'?"),
    ],
)
def test_a_mistake_in_an_overlay_is_named(problems, yaml, problem):
    (found,) = problems(yaml)
    assert found.startswith(f"pipeline.yaml:1: {problem}")
