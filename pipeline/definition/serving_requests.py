"""What CreateTransformJob and CreateEndpointConfig may ask for here, and the JSONPath of a transform job's filters.

Sources: the API's CreateTransformJob, TransformInput, TransformOutput and DataProcessing; AWS guide, "batch-transform"
and "batch-transform-data-processing", whose table of operators is the whole of this JSONPath.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.definition.expressions import is_expression
from pipeline.errors import PipelineError

FORMATS = {"text/csv": "csv", "application/json": "json", "application/jsonlines": "jsonlines"}
FILTER_CHARACTERS = 63
DEFAULT_PAYLOAD_MEGABYTES = 6
LIMIT_MEGABYTES = 100  # of MaxPayloadInMB, also times MaxConcurrentTransforms
ACCEPTED = {
    "TransformInput.SplitType": ("None", "Line"),
    "TransformInput.CompressionType": ("None", "Gzip"),
    "TransformInput.DataSource.S3DataSource.S3DataType": ("S3Prefix", "ManifestFile"),
    "TransformOutput.AssembleWith": ("None", "Line"),
    "BatchStrategy": ("SingleRecord", "MultiRecord"),
    "DataProcessing.JoinSource": ("None", "Input"),
}
SELECTOR = re.compile(
    r"\.(?P<name>[A-Za-z0-9-]+)|\.?(?P<all>\*|\[\*\])|\.?\[(?P<names>'[^'\[\]]+'(?: *, *'[^'\[\]]+')*)\]"
    r"|\[(?P<indexes>-?\d+(?: *, *-?\d+)*)\]|\[(?P<start>-?\d+)?:(?P<end>-?\d+)?\]"
)


class FilterError(PipelineError):
    """A filter that is none, or that does not fit a record."""


@dataclass(frozen=True)
class Selector:
    """One part of a path: some members by name or index, those from an index on (`start`), or all of them."""

    names: tuple[str, ...] = ()
    indexes: tuple[int, ...] = ()
    start: int | None = None


def read_filter(path: str) -> tuple[Selector, ...]:
    """The parts of an InputFilter or OutputFilter.

    Raises:
        FilterError: it uses an operator that SageMaker does not have, or whose meaning its guide leaves open.
    """
    if len(path) > FILTER_CHARACTERS:
        raise FilterError(f"{path[:20]!r}... has {len(path)} characters; SageMaker takes {FILTER_CHARACTERS}")
    if not path.startswith("$"):
        raise FilterError(f"{path!r} does not begin with $")
    if wrong := re.search(r"[^A-Za-z0-9$\[\]*. ,:'-]", path):  # as CreateTransformJob refuses it: aws/aws-sdk#184
        raise FilterError(f"{path!r} contains {wrong[0]!r}, which SageMaker does not take in a filter")
    found, position = [], 1
    while position < len(path):
        match = SELECTOR.match(path, position)
        if match is None:
            raise FilterError(
                f"{path!r} has {path[position:]!r}, which SageMaker does not support; "
                "it takes $, .name, *, ['name','name'], [0,1] and [1:]"
            )
        found.append(read_selector(path, match))
        position = match.end()
    if any(len(selector.names) > 1 for selector in found[:-1]):
        raise FilterError(f"{path!r} goes on below several names, which SageMaker does not support")
    return tuple(found)


def read_selector(path: str, match: re.Match[str]) -> Selector:
    """One part of a path.

    Raises:
        FilterError: it is a slice with an end.
    """
    if match["end"]:
        raise FilterError(
            f"{path!r} has a slice with an end, which SageMaker's guide counts in and JSONPath does not; "
            "write the indexes out, as $[1,2,3]"
        )
    if match["name"] or match["names"]:
        return Selector(names=(match["name"],) if match["name"] else tuple(re.findall(r"'([^']+)'", match["names"])))
    if match["indexes"]:
        return Selector(indexes=tuple(int(index) for index in match["indexes"].split(",")))
    return Selector() if match["all"] else Selector(start=int(match["start"] or 0))


def filtered(value: Any, path: tuple[Selector, ...]) -> Any:
    """What a path selects of a JSON value: several names give an object, several indexes an array.

    Raises:
        FilterError: the value has no such member.
    """
    if not path:
        return value
    selector, rest = path[0], path[1:]
    try:
        if len(selector.names) > 1:
            return {name: value[name] for name in selector.names}
        if selector.names or len(selector.indexes) == 1:
            return filtered(value[selector.names[0] if selector.names else selector.indexes[0]], rest)
        return [filtered(member, rest) for member in members(value, selector)]
    except (KeyError, IndexError, TypeError) as problem:
        raise FilterError(f"the filter selects what the record does not have: {problem}") from problem


def members(value: Any, selector: Selector) -> list[Any]:
    """The members that a wildcard, a slice or a list of indexes selects."""
    if selector.indexes:
        return [value[index] for index in selector.indexes]
    if selector.start is None and isinstance(value, dict):
        return list(value.values())
    if not isinstance(value, list):
        raise TypeError(f"it is no array but {value!r}")
    start = selector.start or 0
    if start >= len(value) and start > 0:
        raise IndexError(f"it has {len(value)} items, so none from index {start} on")
    return value[start:]


def at(arguments: Any, path: str) -> Any:
    """A member at a dotted path; None where there is none."""
    for name in path.split("."):
        arguments = arguments.get(name) if isinstance(arguments, Mapping) else None
    return arguments


def transform_faults(arguments: Mapping[str, Any]) -> Iterator[str]:
    """Why a transform job could not be run here; sentences that follow the step's name. Expressions are passed over."""
    for path, values in ACCEPTED.items():
        value = at(arguments, path)
        if value is not None and not is_expression(value) and value not in values:
            yield f"has {value!r} as {path}; the local target takes {' and '.join(values)}."
    if at(arguments, "DataCaptureConfig"):
        yield "has a DataCaptureConfig, which transform jobs do not follow here; leave it out."
    yield from payload_faults(arguments)
    yield from filter_faults(arguments)


def endpoint_config_faults(arguments: Mapping[str, Any]) -> Iterator[str]:
    """Why an endpoint configuration could not be served here; a serverless variant is served as any other."""
    variants = arguments.get("ProductionVariants")
    variants = variants if isinstance(variants, list) else []
    if len(variants) > 1:
        yield f"has {len(variants)} ProductionVariants, but an endpoint has one server here; give it one variant."
    if variants and not at(variants[0], "ModelName"):
        yield "has a variant without ModelName; inference components are not served here, so name a model."
    for name, why in (
        ("AsyncInferenceConfig", "requests are answered at once here; leave it out, and call InvokeEndpoint"),
        ("ShadowProductionVariants", "an endpoint has one server here; leave them out"),
        ("ExplainerConfig", "Clarify's image is AWS's; leave it out"),
    ):
        if arguments.get(name):
            yield f"has {name}, but {why}."


def payload_faults(arguments: Mapping[str, Any]) -> Iterator[str]:
    """MaxPayloadInMB and MaxConcurrentTransforms."""
    megabytes, concurrent = at(arguments, "MaxPayloadInMB"), at(arguments, "MaxConcurrentTransforms")
    for name, value in (("MaxPayloadInMB", megabytes), ("MaxConcurrentTransforms", concurrent)):
        if value is not None and not is_expression(value) and not (isinstance(value, int) and value >= 0):
            yield f"has {value!r} as {name}; it must be a whole number of at least 0."
            return
    size = DEFAULT_PAYLOAD_MEGABYTES if megabytes is None else megabytes
    if isinstance(size, int) and size * max(1, concurrent if isinstance(concurrent, int) else 1) > LIMIT_MEGABYTES:
        times = f" times MaxConcurrentTransforms {concurrent}" if isinstance(concurrent, int) and concurrent else ""
        yield f"has MaxPayloadInMB {size}{times}, but SageMaker takes at most {LIMIT_MEGABYTES} MB."


def filter_faults(arguments: Mapping[str, Any]) -> Iterator[str]:
    """DataProcessing, and what it needs of the job's input and output."""
    settings = at(arguments, "DataProcessing")
    settings = settings if isinstance(settings, Mapping) else {}
    filters = {
        name: settings[name] for name in ("InputFilter", "OutputFilter") if settings.get(name) not in (None, "$")
    }
    if not filters and settings.get("JoinSource") != "Input":
        return
    split, assembled = at(arguments, "TransformInput.SplitType"), at(arguments, "TransformOutput.AssembleWith")
    given = (at(arguments, "TransformInput.ContentType"), at(arguments, "TransformOutput.Accept"))
    if any(map(is_expression, (split, assembled, *given))):
        return
    content_type, accept = media_type(given[0]), media_type(given[1] or given[0])
    for name, value in (("TransformInput.ContentType", content_type), ("TransformOutput.Accept", accept)):
        if value not in FORMATS:
            yield f"has DataProcessing, which needs {name} to be one of {', '.join(FORMATS)}, but it is {value!r}."
            return
    if ("text/csv" in (content_type, accept)) and content_type != accept:
        yield f"has DataProcessing with ContentType {content_type} and Accept {accept}; both must be CSV, or both JSON."
    if (split or "None") != (assembled or "None"):
        found = f"SplitType {split or 'None'} and AssembleWith {assembled or 'None'}"
        yield f"has DataProcessing with {found}, which must match; take Line for both, or None."
    elif content_type == "text/csv" and split != "Line":
        yield "has DataProcessing of text/csv, which needs SplitType and AssembleWith Line."
    for name, path in filters.items():
        if not is_expression(path):
            yield from path_faults(name, path, is_csv=content_type == "text/csv")


def path_faults(name: str, path: Any, *, is_csv: bool) -> Iterator[str]:
    """A filter's own."""
    try:
        selectors = read_filter(str(path))
    except FilterError as problem:
        yield f"has a DataProcessing.{name} that cannot be used: {problem}."
        return
    if is_csv and (len(selectors) > 1 or any(selector.names for selector in selectors)):
        yield f"has {path!r} as DataProcessing.{name}; of a row of CSV only indexes can be taken, as $[0] or $[1:]."


def media_type(header: Any) -> str:
    """A content type without its parameters."""
    return str(header or "").partition(";")[0].strip().lower()
