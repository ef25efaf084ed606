"""Pipelines and their versions: each other definition makes one, numbered from 1, which aliases may name.

The document of a pipeline has the definition of the newest version, and its aliases by their names.
"""

from pipeline.definition.steps import load_definition
from pipeline.errors import DefinitionError
from pipeline.local.checks.definition import refusals
from pipeline.local.jobs.runtime import arn, now
from pipeline.local.store.answers import RequestError, chosen, found, invalid, listing
from pipeline.local.store.state import Document, State
from pipeline.local.store.storage import Storage, StorageError

SUMMARY = ("PipelineArn", "PipelineName", "PipelineDisplayName", "PipelineDescription", "RoleArn", "CreationTime",
           "LastModifiedTime", "LastExecutionTime")  # fmt: skip
VERSION = ("PipelineArn", "PipelineVersionId", "PipelineVersionDisplayName", "PipelineVersionDescription")
MOST_ALIASES = 10  # of a version


def create_pipeline(state: State, request: Document) -> Document:
    """CreatePipeline."""
    name = request["PipelineName"]
    request = with_definition(state, request)
    if "PipelineDefinition" not in request:
        raise invalid("CreatePipeline needs PipelineDefinition or PipelineDefinitionS3Location.")
    with state.transaction():
        if state.get("Pipeline", name):
            raise invalid(f"Pipeline names must be unique; {name!r} exists.")
        pipeline = {"CreationTime": now(), "PipelineStatus": "Active", "PipelineVersionId": 0, **request}
        return chosen(put_pipeline(state, pipeline, {}), "PipelineArn")


def update_pipeline(state: State, request: Document) -> Document:
    """UpdatePipeline; what the request leaves out is kept."""
    request = with_definition(state, request)
    with state.transaction():
        known = pipeline_named(state, request["PipelineName"])
        return put_pipeline(state, {**known, **request, "PipelineName": known["PipelineName"]}, known)


def put_pipeline(state: State, pipeline: Document, known: Document) -> Document:
    """Store a pipeline, and its definition as a version if that is another; the answer to both requests."""
    name, is_new = pipeline["PipelineName"], pipeline["PipelineDefinition"] != known.get("PipelineDefinition")
    aliases = pipeline.pop("PipelineVersionAliases", [])
    if aliases and not is_new:
        raise invalid("PipelineVersionAliases are of a new version, but the definition has not changed; "
                      "UpdatePipelineVersion changes those of a version.")  # fmt: skip
    answer = {"PipelineArn": arn("pipeline", name), "PipelineVersionId": pipeline["PipelineVersionId"] + is_new}
    document = {**pipeline, **answer, "LastModifiedTime": now()}
    add_aliases(document, aliases, answer["PipelineVersionId"])
    if is_new:
        times = dict.fromkeys(("CreationTime", "LastModifiedTime"), now())
        version = {**answer, **times, **chosen(pipeline, "PipelineName", "PipelineDefinition")}
        state.put("PipelineVersion", f"{name}/{answer['PipelineVersionId']}", version)
    state.put("Pipeline", name, document)
    return answer


def add_aliases(pipeline: Document, names: list[str], version: int) -> None:
    """Give aliases to a version; RequestError if another has one of them, or there are too many."""
    known: dict[str, int] = pipeline.setdefault("Aliases", {})
    for name in names:
        if name.isdecimal():
            raise invalid(f"The alias {name!r} must not consist of digits alone; those are versions.")
        if known.setdefault(name, version) != version:
            sentence = f"The alias {name!r} is of version {known[name]}; remove it there first."
            raise RequestError("ConflictException", sentence)
    if list(known.values()).count(version) > MOST_ALIASES:
        raise invalid(f"A version can have at most {MOST_ALIASES} aliases.")


def with_definition(state: State, request: Document) -> Document:
    """Return the request with its definition, checked, as text; one of more than 100 KB is given by its place in S3."""
    try:
        if location := request.get("PipelineDefinitionS3Location"):
            text = Storage(state).read(f"s3://{location['Bucket']}/{location['ObjectKey']}").decode()
            request = {**request, "PipelineDefinition": text}
        definition = load_definition(request["PipelineDefinition"]) if "PipelineDefinition" in request else None
    except DefinitionError as problem:
        raise invalid(f"The definition {problem}") from problem
    except (ValueError, StorageError) as problem:
        raise invalid(str(problem)) from problem
    if definition is not None and (problems := refusals(definition)):
        raise invalid("\n".join(problems))
    return request


def pipeline_named(state: State, name_or_arn: str) -> Document:
    """Return the document of a pipeline; RequestError if there is none."""
    is_arn = name_or_arn.startswith("arn:")
    return found(state, "Pipeline", name_or_arn.rpartition("/")[2] if is_arn else name_or_arn, "pipeline")


def describe_pipeline(state: State, request: Document) -> Document:
    """DescribePipeline, by name or ARN: the version that is asked for, or the newest."""
    pipeline = pipeline_named(state, request["PipelineName"])
    version = version_of(state, pipeline, request)
    return {**pipeline, **chosen(version, *VERSION, "PipelineDefinition"), **aliases_of(pipeline, version)}


def version_of(state: State, pipeline: Document, request: Document) -> Document:
    """Return the version of a request's number or alias, or the newest; RequestError if there is none."""
    number, alias = request.get("PipelineVersionId"), request.get("PipelineVersionAlias")
    if number is not None and alias is not None:
        raise invalid("Give either PipelineVersionId or PipelineVersionAlias, not both.")
    newest = pipeline["PipelineVersionId"] if number is None else number
    wanted = newest if alias is None else pipeline.get("Aliases", {}).get(alias)
    version = state.get("PipelineVersion", f"{pipeline['PipelineName']}/{wanted}")
    if version is None:
        which = f"version {number}" if alias is None else f"version with the alias {alias!r}"
        raise RequestError("ResourceNotFound", f"Pipeline {pipeline['PipelineName']!r} has no {which}.")
    return version


def aliases_of(pipeline: Document, version: Document) -> Document:
    """Return the aliases of a version as a member."""
    known = pipeline.get("Aliases", {}).items()
    return {"PipelineVersionAliases": [name for name, number in known if number == version["PipelineVersionId"]]}


def list_pipelines(state: State, request: Document) -> Document:
    """ListPipelines."""
    page = listing(state, "Pipeline", request, "PipelineSummaries")
    known = [{**each, "LastExecutionTime": each.get("LastRunTime")} for each in page["PipelineSummaries"]]
    return {**page, "PipelineSummaries": [chosen(each, *SUMMARY) for each in known]}


def list_pipeline_versions(state: State, request: Document) -> Document:
    """ListPipelineVersions."""
    pipeline, member = pipeline_named(state, request["PipelineName"]), "PipelineVersionSummaries"
    page = listing(state, "PipelineVersion", request, member, [("c.parent = ?", [pipeline["PipelineName"]])])
    names = (*VERSION, "CreationTime", "LastExecutionPipelineExecutionArn")
    return {**page, member: [chosen(each, *names) | aliases_of(pipeline, each) for each in page[member]]}


def update_pipeline_version(state: State, request: Document) -> Document:
    """UpdatePipelineVersion: its words, and its aliases, of which those to be removed are first."""
    operations = request.get("PipelineVersionAliasOperations", {})
    with state.transaction():
        pipeline = pipeline_named(state, request["PipelineArn"])
        version = version_of(state, pipeline, request)
        for name in operations.get("Remove", []):
            if pipeline.get("Aliases", {}).get(name) != version["PipelineVersionId"]:
                raise invalid(f"Version {version['PipelineVersionId']} has no alias {name!r}.")
            del pipeline["Aliases"][name]
        add_aliases(pipeline, operations.get("Add", []), version["PipelineVersionId"])
        state.put("Pipeline", pipeline["PipelineName"], pipeline)
        changed = {**version, **chosen(request, *VERSION), "LastModifiedTime": now()}
        state.put("PipelineVersion", f"{pipeline['PipelineName']}/{version['PipelineVersionId']}", changed)
    return chosen(version, "PipelineArn", "PipelineVersionId")


def delete_pipeline(state: State, request: Document) -> Document:
    """DeletePipeline, with its versions; its executions stay readable."""
    with state.transaction():
        document = pipeline_named(state, request["PipelineName"])
        for number in range(1, document["PipelineVersionId"] + 1):
            state.delete("PipelineVersion", f"{document['PipelineName']}/{number}")
        state.delete("Pipeline", document["PipelineName"])
    return chosen(document, "PipelineArn")
