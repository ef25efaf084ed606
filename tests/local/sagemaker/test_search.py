"""Search, as clients ask it: filters of every kind, pages, and what is refused."""

from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from pipeline.local import session
from pipeline.local.jobs.runtime import arn
from pipeline.local.store.state import State

Json = dict[str, Any]
PIPELINE = arn("pipeline", "p")


@pytest.fixture(scope="module")
def sagemaker(tmp_path_factory) -> Any:
    home: Path = tmp_path_factory.mktemp("home")
    state = State(home)
    for number in range(20):
        name = f"job-{number:02}"
        document = {
            "TrainingJobName": name, "TrainingJobArn": arn("training-job", name),
            "TrainingJobStatus": "Failed" if number % 5 == 0 else "Completed",
            "HyperParameters": {"lr": str(number / 10), "odd key.é": '"text"', "net": f"resnet{number}"},
            "FinalMetricDataList": [{"MetricName": "a:b", "Value": number / 20, "Timestamp": 1.0}],
            "InputDataConfig": [{"ChannelName": channel, "DataSource": {"S3DataSource": {
                "S3DataType": "S3Prefix", "S3Uri": f"s3://b/{channel}/{number}"}}} for channel in ("one", "two")],
            "AlgorithmSpecification": {"TrainingImage": f"image:é{number % 2}", "TrainingInputMode": "File"},
            "EnableNetworkIsolation": number < 3, "TrainingTimeInSeconds": number,
            "CreationTime": 1000.0 + number, "LastModifiedTime": 5000.0 - number,
            **({"FailureReason": "It's 100% \"bad\"_\\"} if number == 5 else {}),
            **({"TuningJobArn": arn("hyper-parameter-tuning-job", "t")} if number < 4 else {}),
        }  # fmt: skip
        state.put("TrainingJob", name, document)
        execution = f"{PIPELINE if number % 2 else arn('pipeline', 'other')}/execution/{number:012}"
        state.add_execution(
            {
                "PipelineArn": execution.partition("/execution")[0], "PipelineName": "p" if number % 2 else "other",
                "PipelineExecutionArn": execution, "CreationTime": 1000.0 + number, "LastModifiedTime": 2000.0,
                "PipelineExecutionStatus": "Succeeded" if number else "Failed", "Definition": {}, "Options": {},
                "Parameters": {"Threshold": 0.5, "Flag": True, "Text": str(number)}, "ParallelismConfiguration": {},
                "PipelineExecutionDisplayName": f"nightly {number}",
            }
        )  # fmt: skip
    client = session(home).client("sagemaker")
    client.add_tags(ResourceArn=arn("training-job", "job-03"), Tags=[{"Key": "team", "Value": "x y"}])
    return client


def found(sagemaker: Any, resource: str, **request: Any) -> list[str]:
    """The last parts of the names that a search finds, sorted."""
    answer = sagemaker.search(Resource=resource, **request)
    member = "PipelineExecutionArn" if resource == "PipelineExecution" else f"{resource}Name"
    assert answer["TotalHits"] == {"Value": len(answer["Results"]), "Relation": "EqualTo"}
    return sorted(each[resource][member][-2:] for each in answer["Results"])


def where(*filter_: str) -> Json:
    return dict(zip(("Name", "Operator", "Value"), filter_, strict=False))


def numbers(*wanted: int) -> list[str]:
    return [f"{number:02}" for number in wanted]


EVERY = range(20)
FILTERS = [
    (("TrainingJobName", "Equals", "job-07"), numbers(7)),
    (("TrainingJobName", "Contains", "b-1"), numbers(*range(10, 20))),
    (("TrainingJobName", "In", "job-01, job-02,job-33"), numbers(1, 2)),
    (("TrainingJobStatus", "NotEquals", "Completed"), numbers(0, 5, 10, 15)),
    (("TrainingJobArn", "Equals", arn("training-job", "job-07")), numbers(7)),
    (("TuningJobArn", "Exists"), numbers(0, 1, 2, 3)),
    (("FailureReason", "NotExists"), numbers(*(n for n in EVERY if n != 5))),
    (("FailureReason", "Contains", '100% "bad"_\\'), numbers(5)),
    (("FailureReason", "NotEquals", "x"), numbers(*EVERY)),
    (("CreationTime", "LessThan", "1970-01-01T00:16:42"), numbers(0, 1)),
    (("LastModifiedTime", "LessThanOrEqualTo", "1970-01-01T01:23:01+00:00"), numbers(19)),
    (("TrainingTimeInSeconds", "GreaterThan", "17.5"), numbers(18, 19)),
    (("TrainingTimeInSeconds", "Equals", "4"), numbers(4)),
    (("EnableNetworkIsolation", "Equals", "True"), numbers(0, 1, 2)),
    (("AlgorithmSpecification.TrainingImage", "Equals", "image:é1"), numbers(*EVERY[1::2])),
    (("HyperParameters.lr", "LessThan", "0.15"), numbers(0, 1)),
    (("HyperParameters.lr", "Equals", "1"), numbers(*range(10, 20))),  # a whole Value compares whole numbers
    (("HyperParameters.odd key.é", "Exists"), numbers(*EVERY)),
    (("HyperParameters.net", "GreaterThan", "1"), []),
    (("HyperParameters.net", "Contains", "net1"), numbers(1, *range(10, 20))),
    (("Metrics.a:b", "GreaterThanOrEqualTo", "0.9"), numbers(18, 19)),
    (("Tags.team", "Equals", "x y"), numbers(3)),
    (("InputDataConfig.DataSource.S3DataSource.S3Uri", "Equals", "s3://b/two/6"), numbers(6)),
]


@pytest.mark.parametrize(("filter_", "expected"), FILTERS, ids=lambda value: " ".join(value[:2]))
def test_a_filter_finds_what_it_says(sagemaker: Any, filter_: tuple[str, ...], expected: list[str]) -> None:
    assert found(sagemaker, "TrainingJob", SearchExpression={"Filters": [where(*filter_)]}) == expected


def test_expressions_are_joined_and_nested(sagemaker: Any) -> None:
    def nested(uri: str) -> Json:
        path = "InputDataConfig"
        filters = [where(f"{path}.ChannelName", "Equals", "one"),
                   where(f"{path}.DataSource.S3DataSource.S3Uri", "Contains", uri)]  # fmt: skip
        return {"NestedFilters": [{"NestedPropertyName": path, "Filters": filters}]}

    assert found(sagemaker, "TrainingJob", SearchExpression=nested("/one/4")) == ["04"]
    assert found(sagemaker, "TrainingJob", SearchExpression=nested("/two/4")) == []  # of another object of the list
    either = {"Operator": "Or", "Filters": [where("TrainingJobName", "Equals", "job-09")],
              "SubExpressions": [nested("/one/4"), nested("/one/5")]}  # fmt: skip
    both = {"Filters": [where("TrainingJobStatus", "Equals", "Completed")], "SubExpressions": [either]}
    assert found(sagemaker, "TrainingJob", SearchExpression=both) == ["04", "09"]


def test_executions_are_found_by_pipeline_status_name_and_parameters(sagemaker: Any) -> None:
    def executions(*filters: Json) -> list[str]:
        return found(sagemaker, "PipelineExecution", SearchExpression={"Filters": list(filters)})

    of_p = where("PipelineArn", "Equals", PIPELINE)
    assert executions(of_p) == numbers(*EVERY[1::2])
    assert executions(where("PipelineExecutionStatus", "Equals", "Failed")) == ["00"]
    assert executions(of_p, where("PipelineExecutionDisplayName", "Contains", "y 1")) == numbers(1, *EVERY[11::2])
    threshold = [where("PipelineParameters.Name", "Equals", "Text"), where("PipelineParameters.Value", "Equals", "7")]
    nested = {"NestedFilters": [{"NestedPropertyName": "PipelineParameters", "Filters": threshold}]}
    assert found(sagemaker, "PipelineExecution", SearchExpression=nested) == ["07"]
    (result,) = sagemaker.search(Resource="PipelineExecution", SearchExpression=nested)["Results"]
    values = {each["Name"]: each["Value"] for each in result["PipelineExecution"]["PipelineParameters"]}
    assert values == {"Threshold": "0.5", "Flag": "True", "Text": "7"}


@pytest.mark.parametrize("sort_by", ["TrainingJobName", "CreationTime", "FailureReason", "TrainingTimeInSeconds", None])
@pytest.mark.parametrize("order", ["Ascending", "Descending"])
def test_pages_hold_everything_once_and_the_count_of_all(sagemaker: Any, sort_by: str | None, order: str) -> None:
    request = {"Resource": "TrainingJob", "SortOrder": order, **({"SortBy": sort_by} if sort_by else {})}
    pages = list(sagemaker.get_paginator("search").paginate(**request, PaginationConfig={"PageSize": 7}))
    names = [each["TrainingJob"]["TrainingJobName"] for page in pages for each in page["Results"]]
    assert [page["TotalHits"]["Value"] for page in pages] == [20, 20, 20]
    assert sorted(names) == [f"job-{number:02}" for number in EVERY]
    is_rising = (order == "Ascending") != (sort_by is None)  # by the time of the last change, which falls
    if sort_by != "FailureReason":
        assert names == sorted(names, reverse=not is_rising)


REFUSED = [
    ({"Filters": [where("Nope", "Equals", "1")]}, "'Nope' is not a property of TrainingJob"),
    ({"Filters": [where("TrainingJobNam", "Equals", "1")]}, "TrainingJobName"),
    ({"Filters": [where("AlgorithmSpecification.X", "Equals", "1")]}, "is not a property"),
    ({"Filters": [where("TrainingJobName.x", "Equals", "1")]}, "TrainingJobName has no members"),
    ({"Filters": [where("TrainingJobName", "LessThan", "1")]}, "Operator LessThan is not for 'TrainingJobName'"),
    ({"Filters": [where("CreationTime", "Contains", "1")]}, "Operator Contains is not for 'CreationTime'"),
    ({"Filters": [where("InputDataConfig", "Equals", "1")]}, "Operator Equals is not for 'InputDataConfig'"),
    ({"Filters": [where("TrainingTimeInSeconds", "Equals", "x")]}, "must be a number, but is 'x'"),
    ({"Filters": [where("CreationTime", "Equals", "yesterday")]}, "must be a time"),
    ({"Filters": [where("TrainingJobName", "Equals")]}, "needs a Value"),
    ({"Filters": [where("TrainingJobName", "Near", "x")]}, "Operator must be one of|value at"),
    ({}, "at least one of Filters"),
    ({"NestedFilters": [{"NestedPropertyName": "HyperParameters", "Filters": [where("x.y")]}]}, "no list"),
    ({"NestedFilters": [{"NestedPropertyName": "InputDataConfig", "Filters": [where("x.y")]}]}, "must begin with"),
    ({"SubExpressions": [{"Filters": [where("TrainingJobName", "Exists")] * 18}] * 3}, "at most 50"),
]


@pytest.mark.parametrize(("expression", "said"), REFUSED, ids=lambda value: value if isinstance(value, str) else "")
def test_what_cannot_be_searched_for_is_refused_in_a_sentence(sagemaker: Any, expression: Json, said: str) -> None:
    with pytest.raises(ClientError, match=said):
        sagemaker.search(Resource="TrainingJob", SearchExpression=expression)


def test_what_cannot_be_sorted_or_is_no_kind_is_refused(sagemaker: Any) -> None:
    for name in ("InputDataConfig", "InputDataConfig.ChannelName"):
        with pytest.raises(ClientError, match="cannot be sorted by"):
            sagemaker.search(Resource="TrainingJob", SortBy=name)
    with pytest.raises(ClientError, match="Image cannot be searched here"):
        sagemaker.search(Resource="Image")
