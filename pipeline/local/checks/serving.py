"""What CreateTransformJob and CreateEndpointConfig may ask for here, and the JSONPath of a transform job's filters.

Sources: the API's CreateTransformJob, TransformInput, TransformOutput and DataProcessing; AWS guide, "batch-transform"
and "batch-transform-data-processing", whose table of operators is the whole of this JSONPath.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any, TypeGuard

from pipeline.definition.expressions import is_expression
from pipeline.definition.steps import at
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
EVERY = slice(None)  # what * selects, of an object too
Selector = tuple[Any, ...] | slice  # members by name or index, or from one on


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
        if selectors and is_by_name(selectors[-1]) and len(selectors[-1]) > 1:
            raise FilterError(f"{path!r} goes on below several names, which SageMaker does not support")
        names = (match["name"],) if match["name"] else tuple(re.findall(r"'([^']+)'", match["names"] or ""))
        indexes = tuple(int(index) for index in (match["indexes"] or "").split(",") if index)
        selectors.append(names or indexes or (EVERY if match["all"] else slice(int(match["start"] or 0), None)))
        position = match.end()
    return selectors


def is_by_name(selector: Selector) -> TypeGuard[tuple[Any, ...]]:
    """Return whether a selector names members of an object."""
    return isinstance(selector, tuple) and isinstance(selector[0], str)


def filtered(value: Any, path: list[Selector]) -> Any:
    """Return what a path selects of a JSON value: of several names an object, of several indexes an array.

    Raises:
        FilterError: the value has no such member.
    """
    if not path:
        return value
    selector, rest = path[0], path[1:]
    if isinstance(selector, tuple):
        if not isinstance(value, dict if is_by_name(selector) else list):
            raise FilterError(f"{LACKING}: {value!r} has no {selector[0]!r}")
        try:
            selected = [filtered(value[key], rest) for key in selector]
        except LookupError as problem:
            raise FilterError(f"{LACKING}: {problem}") from problem
        if len(selector) == 1:
            return selected[0]
        return dict(zip(selector, selected, strict=True)) if is_by_name(selector) else selected
    if selector == EVERY and isinstance(value, dict):
        value = list(value.values())
    if not isinstance(value, list):
        raise FilterError(f"{LACKING}: it is no array but {value!r}")
    if selector.start and selector.start >= len(value):
        raise FilterError(f"{LACKING}: none from index {selector.start} on")
    return [filtered(item, rest) for item in value[selector]]


def media_type(header: Any) -> str:
    """Return a content type without its parameters."""
    return str(header or "").partition(";")[0].strip().lower()


def endpoint_config_problems(arguments: Mapping[str, Any]) -> Iterator[str]:
    """Say why an endpoint configuration could not be served here; a serverless variant is served as any other."""
    variants = arguments.get("ProductionVariants")
    variants = variants if isinstance(variants, list) else []
    if len(variants) > 1:
        yield f"has {len(variants)} ProductionVariants, but an endpoint has one server here; give it one variant."
    if variants and not at(variants[0], "ModelName"):
        yield "has a variant without ModelName; inference components are not served here, so name a model."
    yield from (f"has {name}, but {why}." for name, why in UNSERVED.items() if arguments.get(name))


def transform_problems(arguments: Mapping[str, Any]) -> Iterator[str]:
    """Say why a transform job could not be run here, after the step's name. Expressions are passed over."""
    for path, values in ACCEPTED.items():
        value = at(arguments, path)
        if value is not None and not is_expression(value) and value not in values:
            yield f"has {value!r} as {path}; the local target takes {' and '.join(values)}."
    if at(arguments, "DataCaptureConfig"):
        yield "has a DataCaptureConfig, which transform jobs do not follow here; leave it out."
    megabytes, times = (
        arguments.get("MaxPayloadInMB", DEFAULT_PAYLOAD_MEGABYTES),
        arguments.get("MaxConcurrentTransforms"),
    )
    times = times if isinstance(times, int) else 0
    if isinstance(megabytes, int) and megabytes * max(1, times) > LIMIT_MEGABYTES:
        product = f"{megabytes} times MaxConcurrentTransforms {times}" if times else f"{megabytes}"
        yield f"has MaxPayloadInMB {product}, but SageMaker takes at most {LIMIT_MEGABYTES} MB."
    yield from filter_problems(arguments)


def filter_problems(arguments: Mapping[str, Any]) -> Iterator[str]:
    """Say why DataProcessing could not be followed: by itself, or with the job's input and output."""
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
        if kinds[0] == "text/csv" and (len(selectors) > 1 or any(map(is_by_name, selectors))):
            yield f"has {path!r} as DataProcessing.{name}; of a row of CSV only indexes can be taken, as $[0] or $[1:]."
