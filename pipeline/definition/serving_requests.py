"""What CreateTransformJob and CreateEndpointConfig may ask for here, and the JSONPath of a transform job's filters.

Sources: the API's CreateTransformJob, TransformInput, TransformOutput and DataProcessing; AWS guide, "batch-transform"
and "batch-transform-data-processing", whose table of operators is the whole of this JSONPath.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from pipeline.definition.expressions import is_expression
from pipeline.errors import PipelineError

FORMATS = {"text/csv": "csv", "application/json": "json", "application/jsonlines": "jsonlines"}
FILTER_CHARACTERS = 63
LACKING = "the filter selects what the record does not have"
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
UNSERVED = {
    "AsyncInferenceConfig": "requests are answered at once here; leave it out, and call InvokeEndpoint",
    "ShadowProductionVariants": "an endpoint has one server here; leave them out",
    "ExplainerConfig": "Clarify's image is AWS's; leave it out",
}
SELECTOR = re.compile(
    r"\.(?P<name>[A-Za-z0-9-]+)|\.?(?P<all>\*|\[\*\])|\.?\[(?P<names>'[^'\[\]]+'(?: *, *'[^'\[\]]+')*)\]"
    r"|\[(?P<indexes>-?\d+(?: *, *-?\d+)*)\]|\[(?P<start>-?\d+)?:(?P<end>-?\d+)?\]"
)
Selector = tuple[str, ...] | tuple[int, ...] | slice | None  # members by name or index, from one on, or all (None)


class FilterError(PipelineError):
    """A filter that is none, or that does not fit a record."""


def read_filter(path: str) -> list[Selector]:
    """Return the parts of an InputFilter or OutputFilter.

    Raises:
        FilterError: it uses an operator that SageMaker does not have, or whose meaning its guide leaves open.
    """
    if len(path) > FILTER_CHARACTERS:
        raise FilterError(f"{path[:20]!r}... has {len(path)} characters; SageMaker takes {FILTER_CHARACTERS}")
    if not path.startswith("$"):
        raise FilterError(f"{path!r} does not begin with $")
    if wrong := re.search(r"[^A-Za-z0-9$\[\]*. ,:'-]", path):  # as CreateTransformJob refuses it: aws/aws-sdk#184
        raise FilterError(f"{path!r} contains {wrong[0]!r}, which SageMaker does not take in a filter")
    selectors: list[Selector] = []
    position = 1
    while position < len(path):
        match = SELECTOR.match(path, position)
        if match is None:
            takes = "it takes $, .name, *, ['name','name'], [0,1] and [1:]"
            raise FilterError(f"{path!r} has {path[position:]!r}, which SageMaker does not support; {takes}")
        if match["end"]:
            why = "which SageMaker's guide counts in and JSONPath does not; write the indexes out, as $[1,2,3]"
            raise FilterError(f"{path!r} has a slice with an end, {why}")
        if selectors and is_several_names(selectors[-1]):
            raise FilterError(f"{path!r} goes on below several names, which SageMaker does not support")
        names = (match["name"],) if match["name"] else tuple(re.findall(r"'([^']+)'", match["names"] or ""))
        indexes = tuple(int(index) for index in (match["indexes"] or "").split(",") if index)
        selectors.append(names or indexes or (None if match["all"] else slice(int(match["start"] or 0), None)))
        position = match.end()
    return selectors


def is_several_names(selector: Selector) -> bool:
    """Return whether a selector makes an object of what it selects."""
    return isinstance(selector, tuple) and len(selector) > 1 and isinstance(selector[0], str)


def filtered(value: Any, path: list[Selector]) -> Any:
    """Return what a path selects of a JSON value: of several names an object, of several indexes an array.

    Raises:
        FilterError: the value has no such member.
    """
    if not path:
        return value
    selector, rest = path[0], path[1:]
    if is_several_names(selector) and isinstance(selector, tuple):
        return {name: member(value, name) for name in selector}
    if isinstance(selector, tuple):
        selected = [filtered(member(value, key), rest) for key in selector]
        return selected if len(selector) > 1 else selected[0]
    if selector is None and isinstance(value, dict):
        return [filtered(item, rest) for item in value.values()]
    if not isinstance(value, list):
        raise FilterError(f"{LACKING}: it is no array but {value!r}")
    start = selector.start if selector else 0
    if start >= len(value) and start > 0:
        raise FilterError(f"{LACKING}: none from index {start} on")
    return [filtered(item, rest) for item in value[start:]]


def member(value: Any, key: Any) -> Any:
    """Return a member of an object by its name, or of an array by its index.

    Raises:
        FilterError: there is none.
    """
    if not isinstance(value, dict if isinstance(key, str) else list):
        raise FilterError(f"{LACKING}: {value!r} has no {key!r}")
    try:
        return value[key]
    except LookupError as problem:
        raise FilterError(f"{LACKING}: {problem}") from problem


def at(arguments: Any, path: str) -> Any:
    """Return the member at a dotted path, or None."""
    for name in path.split("."):
        arguments = arguments.get(name) if isinstance(arguments, Mapping) else None
    return arguments


def transform_faults(arguments: Mapping[str, Any]) -> Iterator[str]:
    """Say why a transform job could not be run here, after the step's name. Expressions are passed over."""
    for path, values in ACCEPTED.items():
        value = at(arguments, path)
        if value is not None and not is_expression(value) and value not in values:
            yield f"has {value!r} as {path}; the local target takes {' and '.join(values)}."
    if at(arguments, "DataCaptureConfig"):
        yield "has a DataCaptureConfig, which transform jobs do not follow here; leave it out."
    yield from payload_faults(arguments)
    yield from filter_faults(arguments)


def endpoint_config_faults(arguments: Mapping[str, Any]) -> Iterator[str]:
    """Say why an endpoint configuration could not be served here; a serverless variant is served as any other."""
    variants = arguments.get("ProductionVariants")
    variants = variants if isinstance(variants, list) else []
    if len(variants) > 1:
        yield f"has {len(variants)} ProductionVariants, but an endpoint has one server here; give it one variant."
    if variants and not at(variants[0], "ModelName"):
        yield "has a variant without ModelName; inference components are not served here, so name a model."
    yield from (f"has {name}, but {why}." for name, why in UNSERVED.items() if arguments.get(name))


def payload_faults(arguments: Mapping[str, Any]) -> Iterator[str]:
    """Check MaxPayloadInMB and MaxConcurrentTransforms."""
    megabytes, concurrent = at(arguments, "MaxPayloadInMB"), at(arguments, "MaxConcurrentTransforms")
    for name, value in (("MaxPayloadInMB", megabytes), ("MaxConcurrentTransforms", concurrent)):
        if value is not None and not is_expression(value) and not (isinstance(value, int) and value >= 0):
            yield f"has {value!r} as {name}; it must be a whole number of at least 0."
            return
    size = DEFAULT_PAYLOAD_MEGABYTES if megabytes is None else megabytes
    times = concurrent if isinstance(concurrent, int) else 0
    if isinstance(size, int) and size * max(1, times) > LIMIT_MEGABYTES:
        product = f"{size} times MaxConcurrentTransforms {times}" if times else f"{size}"
        yield f"has MaxPayloadInMB {product}, but SageMaker takes at most {LIMIT_MEGABYTES} MB."


def filter_faults(arguments: Mapping[str, Any]) -> Iterator[str]:
    """Check DataProcessing, and what it needs of the job's input and output."""
    given = {name: at(arguments, f"DataProcessing.{name}") for name in ("InputFilter", "OutputFilter")}
    filters = {name: path for name, path in given.items() if path not in (None, "$")}
    if not filters and at(arguments, "DataProcessing.JoinSource") != "Input":
        return
    members = ("TransformInput.SplitType", "TransformInput.ContentType", "TransformOutput.AssembleWith")
    split, content_type, assemble, accept = (at(arguments, name) for name in (*members, "TransformOutput.Accept"))
    if any(map(is_expression, (split, content_type, assemble, accept))):
        return
    kinds = media_type(content_type), media_type(accept or content_type)
    for name, kind in zip(("TransformInput.ContentType", "TransformOutput.Accept"), kinds, strict=True):
        if kind not in FORMATS:
            yield f"has DataProcessing, which needs {name} to be one of {', '.join(FORMATS)}, but it is {kind!r}."
            return
    if "text/csv" in kinds and kinds[0] != kinds[1]:
        pair = f"ContentType {kinds[0]} and Accept {kinds[1]}"
        yield f"has DataProcessing with {pair}; both must be CSV, or both JSON."
    if (split or "None") != (assemble or "None"):
        pair = f"SplitType {split or 'None'} and AssembleWith {assemble or 'None'}"
        yield f"has DataProcessing with {pair}, which must match; take Line for both, or None."
    elif kinds[0] == "text/csv" and split != "Line":
        yield "has DataProcessing of text/csv, which needs SplitType and AssembleWith Line."
    for name, path in filters.items():
        try:
            selectors = [] if is_expression(path) else read_filter(str(path))
        except FilterError as problem:
            yield f"has a DataProcessing.{name} that cannot be used: {problem}."
            continue
        by_name = any(isinstance(selector, tuple) and isinstance(selector[0], str) for selector in selectors)
        if kinds[0] == "text/csv" and (by_name or len(selectors) > 1):
            yield f"has {path!r} as DataProcessing.{name}; of a row of CSV only indexes can be taken, as $[0] or $[1:]."


def media_type(header: Any) -> str:
    """Return a content type without its parameters."""
    return str(header or "").partition(";")[0].strip().lower()
