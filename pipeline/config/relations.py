"""Rules between settings, also of different sections. They are asked even where other settings are not acceptable."""

import gzip
import importlib.util
import re
from collections.abc import Iterator
from functools import cache
from math import prod
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from pipeline.config import sections
from pipeline.config.job_code import FINE_TUNING, SEARCHABLE, rule_problems
from pipeline.config.sections import CategoricalRange, Config, ContinuousRange
from pipeline.config.wording import accepted
from pipeline.suggestion import did_you_mean

SERVERLESS_MEGABYTES = 4  # of a request; other endpoints take 6
INSTANCE_TYPES = {  # setting -> the type of the API that lists what it may be
    "data.instance_type": "ProcessingInstanceType",
    "tuning.instance_type": "TrainingInstanceType",
    "training.instance_type": "TrainingInstanceType",
    "evaluation.instance_type": "ProcessingInstanceType",
    "deploy.instance_type": "ProductionVariantInstanceType",
}
USUAL_TYPES = ("ml.m5.large", "ml.m5.xlarge")  # of which botocore need not be asked, which takes a while
Problem = tuple[str, str]  # the settings that it is about, the first of which it is reported at, and what is wrong


def broken_rules(config: Config) -> Iterator[Problem]:
    """Yield each rule that the configuration breaks, as the rest of a sentence about a setting."""
    for problems in (search_problems, range_problems, training_problems, deployment_problems, instance_problems):
        yield from problems(config)


def search_problems(config: Config) -> Iterator[Problem]:
    tuning, ranges, jobs = config.tuning, config.tuning.ranges, config.tuning.max_jobs
    if tuning.max_parallel_jobs > jobs:
        text = f"must not exceed max_jobs ({jobs}), but got {tuning.max_parallel_jobs}."
        yield "tuning.max_parallel_jobs tuning.max_jobs", text
    better = "Maximize" if tuning.objective_metric.endswith("accuracy") else "Minimize"
    if tuning.objective_type != better:
        text = f"must be {better} for {tuning.objective_metric}, but got '{tuning.objective_type}'."
        yield "tuning.objective_type tuning.objective_metric", text
    if tuning.strategy == "Hyperband" and tuning.early_stopping != "Off":
        text = f"must be Off with strategy Hyperband, which stops trials itself, but got '{tuning.early_stopping}'."
        yield "tuning.early_stopping tuning.strategy", text
    if tuning.strategy == "Hyperband" and (tuning.resource is None or len(ranges) == 1):
        text = (
            f"must hold {sections.RESOURCE} with strategy Hyperband, as a range of whole numbers, and at least one more"
        )
        yield "tuning.ranges tuning.strategy", f"{text}: a trial gets its min epochs at the least, its max at the most."
    if tuning.strategy == "Grid":
        endless = [name for name, found in ranges.items() if not isinstance(found, CategoricalRange)]
        points = prod(len(found.values) for found in ranges.values() if isinstance(found, CategoricalRange))
        if endless:
            text = f"must all be categorical with strategy Grid, but these are not: {', '.join(endless)}."
            yield "tuning.ranges tuning.strategy", text
        elif jobs != points:
            text = f"must be {points} with strategy Grid, which tries every combination of the ranges, but got {jobs}."
            yield "tuning.max_jobs tuning.strategy tuning.ranges", text


def range_problems(config: Config) -> Iterator[Problem]:
    for name, found in config.tuning.ranges.items():
        path, kind = f"tuning.ranges.{name}", TypeAdapter(SEARCHABLE[name])
        if isinstance(found, ContinuousRange) and SEARCHABLE[name].__origin__ is int:
            yield f"{path}.type", "must be integer or categorical, but got 'continuous'."
            continue
        if isinstance(found, CategoricalRange):
            values: dict[str, float] = {f"values[{index}]": value for index, value in enumerate(found.values)}
        else:
            low, high, scaling = found.min, found.max, found.scaling
            values = {"min": low, "max": high}
            if high <= low:
                single = f"a single value is {{type: categorical, values: [{high}]}}"
                yield f"{path}.max", f"must be above min ({low}), but got {high}; {single}."
            if scaling == "Logarithmic" and low <= 0:
                yield f"{path}.min", f"must be above 0 for Logarithmic scaling, but got {low}."
            if scaling == "ReverseLogarithmic" and low < 0:
                yield f"{path}.min", f"must be at least 0 for ReverseLogarithmic scaling, but got {low}."
            if scaling == "ReverseLogarithmic" and high >= 1:
                yield f"{path}.max", f"must be below 1 for ReverseLogarithmic scaling, but got {high}."
        for place, value in values.items():
            try:
                kind.validate_python(value, strict=True)
            except ValidationError as error:
                is_whole = error.errors()[0]["type"] != "int_type"
                yield f"{path}.{place}", f"must be {accepted(kind.json_schema(), noun=not is_whole)}, but got {value}."


def training_problems(config: Config) -> Iterator[Problem]:
    for name, job in (("tuning", config.tuning), ("training", config.training)):
        if job.use_spot and job.max_wait_seconds < job.max_runtime_seconds:
            settings = f"{name}.max_wait_seconds {name}.max_runtime_seconds {name}.use_spot"
            limit = f"must be at least max_runtime_seconds ({job.max_runtime_seconds}) with use_spot"
            yield settings, f"{limit}, but got {job.max_wait_seconds}."
    idle, instances = sorted(FINE_TUNING & config.tuning.ranges.keys()), config.training.instance_count
    if idle and not config.fine_tunes:
        text = f"must not hold {', '.join(idle)} with model.finetune none, which does without."
        yield "tuning.ranges model.finetune", text
    if instances > 1 and not config.fine_tunes:
        text = f"must be 1 with model.finetune none, which trains in one process, but got {instances}."
        yield "training.instance_count model.finetune", text
    rules, demanded = config.debug.rules, config.condition.fail_on_rules
    if rules != sections.DEFAULT_RULES:
        yield from ((f"debug.rules.{name}", text) for name in rules for text in rule_problems(name, rules[name]))
    if demanded and not config.debug.enabled:
        text = "must be null or [] when debug.enabled is false, since no rule is evaluated then."
        yield "condition.fail_on_rules debug.enabled", text
    elif missing := [name for name in demanded or () if name not in rules]:
        text = f"names '{missing[0]}', which is not one of debug.rules.{did_you_mean(missing[0], rules)}"
        yield "condition.fail_on_rules debug.rules", text
    if config.condition.max_group_gap is not None and not config.data.attributes:
        text = "must be null without data.attributes, which says which images make a group."
        yield "condition.max_group_gap data.attributes", text


def deployment_problems(config: Config) -> Iterator[Problem]:
    deploy, aws, scaling = config.deploy, config.aws, config.deploy.autoscaling
    if scaling.max_instances < scaling.min_instances:
        text = f"must be at least min_instances ({scaling.min_instances}), but got {scaling.max_instances}."
        yield "deploy.autoscaling.max_instances deploy.autoscaling.min_instances", text
    if memory := deploy.serverless.memory_mb:
        for setting, value, most, words in (
            ("data_capture_percent", deploy.data_capture_percent, 0, "must be 0"),
            ("autoscaling.max_instances", scaling.max_instances, 1, "must be 1 (off)"),
            ("max_request_megabytes", deploy.max_request_megabytes, SERVERLESS_MEGABYTES, "must be at most 4"),
        ):
            if value > most:
                text = f"{words} for a serverless endpoint, which has no more, but got {value}"
                yield f"deploy.{setting} deploy.serverless", f"{text}; or set deploy.serverless.memory_mb to 0."
        if aws.vpc.subnet_ids:
            text = f"must be 0 (off) with aws.vpc, which serverless endpoints do not have, but got {memory}."
            yield "deploy.serverless.memory_mb aws.vpc", text
    days, expire = aws.artifact_retention_days, config.pipeline.cache_expire_days
    if days <= expire:  # a cached step would hand on outputs that the bucket has let go
        text = f"must be more than pipeline.cache_expire_days ({expire}), but got {days}."
        yield "aws.artifact_retention_days pipeline.cache_expire_days", text
    if config.drift.retrain and not deploy.data_capture_percent:
        text = "must be false while deploy.data_capture_percent is 0: nothing is captured, so no drift can be found."
        yield "drift.retrain deploy.data_capture_percent", text
    if config.drift.schedule and not deploy.data_capture_percent:
        text = "must be null while deploy.data_capture_percent is 0: nothing is captured that could be checked."
        yield "drift.schedule deploy.data_capture_percent", text
    if config.drift.schedule and aws.network_isolation:
        text = "must be null with aws.network_isolation: the check reads captured requests and puts a metric itself."
        yield "drift.schedule aws.network_isolation", text


def instance_problems(config: Config) -> Iterator[Problem]:
    for setting, kind in INSTANCE_TYPES.items():
        chosen = getattr(getattr(config, setting.partition(".")[0]), "instance_type")  # noqa: B009 typed as Any
        if chosen in USUAL_TYPES:
            continue
        if (known := instance_types(kind)) and chosen not in known:
            hint = did_you_mean(chosen, known)
            yield setting, f"must be an instance type that SageMaker has for it, but got '{chosen}'.{hint}"


@cache
def instance_types(kind: str) -> tuple[str, ...]:
    """Return the values that botocore knows of a type of the API; none if they cannot be found."""
    package = importlib.util.find_spec("botocore")
    for folder in (package and package.submodule_search_locations) or []:
        for file in Path(folder).glob("data/sagemaker/*/service-2.json.gz"):  # as text: parsing it takes a second
            listed = re.search(rf'"{kind}":{{[^\]]*?"enum":\[([^\]]*)\]', gzip.decompress(file.read_bytes()).decode())
            if listed:
                return tuple(re.findall(r'"(ml\.[^"]+)"', listed[1]))
    return ()
