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
PLACES = {"TrialComponent": COMPONENT, "Artifact": "artifact", "Action": "action", "Context": "context"}  # in ARNs
LINEAGE_TYPES = {place: word for word, place in PLACES.items()}
READ = ("InputDataConfig", "ProcessingInputs", "TransformInput", "AlgorithmSpecification", "AppSpecification")
WRITTEN = ("ModelArtifacts", "ProcessingOutputConfig", "TransformOutput")
NAMING = ("Image", "TrainingImage", "ImageUri", "ModelPackageName")  # members that name what is no S3 URI
MOST_RECORDS = 1000  # that name one artifact


class Entity(NamedTuple):
    """A trial component, an artifact, an action or a context; it stands for its source, a URI or an ARN."""

    place: str
    name: str
    type: str
    source: str
    time: float

    @property
    def arn(self) -> str:
        return arn(self.place, self.name)

    def described(self) -> Document:
        """Return the members that Describe and List operations answer."""
        word = LINEAGE_TYPES[self.place]
        source = {"SourceUri": self.source, "SourceArn": self.source, "SourceType": self.type}
        known = {f"{word}Arn": self.arn, f"{word}Type": self.type, "Source": source, f"{word}Source": source}
        named = {} if word == "Artifact" else {f"{word}Name": self.name}
        return {**known, **named, "CreationTime": self.time, "LastModifiedTime": self.time}


Edge = tuple[Entity, str, Entity]


def artifact(uri: str, time: float) -> Entity:
    """Return what lies at a URI, or a model package by its ARN."""
    is_model = uri.startswith("arn:") or uri.endswith("model.tar.gz")
    return Entity("artifact", uri, "Model" if is_model else "DataSet" if "://" in uri else "Image", uri, time)


def edges(state: State, kind: str, document: Document) -> Iterator[Edge]:
    """Yield the associations that a record makes."""
    time, own = float(document["CreationTime"]), document[f"{kind}Arn"]
    models, read = [document.get("ModelName", "")], [document.get(member) for member in READ]
    if kind == "Endpoint":
        name = f"{document['EndpointName']}{ENDPOINT}"
        made = Entity("action", name, "ModelDeployment", own, time)
        yield made, "AssociatedWith", Entity("context", name, "Endpoint", own, time)
        config = state.get("EndpointConfig", document["EndpointConfigName"]) or {}
        models = [variant["ModelName"] for variant in config.get("ProductionVariants", [])]
    elif kind == "ModelPackage":
        made, group = artifact(own, time), document["ModelPackageGroupName"]
        read = [document.get("InferenceSpecification")]
        approval = f"{group}-{document['ModelPackageVersion']}-{document['ModelApprovalStatus']}{PACKAGE}"
        yield Entity("action", approval, "Approval", own, time), "ContributedTo", made
        group_arn = arn("model-package-group", group.lower())
        yield made, "AssociatedWith", Entity("context", f"{group}{GROUP}", "ModelGroup", group_arn, time)
    else:
        suffix = next(suffix for suffix, job in JOBS.items() if job == kind)
        made = Entity(COMPONENT, document[f"{kind}Name"] + suffix, f"SageMaker{kind}", own, time)
        for uri in uris([document.get(member) for member in WRITTEN]):
            yield made, "Produced", artifact(uri, time)
    served = [state.get("Model", name) for name in models]
    for uri in dict.fromkeys(uris([*read, *served])):
        yield artifact(uri, time), "ContributedTo", made


def uris(value: Any, member: str = "") -> list[str]:
    """Return S3 URIs, images and model packages within a part of a record, in their order; a tag may name one, too."""
    if isinstance(value, str):
        return [value] if value.startswith(("s3://", arn("model-package", ""))) or member in NAMING else []
    if not isinstance(value, dict | list):
        return []
    parts = value.items() if isinstance(value, dict) else [("", each) for each in value]
    return [uri for name, part in parts for uri in uris(part, name)]


def near(state: State, entity_arn: str) -> list[Edge]:
    """Return the associations of an entity; none if there is no such entity."""
    place, _, name = entity_arn.split(":", 5)[5].partition("/")
    return [edge for edge in around(state, place, name) if entity_arn in (edge[0].arn, edge[2].arn)]


def around(state: State, place: str, name: str) -> Iterator[Edge]:
    """Return the associations of the records that may name an entity."""
    records: list[tuple[str, Document | None]] = []
    if place == COMPONENT:
        records = [(kind, state.get(kind, name.removesuffix(end))) for end, kind in JOBS.items() if name.endswith(end)]
    elif place == "artifact":
        written = f"%{json.dumps(name)[1:-1]}%"
        for kind in (*JOBS.values(), "ModelPackage"):
            records += [(kind, each) for each in named_in(state, kind, "d.document LIKE ?", written)]
        records += [("Endpoint", document) for document in state.all("Endpoint")]
    elif name.endswith(ENDPOINT):
        records = [("Endpoint", state.get("Endpoint", name.removesuffix(ENDPOINT)))]
    else:
        group = name.removesuffix(GROUP) if name.endswith(GROUP) else name.removesuffix(PACKAGE).rsplit("-", 2)[0]
        records = [("ModelPackage", each) for each in named_in(state, "ModelPackage", "c.parent = ?", group.lower())]
    return chain.from_iterable(edges(state, kind, document) for kind, document in records if document)


def named_in(state: State, kind: str, condition: str, value: str) -> list[Document]:
    """Return the newest records of a kind that meet a condition."""
    return [document for _, document in state.page(kind, [(condition, [value])], limit=MOST_RECORDS)]


def described(word: str, state: State, request: Document) -> Document:
    """DescribeArtifact and its like, by ARN or name."""
    named = request.get(f"{word}Arn") or request[f"{word}Name"]
    entity_arn = named if named.startswith("arn:") else arn(PLACES[word], named)
    for source, _, destination in near(state, entity_arn):
        return (source if source.arn == entity_arn else destination).described()
    raise RequestError("ResourceNotFound", f"There is no lineage entity {entity_arn!r}.")


def listed(word: str, state: State, request: Document) -> Document:
    """ListArtifacts, ListContexts and ListTrialComponents: here of the source that has to be given."""
    source = request.get("SourceUri") or request.get("SourceArn")
    if not source:
        raise invalid(f"List{word}s needs the {'SourceArn' if word == 'TrialComponent' else 'SourceUri'} here.")
    kind, _, name = source.rpartition(":")[2].partition("/")
    named = source if word == "Artifact" else f"{name}-aws-{kind.replace('package-group', 'group')}"
    ends = [end for edge in around(state, PLACES[word], named) for end in (edge[0], edge[2])]
    known = {end.arn: end for end in ends if end.place == PLACES[word] and end.source == source}
    after = seconds(request.get("CreatedAfter", 0), "CreatedAfter")
    before = seconds(request.get("CreatedBefore", "inf"), "CreatedBefore")
    wanted = [end for end in known.values() if request.get(f"{word}Type", end.type) == end.type]
    return paged(f"{word}Summaries", [end.described() for end in wanted if after <= end.time <= before], request)


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
            is_wanted &= request.get(f"{word}Type", each.type) in (each.type, LINEAGE_TYPES[each.place])
        summaries += [summary] if is_wanted else []
    return paged("AssociationSummaries", summaries, request)


describe_artifact, describe_action, describe_context, describe_trial_component = (
    partial(described, word) for word in ("Artifact", "Action", "Context", "TrialComponent")
)
list_artifacts, list_contexts, list_trial_components = (
    partial(listed, word) for word in ("Artifact", "Context", "TrialComponent")
)
