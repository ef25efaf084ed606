"""A home with models, endpoints and transform jobs whose servers are real, seen by boto3."""

import json
import subprocess
from pathlib import Path

import pytest
from botocore.exceptions import ClientError

from pipeline.local.sagemaker.session import local_session
from pipeline.local.store.state import State
from pipeline.local.store.storage import Storage
from tests.local.lab import IMAGE, ROLE, Json
from tests.local.samples import model_archive, processes_of, wait_until, zombies


class Home:
    """A home with its clients; a model, its configuration and its data have one name."""

    def __init__(self, folder):
        self.folder = folder
        self.state = State(folder)
        self.storage = Storage(self.state)
        session = local_session(self.state)
        self.sagemaker, self.runtime = session.client("sagemaker"), session.client("sagemaker-runtime")

    def container(self, name, files=None, **environment):
        """A container whose model data is stored; without files it is a server that says its name."""
        uri = f"s3://bucket/{name}/model.tar.gz"
        self.storage.write(uri, model_archive(name, **(files or {})))
        own = {"SAGEMAKER_PROGRAM": "serve.py"} if files is None or "code/serve.py" in files else {}
        return {"Image": IMAGE, "ModelDataUrl": uri, "Environment": {**own, **environment}}

    def model(self, name, *containers, **environment):
        """A model, by default of a server that says its name, and a configuration."""
        first, *more = containers or [self.container(name, **environment)]
        parts = {"Containers": [first, *more]} if more else {"PrimaryContainer": first}
        self.sagemaker.create_model(ModelName=name, ExecutionRoleArn=ROLE, **parts)
        self.config(name)

    def config(self, name, *, model=None, **members):
        variant = {"VariantName": "Main", "ModelName": model or name, "InstanceType": "ml.m5.large"}
        self.sagemaker.create_endpoint_config(
            EndpointConfigName=name, ProductionVariants=[{**variant, "InitialInstanceCount": 1}], **members
        )

    def create(self, config, endpoint="ep"):
        self.sagemaker.create_endpoint(EndpointName=endpoint, EndpointConfigName=config)

    def update(self, config):
        self.sagemaker.update_endpoint(EndpointName="ep", EndpointConfigName=config)

    def delete(self, endpoint="ep"):
        self.sagemaker.delete_endpoint(EndpointName=endpoint)

    def describe(self, endpoint="ep"):
        return self.sagemaker.describe_endpoint(EndpointName=endpoint)

    def settled(self, endpoint="ep"):
        """The endpoint once nothing is under way."""
        wait_until(lambda: self.describe(endpoint)["EndpointStatus"] not in ("Creating", "Updating"))
        return self.describe(endpoint)

    def served(self, name="m", *containers, **environment):
        """What the state holds of the server of a new endpoint in service."""
        self.model(name, *containers, **environment)
        self.create(name)
        assert self.settled()["EndpointStatus"] == "InService", self.describe()
        return self.server()

    def server(self):
        return self.state.get("Endpoint", "ep")["Server"]

    def answer(self, body=b"x", endpoint="ep", **members):
        """InvokeEndpoint; its Body is read."""
        answer = self.runtime.invoke_endpoint(EndpointName=endpoint, Body=body, **members)
        return {**answer, "Body": answer["Body"].read()}

    def invoke(self, body=b"x", endpoint="ep", **members):
        """The JSON that an endpoint answers."""
        return json.loads(self.answer(body, endpoint, **members)["Body"])

    def put(self, **objects):
        """Input objects of transform jobs; `a__b` is a/b."""
        for name, content in objects.items():
            data = content.encode() if isinstance(content, str) else content
            self.storage.write(f"s3://bucket/in/{name.replace('__', '/')}", data)

    def transform(self, model, name="job", *, manifest=None, **members):
        """Create a transform job; members of TransformInput and TransformOutput are found by their names."""
        kind, uri = ("ManifestFile", manifest) if manifest else ("S3Prefix", "s3://bucket/in/")
        source: Json = {"DataSource": {"S3DataSource": {"S3DataType": kind, "S3Uri": uri}}}
        output, resources = {"S3OutputPath": "s3://bucket/out/"}, {"InstanceType": "ml.m5.large", "InstanceCount": 1}
        for key in ("ContentType", "SplitType", "CompressionType", "Accept", "AssembleWith"):
            if key in members:
                (output if key in ("Accept", "AssembleWith") else source)[key] = members.pop(key)
        given = {"TransformInput": source, "TransformOutput": output, "TransformResources": resources, **members}
        self.sagemaker.create_transform_job(TransformJobName=name, ModelName=model, **given)

    def job(self, name="job"):
        return self.sagemaker.describe_transform_job(TransformJobName=name)

    def ended(self, name="job", status="Completed"):
        """Why a job has failed, once it has ended."""
        wait_until(lambda: self.job(name)["TransformJobStatus"] in ("Completed", "Failed", "Stopped"))
        assert self.job(name)["TransformJobStatus"] == status, self.job(name)
        return self.job(name).get("FailureReason")

    def output(self, name):
        return self.storage.read(f"s3://bucket/out/{name}.out").decode()


@pytest.fixture
def home(tmp_path):
    """A home; when its endpoints are deleted, no process, no zombie and no file of theirs is left."""
    home = Home(tmp_path / "home")
    yield home
    for endpoint in home.sagemaker.list_endpoints()["Endpoints"]:
        home.delete(endpoint["EndpointName"])
    wait_until(lambda: not processes_of(tmp_path))
    wait_until(lambda: subprocess.run(["true"], check=True) and not zombies())  # Popen waits for others that have ended
    assert not list(home.folder.glob("endpoints/*/*/server"))


def refusal(call, *arguments, **request):
    with pytest.raises(ClientError) as caught:
        call(*arguments, **request)
    return caught.value.response


def message(call, *arguments, **request):
    return refusal(call, *arguments, **request)["Error"]["Message"]


def cases(name):
    return json.loads((Path(__file__).parent / f"cases/{name}.json").read_text())
