"""Rules between settings, also of different sections. They are asked even where other settings are not acceptable."""

import gzip
import importlib.util
import re
from collections.abc import Iterator
from functools import cache
from math import prod
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from pipeline.config.job_code import FINE_TUNING, SEARCHABLE, rule_problems
from pipeline.config.sections import (
    DEFAULT_RULES,
    ON_DEMAND,
    RESOURCE,
    CategoricalRange,
    Config,
    ContinuousRange,
    Range,
)
from pipeline.config.wording import accepted
from pipeline.suggestion import did_you_mean

SERVERLESS_REQUEST_MEGABYTES = 4  # serverless endpoints take 4 MB, others 6
INSTANCE_TYPES = {  # setting -> the type of the API that lists what it may be
    "data.instance_type": "ProcessingInstanceType",
    "tuning.instance_type": "TrainingInstanceType",
    "training.instance_type": "TrainingInstanceType",
    "evaluation.instance_type": "ProcessingInstanceType",
    "deploy.instance_type": "ProductionVariantInstanceType",
}
Problem = tuple[tuple[str, ...], str]  # the settings that it is about, the first of which it is reported at


def broken_rules(config: Config) -> Iterator[Problem]:
    """Return each rule that the configuration breaks, as the rest of a sentence about a setting."""
    yield from search_problems(config)
    yield from training_problems(config)
    yield from deployment_problems(config)
    yield from instance_problems(config)


def search_problems(config: Config) -> Iterator[Problem]:
    tuning, ranges = config.tuning, config.tuning.ranges
    if tuning.max_parallel_jobs > tuning.max_jobs:
        text = f"must not exceed max_jobs ({tuning.max_jobs}), but got {tuning.max_parallel_jobs}."
        yield ("tuning.max_parallel_jobs", "tuning.max_jobs"), text
    better = "Maximize" if tuning.objective_metric.endswith("accuracy") else "Minimize"
    if tuning.objective_type != better:
        text = f"must be {better} for {tuning.objective_metric}, but got '{tuning.objective_type}'."
        yield ("tuning.objective_type", "tuning.objective_metric"), text
    for name, found in ranges.items():
        yield from range_problems(name, found)
    if tuning.strategy == "Hyperband":
        if tuning.early_stopping != "Off":
            text = f"must be Off with strategy Hyperband, which stops trials itself, but got '{tuning.early_stopping}'."
            yield ("tuning.early_stopping", "tuning.strategy"), text
        if tuning.resource is None or len(ranges) == 1:
            text = (
                f"must hold {RESOURCE} with strategy Hyperband, as a range of whole numbers, and at least one more: a "
                "trial is given up after its min epochs at the earliest, and ends after max."
            )
            yield ("tuning.ranges", "tuning.strategy"), text
    if tuning.strategy == "Grid":
        endless = [name for name, found in ranges.items() if not isinstance(found, CategoricalRange)]
        points = prod(len(found.values) for found in ranges.values() if isinstance(found, CategoricalRange))
        if endless:
            text = f"must all be categorical with strategy Grid, but these are not: {', '.join(endless)}."
            yield ("tuning.ranges", "tuning.strategy"), text
        elif tuning.max_jobs != points:
            text = f"must be {points} with strategy Grid, which tries every combination of the ranges, but got "
            yield ("tuning.max_jobs", "tuning.strategy", "tuning.ranges"), f"{text}{tuning.max_jobs}."


def range_problems(name: str, found: Range) -> Iterator[Problem]:
    path, kind = f"tuning.ranges.{name}", TypeAdapter(SEARCHABLE[name])
    if isinstance(found, CategoricalRange):
        values: dict[str, float] = {f"{path}.values[{index}]": value for index, value in enumerate(found.values)}
    else:
        values = {f"{path}.min": found.min, f"{path}.max": found.max}
        single = f"a single value is {{type: categorical, values: [{found.max}]}}"
        reverse = found.scaling == "ReverseLogarithmic"
        for end, is_wrong, limit in (
            ("max", found.max <= found.min, f"above min ({found.min}), but got {found.max}; {single}."),
            (
                "min",
                found.scaling == "Logarithmic" and found.min <= 0,
                f"above 0 for Logarithmic scaling, but got {found.min}.",
            ),
            ("min", reverse and found.min < 0, f"at least 0 for ReverseLogarithmic scaling, but got {found.min}."),
            ("max", reverse and found.max >= 1, f"below 1 for ReverseLogarithmic scaling, but got {found.max}."),
        ):
            if is_wrong:
                yield (f"{path}.{end}",), f"must be {limit}"
    if isinstance(found, ContinuousRange) and SEARCHABLE[name].__origin__ is int:
        yield (f"{path}.type",), "must be integer or categorical, but got 'continuous'."
        return
    for place, value in values.items():
        try:
            kind.validate_python(value, strict=True)
        except ValidationError as error:
            is_number = error.errors()[0]["type"] != "int_type"
            yield (place,), f"must be {accepted(kind.json_schema(), noun=not is_number)}, but got {value}."


def training_problems(config: Config) -> Iterator[Problem]:
    frozen = config.model.finetune == "none"
    for name in ("tuning", "training"):
        section = getattr(config, name)
        if section.use_spot and section.max_wait_seconds < section.max_runtime_seconds:
            paths = tuple(f"{name}.{key}" for key in ("max_wait_seconds", "max_runtime_seconds", "use_spot"))
            bound = f"must be at least max_runtime_seconds ({section.max_runtime_seconds}) with use_spot"
            yield paths, f"{bound}, but got {section.max_wait_seconds}."
    if frozen and (idle := sorted(FINE_TUNING & config.tuning.ranges.keys())):
        text = f"must not hold {', '.join(idle)} with model.finetune none, which does without."
        yield ("tuning.ranges", "model.finetune"), text
    if frozen and (instances := config.training.instance_count) > 1:
        text = f"must be 1 with model.finetune none, which trains in one process, but got {instances}."
        yield ("training.instance_count", "model.finetune"), text
    debug, demanded = config.debug, config.condition.fail_on_rules
    if debug.rules != DEFAULT_RULES:
        for rule, entry in debug.rules.items():
            for text in rule_problems(rule, entry):
                yield (f"debug.rules.{rule}",), text
    missing = [name for name in demanded if name not in debug.rules]
    if demanded and not debug.enabled:
        text = "must be [] when debug.enabled is false, since no rule is evaluated then."
        yield ("condition.fail_on_rules", "debug.enabled"), text
    elif missing:
        text = f"names '{missing[0]}', which is not one of debug.rules.{did_you_mean(missing[0], debug.rules)}"
        yield ("condition.fail_on_rules", "debug.rules"), text
    if config.condition.max_group_gap is not None and not config.data.attributes:
        text = "must be null without data.attributes, which says which images make a group."
        yield ("condition.max_group_gap", "data.attributes"), text


def deployment_problems(config: Config) -> Iterator[Problem]:
    deploy, aws, memory = config.deploy, config.aws, config.deploy.serverless.memory_mb
    scaling = deploy.autoscaling
    if scaling.max_instances < scaling.min_instances:
        text = f"must be at least min_instances ({scaling.min_instances}), but got {scaling.max_instances}."
        yield ("deploy.autoscaling.max_instances", "deploy.autoscaling.min_instances"), text
    refused = {
        "deploy.data_capture_percent": ("0", "has no such thing", deploy.data_capture_percent, 0),
        "deploy.autoscaling.max_instances": ("1 (off)", "scales by itself", scaling.max_instances, 1),
        "deploy.max_request_megabytes": (
            f"at most {SERVERLESS_REQUEST_MEGABYTES}", "takes no larger ones", deploy.max_request_megabytes,
            SERVERLESS_REQUEST_MEGABYTES,
        ),
    }  # fmt: skip
    for setting, (limit, why, value, most) in refused.items():
        if memory and value > most:
            text = f"must be {limit} for a serverless endpoint, which {why}, but got {value}"
            yield (setting, "deploy.serverless"), f"{text}; or set deploy.serverless.memory_mb to 0."
    if memory and (aws.vpc.subnet_ids or aws.network_isolation):
        where = "aws.vpc" if aws.vpc.subnet_ids else "aws.network_isolation"
        text = f"must be 0 (off) with {where}, which serverless endpoints do not have, but got {memory}."
        yield ("deploy.serverless.memory_mb", "aws.vpc", "aws.network_isolation"), text
    days, expire = aws.artifact_retention_days, config.pipeline.cache_expire_days
    if days <= expire:  # a cached step would hand on outputs that the bucket has let go
        text = f"must be more than pipeline.cache_expire_days ({expire}), but got {days}."
        yield ("aws.artifact_retention_days", "pipeline.cache_expire_days"), text
    if config.drift.retrain and not deploy.data_capture_percent:
        text = "must be false while deploy.data_capture_percent is 0: nothing is captured, so no drift can be found."
        yield ("drift.retrain", "deploy.data_capture_percent"), text


def instance_problems(config: Config) -> Iterator[Problem]:
    for path, kind in INSTANCE_TYPES.items():
        section, setting = path.split(".")
        chosen = getattr(getattr(config, section), setting)
        if chosen in ON_DEMAND:
            continue
        known = instance_types(kind)
        if known and chosen not in known:
            hint = did_you_mean(chosen, known)
            yield (path,), f"must be an instance type that SageMaker has for it, but got '{chosen}'.{hint}"
        elif chosen not in config.prices.per_hour:
            text = f"is {chosen}, of which prices.per_hour has no price: add one, as {{{chosen}: 1.5}}, for estimates."
            yield (path, "prices.per_hour"), text


@cache
def instance_types(kind: str) -> tuple[str, ...]:
    """Return the values that botocore knows of a type of the API; none if they cannot be found."""
    package = importlib.util.find_spec("botocore")
    folder = Path(package.submodule_search_locations[0]) if package and package.submodule_search_locations else Path()
    for file in folder.glob("data/sagemaker/*/service-2.json.gz"):  # read as text: parsing it takes a second
        listed = re.search(rf'"{kind}":{{[^\]]*?"enum":\[([^\]]*)\]', gzip.decompress(file.read_bytes()).decode())
        if listed:
            return tuple(re.findall(r'"(ml\.[^"]+)"', listed[1]))
    return ()
