"""Search: records by any of their members, in SQL.

Names, statuses, times and parents are in the catalog of the home's state, by index; any other member is read from the
documents. The rules are those of the AWS API reference (Search, SearchExpression, Filter), except that Contains may be
given more than once; NotEquals holds where there is no value.
"""

import json
import re
from typing import Any

from pipeline.definition.schemas import Schema
from pipeline.definition.schemas import operation as operation_schema
from pipeline.local.engine.runner_process import settle_active
from pipeline.local.jobs.runtime import arn
from pipeline.local.sagemaker.created_jobs import settle_all
from pipeline.local.sagemaker.endpoints import describe_endpoint, refresh_pending
from pipeline.local.store.answers import invalid, page_of, seconds
from pipeline.local.store.state import Document, State
from pipeline.suggestion import did_you_mean

Condition = tuple[str, list[Any]]  # SQL and its values

RESOURCES = ("Pipeline", "PipelineExecution", "TrainingJob", "HyperParameterTuningJob", "ModelPackage",
             "ModelPackageGroup", "Model", "Endpoint")  # fmt: skip
NAMED_BY_ARN = ("PipelineExecution", "ModelPackage")  # in the state
OPERATORS = {
    "Equals": "{} = ?", "NotEquals": "{} IS NOT ?", "Exists": "{} IS NOT NULL", "NotExists": "{} IS NULL",
    "GreaterThan": "{} > ?", "GreaterThanOrEqualTo": "{} >= ?", "LessThan": "{} < ?", "LessThanOrEqualTo": "{} <= ?",
    "Contains": "instr({}, ?) > 0", "In": "{} IN (SELECT trim(value) FROM json_each(?))",
}  # fmt: skip
TIMES = {"CreationTime": "c.time", "LastModifiedTime": "c.modified"}
KINDS = {"integer": "number", "number": "number", "boolean": "boolean", "string": "text"}
ORDER, TEXT = ("Greater", "Less"), ("Contains", "In")  # what operators begin with
REFUSED = {"text": ORDER, "boolean": (*ORDER, *TEXT), "number": TEXT, "time": TEXT, "entry": (),
           "structure": (*ORDER, *TEXT, "Equals", "NotEquals")}  # by the kind of a property  # fmt: skip
MOST_CONDITIONS = 50  # of an expression, in which others may lie
TAG = """(SELECT t.value FROM resources AS r, json_each(r.document) AS t
    WHERE r.kind = 'Tags' AND r.name = {} AND t.key = ?)"""
METRIC = """(SELECT json_extract(m.value, '$.Value') FROM json_each(c.facts, '$.FinalMetricDataList') AS m
    WHERE json_extract(m.value, '$.MetricName') = ?)"""
AS_NUMBER = """(SELECT CASE WHEN v GLOB '*[0-9]*' AND v NOT GLOB '*[^0-9.eE+-]*' THEN CAST(v AS {}) END
    FROM (SELECT {} AS v LIMIT 1))"""  # as the service does: whole where the Value is
PARAMETERS = """SELECT json_object('Name', key, 'Value', CASE type WHEN 'true' THEN 'True' WHEN 'false' THEN 'False'
    ELSE CAST(value AS TEXT) END) AS value FROM json_each(d.document, '$.Parameters')"""


def search(state: State, request: Document) -> Document:
    """Search."""
    resource = request["Resource"]
    if resource not in RESOURCES:
        raise invalid(f"Resource {resource} cannot be searched here; these can be: {', '.join(RESOURCES)}.")
    settle_active(state)
    settle_all(state)
    refresh_pending(state)
    query = Query(resource)
    conditions = [query.expression(request["SearchExpression"])] if "SearchExpression" in request else []
    sort = query.sort_key(request.get("SortBy", "LastModifiedTime"))
    page = page_of(state, resource, request, member="Results", conditions=conditions, sort=sort)
    is_whole = not request.get("NextToken") and "NextToken" not in page
    hits = len(page["Results"]) if is_whole else state.count(resource, conditions)
    results = [{resource: query.result(state, document)} for document in page["Results"]]
    return {**page, "Results": results, "TotalHits": {"Value": hits, "Relation": "EqualTo"}}


class Query:
    """The properties of one kind of record, and expressions on them."""

    def __init__(self, resource: str) -> None:
        records = operation_schema("Search", "output")["properties"]["Results"]["items"]["properties"]
        self.resource, self.schema = resource, records[resource]
        if resource == "Model":  # the dashboard's, of which there is the model alone
            self.schema = self.schema["properties"]["Model"]
        self.conditions = 0
        kind = re.sub(r"(?<!^)(?=[A-Z])", "-", resource).lower()
        self.arn = "c.name" if resource in NAMED_BY_ARN else f"'{arn(kind, '')}' || c.name"
        self.columns = {
            f"{resource}Name": "c.title",
            f"{resource}Status": "c.status",
            f"{resource}Arn": self.arn,
            f"{resource}DisplayName": "nullif(c.title, '')",
            "CreationTime": "+c.time",  # found in the order of the other time, by its index
            "LastModifiedTime": "c.modified",
            "TuningJobArn": "c.parent",
        }

    def result(self, state: State, document: Document) -> Document:
        """Return a record with the members that its Describe operation gives, and its tags."""
        if self.resource == "Endpoint":
            document = describe_endpoint(state, document)
        parameters = [{"Name": name, "Value": str(value)} for name, value in document.get("Parameters", {}).items()]
        tags = state.get("Tags", document[f"{self.resource}Arn"]) or {}
        document = {**document, "PipelineParameters": parameters, "Tags": [{"Key": k, "Value": tags[k]} for k in tags]}
        found = {name: document[name] for name in self.schema["properties"] if document.get(name) is not None}
        return {"Model": found} if self.resource == "Model" else found

    def sort_key(self, name: str) -> str:
        """Return SQL of what a SortBy orders by; what has no value comes before all others."""
        if name in TIMES:  # which every kind has in the catalog
            return TIMES[name]
        sql, values, kind = self.located(name)
        if values or kind in ("structure", "list"):
            raise invalid(f"{self.resource} cannot be sorted by {name!r}; name one of its own members.")
        return sql if sql == "c.title" else f"coalesce({sql}, -9e999)"

    def expression(self, expression: Document) -> Condition:
        """A SearchExpression."""
        parts = ("Filters", self.filter), ("NestedFilters", self.nested), ("SubExpressions", self.expression)
        found = []
        for member, condition_of in parts:
            for each in expression.get(member) or []:
                self.conditions += 1
                if self.conditions > MOST_CONDITIONS:
                    raise invalid(f"A SearchExpression can have at most {MOST_CONDITIONS} filters and expressions.")
                found.append(condition_of(each))
        if not found:
            raise invalid("A SearchExpression needs at least one of Filters, NestedFilters and SubExpressions.")
        return joined(found, expression.get("Operator") or "And")

    def filter(self, filter_: Document) -> Condition:
        """A Filter; of a member of a list, one of its objects has to meet it."""
        name = filter_["Name"]
        is_equal = (filter_.get("Operator") or "Equals") == "Equals"
        if self.resource == "PipelineExecution" and name == "PipelineArn" and is_equal:
            return "c.parent = ?", [str(filter_.get("Value")).removeprefix(arn("pipeline", ""))]  # by index
        sql, values, kind = self.located(name)
        if kind == "list":
            return self.nested({"NestedPropertyName": sql, "Filters": [filter_]})
        return compared(filter_, sql, values, kind)

    def nested(self, nested: Document) -> Condition:
        """A NestedFilters: one object of a list meets all of its filters."""
        name, found = nested["NestedPropertyName"], []
        path, schema, rest = self.walk(name, self.schema)
        if "items" not in schema or rest:
            raise invalid(f"{name!r} of {self.resource} is no list; put its filters into Filters.")
        for each in nested["Filters"]:
            if not each["Name"].startswith(f"{name}."):
                raise invalid(f"The filter {each['Name']!r} of NestedPropertyName {name!r} must begin with '{name}.'.")
            found.append(compared(each, *sql_of("e.value", *self.walk(each["Name"][len(name) + 1 :], schema["items"]))))
        where, values = joined(found, "And")
        source = PARAMETERS if path == "PipelineParameters" else f"SELECT value FROM json_each(d.document, '$.{path}')"
        return f"EXISTS (SELECT 1 FROM ({source}) AS e WHERE {where})", values

    def located(self, name: str) -> tuple[str, list[Any], str]:
        """Return SQL of a property with its values, and its kind; RequestError if there is no such property."""
        first, _, rest = name.partition(".")
        if rest and first == "Tags" and first in self.schema["properties"]:
            return TAG.format(self.arn), [rest], "text"
        if rest and first == "Metrics" and self.resource == "TrainingJob":
            return METRIC, [rest], "number"
        document = "c.facts" if first == "HyperParameters" else "d.document"
        sql, values, kind = sql_of(document, *self.walk(name, self.schema))
        return self.columns.get(name, sql), values, kind

    def walk(self, name: str, schema: Schema) -> tuple[str, Schema, str]:
        """Return the path of a property, its schema, and what is left of its name at a list or a map."""
        path: list[str] = []
        tokens = name.split(".")
        while tokens and "properties" in schema:
            if tokens[0] not in schema["properties"]:
                hint = did_you_mean(tokens[0], schema["properties"])
                raise invalid(f"{name!r} is not a property of {self.resource}.{hint}")
            schema = schema["properties"][tokens[0]]
            path.append(tokens.pop(0))
        if tokens and not {"items", "additionalProperties"} & schema.keys():
            raise invalid(f"{name!r} is not a property of {self.resource}: {'.'.join(path)} has no members.")
        return ".".join(path), schema, ".".join(tokens)


def sql_of(document: str, path: str, schema: Schema, rest: str) -> tuple[str, list[Any], str]:
    """Return SQL of a member of a document with its values, and its kind; of members of a list the list's path."""
    if rest and "items" in schema:
        return path, [], "list"
    if rest:  # of a map, as hyperparameters are
        return f"(SELECT value FROM json_each({document}, '$.{path}') WHERE key = ?)", [rest], "entry"
    kind = "time" if isinstance(schema["type"], list) else KINDS.get(schema["type"], "structure")
    return f"json_extract({document}, '$.{path}')", [], kind


def compared(filter_: Document, sql: str, values: list[Any], kind: str) -> Condition:
    """Return the condition of a Filter on a property; RequestError if the operator or the value is not for its kind."""
    name, operator, text = filter_["Name"], filter_.get("Operator") or "Equals", filter_.get("Value")
    if kind not in REFUSED or operator.startswith(REFUSED[kind]):
        raise invalid(f"Operator {operator} is not for {name!r}, which is a {kind}.")
    if operator in ("Exists", "NotExists"):
        return OPERATORS[operator].format(sql), values
    if text is None:
        raise invalid(f"The filter on {name!r} needs a Value for its operator {operator}.")
    number = float(text) if re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,3})?", text) else None
    if number is None and (kind == "number" or (operator.startswith(ORDER) and kind != "time")):
        raise invalid(f"The Value of the filter on {name!r} must be a number, but is {text!r}.")
    value: Any = text
    if kind == "time":
        value = seconds(text, name)
    elif kind == "boolean":
        value = text.lower() == "true"
    elif operator == "In":
        value = json.dumps(text.split(","))
    elif number is not None and operator != "Contains" and kind in ("number", "entry"):
        value = number
        if kind == "entry":
            sql = AS_NUMBER.format("INTEGER" if text.lstrip("+-").isdecimal() else "REAL", sql)
    elif operator in ("Equals", "Contains") and ("d.document" in sql or "e.value" in sql):
        written = f"%{json.dumps(text)[1:-1]}%"  # is found sooner than JSON is read
        return f"d.document LIKE ? AND {OPERATORS[operator].format(sql)}", [written, *values, value]
    return OPERATORS[operator].format(sql), [*values, value]


def joined(conditions: list[Condition], operator: str) -> Condition:
    """Return conditions joined by And or Or."""
    sql = f" {operator.upper()} ".join(f"({condition})" for condition, _ in conditions)
    return sql, [value for _, values in conditions for value in values]
