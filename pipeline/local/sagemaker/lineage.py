"""Lineage, computed from the records of jobs, model packages and endpoints when it is asked for; none of it is stored.

Entities, names and associations are those that SageMaker makes by itself (guide, "Amazon SageMaker ML Lineage
Tracking"): data set -> job -> model -> model package -> deployment -> endpoint. The ARN of an artifact holds its URI.
"""

import json
from collections.abc import Iterator
from functools import partial
from itertools import chain
from typing import Any, NamedTuple

from pipeline.local.jobs.runtime import arn
from pipeline.local.store.answers import RequestError, invalid, paged, seconds
from pipeline.local.store.state import Document, State

JOBS = {f"-aws-{kind.lower()}-job": f"{kind}Job" for kind in ("Training", "Processing", "Transform")}  # by suffix
ENDPOINT, PACKAGE, GROUP = "-aws-endpoint", "-aws-model-package", "-aws-model-group"  # what other names end with
COMPONENT = "experiment-trial-component"
PLACES = {"TrialComponent": COMPONENT, "Artifact": "artifact", "Action": "action", "Context": "context"}
READ = ("InputDataConfig", "ProcessingInputs", "TransformInput", "AlgorithmSpecification", "AppSpecification")
WRITTEN = ("ModelArtifacts", "ProcessingOutputConfig", "TransformOutput")
NAMING = ("Image", "TrainingImage", "ImageUri", "ModelPackageName")  # members that name what is no S3 URI
MOST_RECORDS = 1000  # that name one artifact, and entities of a query
USUAL_DEPTH = 10  # of a query


class Entity(NamedTuple):
    """A trial component, an artifact, an action or a context."""

    arn: str
    type: str
    source: str  # its URI, or the ARN of what it stands for
    time: float

    def described(self) -> Document:
        """Return the members that Describe and List operations answer."""
        word, name = lineage_type(self.arn), place_of(self.arn)[1]
        source = {"SourceUri": self.source, "SourceArn": self.source, "SourceType": self.type}
        named = {f"{word}Name": name} if word != "Artifact" else {}
        times = {"CreationTime": self.time, "LastModifiedTime": self.time}
        known = {f"{word}Arn": self.arn, f"{word}Type": self.type, "Source": source, f"{word}Source": source}
        return {**known, **named, **times}


Edge = tuple[Entity, str, Entity]


def place_of(some_arn: str) -> tuple[str, str]:
    """Return what kind of thing an ARN names, and its name or URI."""
    kind, _, name = some_arn.removeprefix(arn("", "").rstrip("/")).partition("/")
    return kind, name


def lineage_type(entity_arn: str) -> str:
    """Return Artifact and the like."""
    return next(word for word, place in PLACES.items() if place == place_of(entity_arn)[0])


def artifact(uri: str, time: float) -> Entity:
    """Return what lies at a URI, or a model package by its ARN."""
    is_model = uri.startswith("arn:") or uri.endswith("model.tar.gz")
    return Entity(arn("artifact", uri), "Model" if is_model else "DataSet" if "://" in uri else "Image", uri, time)


def edges(state: State, kind: str, document: Document) -> Iterator[Edge]:
    """Yield the associations that a record makes."""
    time, own = float(document["CreationTime"]), document[f"{kind}Arn"]
    models, read = [document.get("ModelName", "")], [document.get(member) for member in READ]
    if kind == "Endpoint":
        name = f"{document['EndpointName']}{ENDPOINT}"
        made = Entity(arn("action", name), "ModelDeployment", own, time)
        yield made, "AssociatedWith", Entity(arn("context", name), "Endpoint", own, time)
        config = state.get("EndpointConfig", document["EndpointConfigName"]) or {}
        models = [variant["ModelName"] for variant in config.get("ProductionVariants", [])]
    elif kind == "ModelPackage":
        made, group = artifact(own, time), document["ModelPackageGroupName"]
        read = [document.get("InferenceSpecification")]
        approval = f"{group}-{document['ModelPackageVersion']}-{document['ModelApprovalStatus']}{PACKAGE}"
        yield Entity(arn("action", approval), "Approval", own, time), "ContributedTo", made
        group_arn = arn("model-package-group", group.lower())
        yield made, "AssociatedWith", Entity(arn("context", f"{group}{GROUP}"), "ModelGroup", group_arn, time)
    else:
        suffix = next(suffix for suffix, job in JOBS.items() if job == kind)
        made = Entity(arn(COMPONENT, document[f"{kind}Name"] + suffix), f"SageMaker{kind}", own, time)
        for uri in uris([document.get(member) for member in WRITTEN]):
            yield made, "Produced", artifact(uri, time)
    served = [state.get("Model", name) for name in models]
    for uri in dict.fromkeys(uris([*read, *served])):
        yield artifact(uri, time), "ContributedTo", made


def uris(value: Any, member: str = "") -> list[str]:
    """Return S3 URIs, images and model packages within a part of a record, in their order; a tag may name one, too."""
    if not isinstance(value, str | dict | list):
        return []
    if isinstance(value, str):
        return [value] if value.startswith(("s3://", arn("model-package", ""))) or member in NAMING else []
    parts = list(value.items()) if isinstance(value, dict) else [("", each) for each in value]
    return [uri for name, part in parts for uri in uris(part, name)]


def near(state: State, entity_arn: str) -> list[Edge]:
    """Return the associations of an entity; none if there is no such entity."""
    place, name = place_of(entity_arn)
    records: list[tuple[str, Document | None]] = []
    if place == COMPONENT:
        records = [(kind, state.get(kind, name.removesuffix(end))) for end, kind in JOBS.items() if name.endswith(end)]
    elif place == "artifact":
        written = json.dumps(name)[1:-1]
        for kind in (*JOBS.values(), "ModelPackage"):
            records += [(kind, each) for each in named_in(state, kind, "d.document LIKE ?", f"%{written}%")]
        records += [("Endpoint", document) for document in state.all("Endpoint")]
    elif name.endswith(ENDPOINT):
        records = [("Endpoint", state.get("Endpoint", name.removesuffix(ENDPOINT)))]
    else:
        group = name.removesuffix(GROUP) if name.endswith(GROUP) else name.removesuffix(PACKAGE).rsplit("-", 2)[0]
        records = [("ModelPackage", each) for each in named_in(state, "ModelPackage", "c.parent = ?", group.lower())]
    made = chain.from_iterable(edges(state, kind, document) for kind, document in records if document)
    return [edge for edge in made if entity_arn in (edge[0].arn, edge[2].arn)]


def named_in(state: State, kind: str, condition: str, value: str) -> list[Document]:
    """Return the newest records of a kind that meet a condition."""
    found = state.page(kind, [(condition, [value])], sort="c.time", is_descending=True, after=None, limit=MOST_RECORDS)
    return [document for _, document in found]


def described(word: str, state: State, request: Document) -> Document:
    """DescribeArtifact and its like, by ARN or name."""
    named = request.get(f"{word}Arn") or request[f"{word}Name"]
    entity_arn = named if named.startswith("arn:") else arn(PLACES[word], named)
    for source, _, destination in near(state, entity_arn):
        return (source if source.arn == entity_arn else destination).described()
    raise RequestError("ResourceNotFound", f"There is no lineage entity {entity_arn!r}.")


def listed(word: str, state: State, request: Document) -> Document:
    """ListArtifacts and its like; artifacts and trial components by their source, which has to be given here."""
    source, type_ = request.get("SourceUri", request.get("SourceArn")), request.get(f"{word}Type")
    if word in ("Action", "Context"):
        kinds = ("Endpoint", "ModelPackage")
        made = [edge for kind in kinds for document in state.all(kind) for edge in edges(state, kind, document)]
    elif source:
        kind, name = place_of(source)
        made = near(state, arn("artifact", source) if word == "Artifact" else arn(COMPONENT, f"{name}-aws-{kind}"))
    else:
        raise invalid(f"List{word}s needs the {'SourceUri' if word == 'Artifact' else 'SourceArn'} of what it lists.")
    known = {each.arn: each for edge in made for each in (edge[0], edge[2]) if lineage_type(each.arn) == word}
    found = [each for each in known.values() if source in (None, each.source) and type_ in (None, each.type)]
    found.sort(key=lambda each: each.time, reverse=request.get("SortOrder", "Descending") == "Descending")
    return paged(f"{word}Summaries", [each.described() for each in found if is_wanted(each, request)], request)


def list_associations(state: State, request: Document) -> Document:
    """ListAssociations of one entity."""
    start = request.get("SourceArn") or request.get("DestinationArn")
    if not start:
        raise invalid("ListAssociations needs SourceArn or DestinationArn here.")
    summaries = []
    for source, kind, destination in near(state, start):
        summary: Document = {"AssociationType": kind, "CreationTime": destination.time}
        is_wanted = request.get("AssociationType", kind) == kind
        for word, each in (("Source", source), ("Destination", destination)):
            summary |= {f"{word}Arn": each.arn, f"{word}Type": each.type}
            is_wanted &= request.get(f"{word}Arn", each.arn) == each.arn
            is_wanted &= request.get(f"{word}Type", each.type) in (each.type, lineage_type(each.arn))
        summaries += [summary] if is_wanted else []
    return paged("AssociationSummaries", summaries, request)


def query_lineage(state: State, request: Document) -> Document:
    """QueryLineage from an entity on, breadth first; here entities have no properties."""
    direction, filters = request.get("Direction", "Both"), request.get("Filters", {})
    level: list[str] = request.get("StartArns", [])
    known: dict[str, Entity] = {}
    associations: dict[Edge, None] = {}
    for _ in range(request.get("MaxDepth", USUAL_DEPTH) if len(level) else 0):
        reached: dict[str, Entity] = {}
        for start in level:
            for source, kind, destination in near(state, start):
                other, way = (destination, "Descendants") if source.arn == start else (source, "Ascendants")
                if direction in ("Both", way):
                    associations[source, kind, destination] = None
                    reached[other.arn] = other
        level = [each for each in reached if each not in known and each not in request["StartArns"]]
        known |= {each: reached[each] for each in level}
        if len(known) > MOST_RECORDS:
            break
    wanted = [each for each in known.values() if is_wanted(each, filters)]
    vertices = [{"Arn": each.arn, "Type": each.type, "LineageType": lineage_type(each.arn)} for each in wanted]
    ends = ({"SourceArn": source.arn, "DestinationArn": destination.arn, "AssociationType": kind}
            for source, kind, destination in associations)  # fmt: skip
    return {**paged("Vertices", vertices, request), "Edges": list(ends) if request.get("IncludeEdges") else []}


def is_wanted(entity: Entity, filters: Document) -> bool:
    """Return whether an entity is of the types and times of a filter."""
    after = (seconds(filters.get(f"{word}After", 0.0), word) for word in ("Created", "Modified"))
    before = (seconds(filters.get(f"{word}Before", "inf"), word) for word in ("Created", "Modified"))
    is_of_type = entity.type in (filters.get("Types") or [entity.type])
    is_of_kind = lineage_type(entity.arn) in (filters.get("LineageTypes") or PLACES)
    return is_of_type and is_of_kind and max(after) <= entity.time <= min(before)


describe_artifact, describe_action, describe_context, describe_trial_component = (
    partial(described, word) for word in ("Artifact", "Action", "Context", "TrialComponent")
)
list_artifacts, list_actions, list_contexts, list_trial_components = (
    partial(listed, word) for word in ("Artifact", "Action", "Context", "TrialComponent")
)
