"""Model, Transform, EndpointConfig and Endpoint steps of a pipeline, by the command line."""

import pytest

from tests.local.lab import IMAGE, ROLE, Lab, get, parameter
from tests.local.serving.test_transforms import TEN_TIMES


@pytest.fixture
def lab(home):
    return Lab(home.folder.parent)


def step(kind, **arguments):
    return {"Name": kind, "Type": kind, "Arguments": arguments}


def model_step(lab, script=TEN_TIMES, image=IMAGE):
    uri = lab.archive("s3://bucket/model.tar.gz", {"code/inference.py": script})
    container = {"Image": image, "ModelDataUrl": uri, "Environment": {}}
    return step("Model", PrimaryContainer=container, ExecutionRoleArn=ROLE)


def config_step(config="c", **members):
    variant = {"VariantName": "V", "ModelName": get("Steps.Model.ModelName"), "InitialVariantWeight": 1}
    serverless = {"ServerlessConfig": {"MemorySizeInMB": 1024, "MaxConcurrency": 1}}
    variants = [{**variant, **serverless}]
    return step("EndpointConfig", EndpointConfigName=config, ProductionVariants=variants, **members)


def transform_step(**members):
    source = {"DataSource": {"S3DataSource": {"S3DataType": "S3Prefix", "S3Uri": "s3://bucket/in"}}}
    return step(
        "Transform",
        ModelName=get("Steps.Model.ModelName"),
        TransformInput={**source, "ContentType": "text/csv", "SplitType": "Line"},
        TransformOutput={"S3OutputPath": "s3://bucket/out", "Accept": "text/csv", "AssembleWith": "Line"},
        TransformResources={"InstanceType": "ml.m5.large", "InstanceCount": 1},
        **members,
    )


ENDPOINT = step("Endpoint", EndpointName="ep", EndpointConfigName=get("Steps.EndpointConfig.EndpointConfigName"))


def test_a_step_transforms_with_the_filter_of_a_parameter(lab):
    lab.put("s3://bucket/in/a.csv", "id,1\nid,2\n")
    transform = transform_step(DataProcessing={"InputFilter": get("Parameters.Filter"), "JoinSource": "Input"})
    filters = [parameter("Filter", "String", "$[1:]")]
    report = lab.run(model_step(lab), transform, parameters=filters)
    assert report.code == 0, report.stdout + report.stderr
    assert lab.get("s3://bucket/out/a.csv.out") == "id,1,10.0\nid,2,20.0\n"
    report = lab.run(model_step(lab), transform, parameters=filters, options=["--param", "Filter=$..x"])
    assert report.code == 1
    assert "DataProcessing.InputFilter that cannot be used: '$..x'" in report.statuses["Transform"]


def test_an_endpoint_is_created_and_then_updated_and_waited_for(lab, home):
    scripts = {"c": TEN_TIMES, "d": TEN_TIMES.replace("10", "20"), "e": "def model_fn(d): raise OSError('no weights')"}
    for config, body in {"c": b"40.0", "d": b"80.0", "e": b"80.0"}.items():
        report = lab.run(model_step(lab, scripts[config]), config_step(config), ENDPOINT)
        if config == "e":
            assert (report.code, "OSError: no weights" in report.statuses["Endpoint"]) == (1, True)
        else:
            assert report.code == 0, report.stdout + report.stderr
            found = report.properties("Endpoint")
            assert (found["EndpointStatus"], found["EndpointConfigName"]) == ("InService", config)
        assert home.answer("4", ContentType="text/csv", Accept="text/csv")["Body"] == body
    report = lab.run(model_step(lab), config_step())
    taken = "ClientError: Cannot create already existing endpoint configuration 'c'."
    assert report.statuses["EndpointConfig"] == taken


def test_what_is_not_followed_is_refused_before_anything_runs(lab):
    xgboost = model_step(lab, image="683313688378.dkr.ecr.us-east-1.amazonaws.com/sagemaker-xgboost:1.7-1")
    transform = transform_step(BatchStrategy="SingleRecord", DataProcessing={"OutputFilter": "$.a"})
    report = lab.run(xgboost, transform, config_step(AsyncInferenceConfig={"OutputConfig": {}}), ENDPOINT)
    assert report.code == 2
    for said in (
        "is served by the built-in algorithm 'sagemaker-xgboost', whose server is not",
        "has '$.a' as DataProcessing.OutputFilter; of a row of CSV only indexes can be taken",
        "has AsyncInferenceConfig, but requests are answered at once here",
    ):
        assert said in report.stderr
    assert not (lab.home / "jobs").exists()
