"""Model, Transform, EndpointConfig and Endpoint steps of a pipeline, by the command line."""

import pytest

from tests.local.lab import IMAGE, ROLE, Lab, get, parameter
from tests.local.serving.serving_home import Home, make_home
from tests.local.serving.test_transform_jobs import TEN_TIMES


@pytest.fixture
def lab(tmp_path):
    for _ in make_home(tmp_path):
        yield Lab(tmp_path)


def model_step(lab, name="Model", script=TEN_TIMES):
    uri = lab.archive(f"s3://bucket/{name}/model.tar.gz", {"code/inference.py": script})
    container = {"Image": IMAGE, "ModelDataUrl": uri, "Environment": {}}
    return {"Name": name, "Type": "Model", "Arguments": {"PrimaryContainer": container, "ExecutionRoleArn": ROLE}}


def config_step(name="Config", model="Model", config="c", **members):
    variant = {"VariantName": "V", "ModelName": get(f"Steps.{model}.ModelName"), "InitialVariantWeight": 1}
    serverless = {"ServerlessConfig": {"MemorySizeInMB": 1024, "MaxConcurrency": 1}}
    arguments = {"EndpointConfigName": config, "ProductionVariants": [{**variant, **serverless}], **members}
    return {"Name": name, "Type": "EndpointConfig", "Arguments": arguments}


def endpoint_step(name="Endpoint", config="Config"):
    arguments = {"EndpointName": "ep", "EndpointConfigName": get(f"Steps.{config}.EndpointConfigName")}
    return {"Name": name, "Type": "Endpoint", "Arguments": arguments}


def transform_step(lab, *, model="Model", output="s3://bucket/out", **members):
    source = {"DataSource": {"S3DataSource": {"S3DataType": "S3Prefix", "S3Uri": "s3://bucket/in"}}}
    kinds = {"ContentType": "text/csv", "SplitType": "Line"}
    arguments = {
        "ModelName": get(f"Steps.{model}.ModelName"),
        "TransformInput": {**source, **kinds},
        "TransformOutput": {"S3OutputPath": output, "Accept": "text/csv", "AssembleWith": "Line"},
        "TransformResources": {"InstanceType": "ml.m5.large", "InstanceCount": 1},
        **members,
    }
    return {"Name": "Transform", "Type": "Transform", "Arguments": arguments}


def test_a_step_transforms_with_the_filter_of_a_parameter(lab):
    lab.put("s3://bucket/in/a.csv", "id,1\nid,2\n")
    processing = {"InputFilter": get("Parameters.Filter"), "JoinSource": "Input"}
    step = transform_step(lab, DataProcessing=processing)
    filters = [parameter("Filter", "String", "$[1:]")]
    report = lab.run(model_step(lab), step, parameters=filters)
    assert report.code == 0, report.stdout + report.stderr
    assert lab.get("s3://bucket/out/a.csv.out") == "id,1,10.0\nid,2,20.0\n"
    report = lab.run(model_step(lab), step, parameters=filters, options=["--param", "Filter=$..x"])
    assert report.code == 1
    assert "DataProcessing.InputFilter that cannot be used: '$..x'" in report.statuses["Transform"]


def test_an_endpoint_is_created_and_then_updated_and_waited_for(lab):
    report = lab.run(model_step(lab), config_step(), endpoint_step())
    assert report.code == 0, report.stdout + report.stderr
    assert report.properties("Endpoint")["EndpointStatus"] == "InService"
    home = Home(lab.home)
    assert home.answer("4", ContentType="text/csv", Accept="text/csv")["Body"] == b"40.0"
    twenty = model_step(lab, script=TEN_TIMES.replace("10", "20"))
    report = lab.run(twenty, config_step(config="d"), endpoint_step())
    assert report.code == 0, report.stdout + report.stderr
    assert report.properties("Endpoint")["EndpointConfigName"] == "d"
    assert home.answer("4", ContentType="text/csv", Accept="text/csv")["Body"] == b"80.0"
    broken = model_step(lab, script="def model_fn(d): raise OSError('no weights')")
    report = lab.run(broken, config_step(config="e"), endpoint_step())
    assert (report.code, "OSError: no weights" in report.statuses["Endpoint"]) == (1, True)
    assert home.answer("4", ContentType="text/csv", Accept="text/csv")["Body"] == b"80.0"
    report = lab.run(model_step(lab), config_step())
    assert report.statuses["Config"] == "ClientError: Cannot create already existing endpoint configuration 'c'."


def test_what_is_not_followed_is_refused_before_anything_runs(lab):
    steps = [
        transform_step(lab, BatchStrategy="SingleRecord", DataProcessing={"OutputFilter": "$.a"}),
        config_step(AsyncInferenceConfig={"OutputConfig": {}}),
        endpoint_step(),
    ]
    builtin = model_step(lab, "Builtin")
    image = "683313688378.dkr.ecr.us-east-1.amazonaws.com/sagemaker-xgboost:1.7-1"
    builtin["Arguments"]["PrimaryContainer"]["Image"] = image
    report = lab.run(model_step(lab), builtin, *steps)
    assert report.code == 2
    assert "is served by the built-in algorithm 'sagemaker-xgboost', whose server is not" in report.stderr
    assert "has '$.a' as DataProcessing.OutputFilter; of a row of CSV only indexes can be taken" in report.stderr
    assert "has AsyncInferenceConfig, but requests are answered at once here" in report.stderr
    assert not (lab.home / "jobs").exists()
