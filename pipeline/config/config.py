"""Reads pipeline.yaml: every mistake at once, with its line, and environments.

An environment, which `--env NAME` lays over the rest of the file, states what differs: sections are merged key by key,
anything else is replaced whole. So that two environments of one account do not share a pipeline, a group of models, an
endpoint, a function or a stack, the names of those take the environment's name as a suffix, unless it states them.
"""

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import ValidationError

from pipeline.config.relations import broken_rules
from pipeline.config.sections import S3_URI, Section
from pipeline.config.sections import Config as Config
from pipeline.config.wording import problem, schema_at
from pipeline.config.yaml_source import Location, read_source
from pipeline.errors import ConfigError, ParameterError, UsageError
from pipeline.paths import shown
from pipeline.suggestion import did_you_mean

T = TypeVar("T")
Problem = tuple[Location, str]  # a setting, and the rest of a sentence about it
SUFFIXED = (
    "pipeline.name",
    "registry.model_package_group",
    "deploy.endpoint_name",
    "aws.project",
    "aws.deploy_function",
)
PARAMETERS = {  # runtime parameter -> the setting that is its default
    "AccuracyThreshold": "evaluation.accuracy_threshold",
    "MaxTuningJobs": "tuning.max_jobs",
    "MaxParallelTuningJobs": "tuning.max_parallel_jobs",
    "ProcessingInstanceType": "data.instance_type",
    "TuningInstanceType": "tuning.instance_type",
    "TrainingInstanceType": "training.instance_type",
    "EndpointName": "deploy.endpoint_name",
}
MEANINGS = {  # of the other runtime parameters
    "InputDataUri": "the images, an S3 prefix or archive",
    "ModelApprovalStatus": "of the new version; Approved deploys at once",
    "ReplaceClasses": "true: the new model may replace one that knows other classes",
    "WarmStartParent": "the tuning job whose trials the search begins with",
}


def load(path: Path, environment: str | None = None) -> Config:
    """Return the file's configuration, with an environment's overlay if one is named.

    Raises:
        ConfigError: every mistake of the file and of all its overlays, in the order of the lines.
    """
    file = ConfigFile(path, environment)
    file.raise_problems()
    return file.config


class ConfigFile:
    """A file's `config`, where settings that are not acceptable have their defaults, and its problems.

    `check` lets what needs more than the file, such as a data source, add to the problems.
    """

    def __init__(self, path: Path, environment: str | None = None) -> None:
        self.name = shown(path) if path.is_absolute() else str(path)
        self.source = read_source(path, self.name)
        self.environment = environment
        self.problems = list(self.source.problems)
        self.config, self.unsound = self.read(self.source.data)
        base, known = self.config, set(self.problems)
        for name, overlay in base.environments.items():
            config, unsound = self.read(overlaid(self.source.data, overlay, base, name), name, known)
            if name == environment:
                self.config, self.unsound = config, unsound
        if environment is not None and environment not in base.environments and not self.problems:
            names = ", ".join(base.environments) or "none"
            hint = did_you_mean(environment, base.environments)
            sentence = f"{self.name} has no environment '{environment}' in environments; it has {names}.{hint}"
            raise ConfigError([sentence])

    def read(
        self, data: dict[str, Any], environment: str | None = None, known: Collection[tuple[int, str]] = ()
    ) -> tuple[Config, list[Location]]:
        """Return the configuration and the settings that are not acceptable; list the problems that are not `known`."""
        config, problems = validate(data, lambda location: self.find(location, environment)[1])
        for location, text in problems:
            line, sentence = self.find(location, environment)[0], f"{path_of(location)} {text}"
            if (line, sentence) not in known:
                self.problems.append((line, f"environments.{environment}.{sentence}" if environment else sentence))
        return config, [location for location, _ in problems]

    def find(self, location: Location, environment: str | None) -> tuple[int, yaml.Node | None]:
        """Return the line of a setting, or of what is around it, and its node: the environment's, if it has one."""
        stated = self.source.find(location)
        overlay = self.source.find(("environments", environment, *location)) if environment else stated
        return stated if overlay[1] is None and stated[1] is not None else overlay

    def check(self, find: Callable[[], T], *settings: str) -> T | None:
        """Return what `find` makes of some settings; None if one is not acceptable, or for a UsageError of `find`,
        which becomes a problem of the first."""
        locations = [location_of(setting) for setting in settings]
        if any(overlap(location, other) for location in locations for other in self.unsound):
            return None
        try:
            return find()
        except UsageError as error:
            self.problems.append((self.find(locations[0], self.environment)[0], str(error)))
        return None

    def raise_problems(self) -> None:
        """Raise a ConfigError with every problem, in the order of the lines."""
        in_order = sorted(dict.fromkeys(self.problems), key=lambda problem: problem[0])
        if in_order:
            raise ConfigError([f"{self.name}:{line}: {' '.join(sentence.split())}" for line, sentence in in_order])


def validate(
    data: dict[str, Any], node_of: Callable[[Location], yaml.Node | None] = lambda location: None
) -> tuple[Config, list[Problem]]:
    """Return the configuration of some data, with defaults for what is not acceptable, and all problems."""
    problems: list[Problem] = []
    while True:
        try:
            config = Config.model_validate(data)
            break
        except ValidationError as errors:
            for error in errors.errors():
                location = file_location(error["loc"])
                schema = schema_at(error["loc"])
                problems.append((location, problem(error, schema, node_of(location))))
                data = without(data, location)
    for settings, text in broken_rules(config):
        locations = [location_of(setting) for setting in settings.split()]
        if not any(overlap(location, other) for location in locations for other, _ in problems):
            problems.append((locations[0], text))
    return config, problems


def file_location(loc: Location) -> Location:
    """Return where one of pydantic's errors lies in the file: without the type of a range, and what marks a key."""
    location = loc[:-1] if loc[-1] == "[key]" else loc
    return (*location[:3], *location[4:]) if location[:2] == ("tuning", "ranges") else location


def without(data: dict[str, Any], location: Location) -> dict[str, Any]:
    """Return the data without a setting, or without the list or the range that it is part of."""
    first, *rest = location[: 3 if location[:2] == ("tuning", "ranges") else None]
    below = data.get(str(first))
    kept = without(below, tuple(rest)) if rest and isinstance(rest[0], str) and isinstance(below, dict) else None
    return {key: kept if key == first else value for key, value in data.items() if key != first or kept}


def overlaid(data: dict[str, Any], overlay: dict[str, Any], base: Config, name: str) -> dict[str, Any]:
    """Return the data with an environment's overlay; `base` is the configuration without it."""
    merged = merge({key: value for key, value in data.items() if key != "environments"}, overlay, Config)
    for section, setting in (path.split(".") for path in SUFFIXED):
        below, stated = merged.get(section) or {}, overlay.get(section)
        if isinstance(below, dict) and not (isinstance(stated, dict) and setting in stated):
            merged[section] = {**below, setting: f"{getattr(getattr(base, section), setting)}-{name}"}
    return merged


def merge(data: dict[str, Any], overlay: dict[str, Any], model: type[Section]) -> dict[str, Any]:
    """Return the members of both mappings; where both hold a section, the sections merged."""
    merged = {**data, **overlay}
    for name in data.keys() & overlay.keys() & model.model_fields.keys():
        kind, below, above = model.model_fields[name].annotation, data[name], overlay[name]
        if isinstance(kind, type) and issubclass(kind, Section) and isinstance(below, dict) and isinstance(above, dict):
            merged[name] = merge(below, above, kind)
    return merged


def check_parameters(config: Config, given: Mapping[str, str]) -> None:
    """Check values of the pipeline's parameters as the same values in pipeline.yaml are; other names are left alone.

    Raises:
        ParameterError: every value that is not acceptable.
    """
    problems, data, changed = [], config.model_dump(exclude_unset=True), dict[Location, str]()
    for name, text in given.items():
        if name == "InputDataUri" and not re.fullmatch(S3_URI, text):
            problems.append(f"Parameter '{name}' must be s3://bucket/prefix, but got '{text}'.")
        if name in PARAMETERS:
            section, setting = PARAMETERS[name].split(".")
            location = section, setting
            is_text = schema_at(location)["type"] == "string"
            data[section] = {**data.get(section, {}), setting: text if is_text else number(text)}
            changed[location] = name
    if changed:
        problems += [f"Parameter '{changed[at]}' {text}" for at, text in validate(data)[1] if at in changed]
    if problems:
        raise ParameterError(problems)


def describe_pipeline(config: Config, parameters: Iterable[str]) -> str:
    """Return pipeline.description and what each runtime parameter means: in Studio the only place for that.

    It is one line, as the service's pattern for descriptions allows no more (AWS API, PipelineDescription).
    """
    settings = {name: schema_at(location_of(setting))["description"] for name, setting in PARAMETERS.items()}
    listed = "; ".join(f"{name}: {(MEANINGS | settings)[name]}" for name in parameters)
    return f"{config.pipeline.description} Parameters: {listed}."


def number(text: str) -> int | float | str:
    """Return the number that text spells, else the text."""
    for kind in (int, float):
        with suppress(ValueError):
            return kind(text)
    return text


def location_of(setting: str) -> Location:
    """Return where a setting lies, of its dotted path."""
    return tuple(int(part) if part.isdecimal() else part for part in re.findall(r"[^.\[\]]+", setting))


def path_of(location: Location) -> str:
    """Return a setting's dotted path."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location).removeprefix(".")


def overlap(one: Location, other: Location) -> bool:
    """Whether one setting is the other, or part of it."""
    return all(mine == yours for mine, yours in zip(one, other, strict=False))
