"""A job's AWS clients: answered by whoever runs the job, never by AWS, and with nothing of the user's."""

from pathlib import Path

import pytest

from tests.local.lab import Lab, call

SECRETS = {
    "AWS_ACCESS_KEY_ID": "AKIAREAL",
    "AWS_SECRET_ACCESS_KEY": "real",
    "AWS_PROFILE": "prod",
    "GITHUB_TOKEN": "ghp_real",
    "SM_HPS": "{}",
    "HTTPS_PROXY": "http://me:password@proxy:3128",
}
CLIENTS = """
    import json, os, subprocess, sys
    import boto3
    from botocore.exceptions import ClientError

    def refused(call, **arguments):
        try:
            return call(**arguments)
        except ClientError as problem:
            return problem.response["Error"]["Message"]

    s3 = boto3.client("s3")
    s3.put_object(Bucket="bucket", Key="from/job.txt", Body=b"x" * 100_000)
    read = boto3.resource("s3").Object("bucket", "data/a.txt").get()["Body"].read().decode()
    s3.delete_object(Bucket="bucket", Key="data/b.txt")
    inner = "import boto3; print(boto3.client('s3').head_object(Bucket='bucket', Key='from/job.txt')['ContentLength'])"
    attack = (
        "import boto3; print(boto3.Session().get_credentials().access_key);"
        "boto3.client('s3').delete_object(Bucket='bucket', Key='data/a.txt')"
    )
    metadata = "import urllib.request; urllib.request.urlopen('http://169.254.169.254/latest/meta-data', timeout=2)"
    def python(*words):
        done = subprocess.run([sys.executable, *words], capture_output=True, text=True)
        return done.stdout + (done.stderr.splitlines() or [""])[-1]
    print(json.dumps({
        "read": read,
        "child": python("-c", inner).strip(),
        "foreign": refused(s3.get_object, Bucket="somebody-elses", Key="k"),
        "dynamodb": refused(boto3.client("dynamodb").list_tables),
        "groups": boto3.client("sagemaker").list_model_package_groups()["ModelPackageGroupSummaryList"],
        "keys": boto3.Session().get_credentials().access_key,
        "profiles": boto3.Session().available_profiles,
        "unguarded": [python(flag, "-c", attack) for flag in ("-I", "-E")],
        "metadata": python("-c", metadata),
        "environment": dict(os.environ),
    }))
"""


@pytest.mark.parametrize("isolation", ["on", "off"])
def test_clients_in_jobs_are_answered_here_and_find_nothing_of_the_users(tmp_path: Path, isolation: str) -> None:
    lab = Lab(tmp_path / ("long-" * 30))  # longer than the address of a socket can be
    for name in "ab":
        lab.put(f"s3://bucket/data/{name}.txt", name)
    (tmp_path / ".aws").mkdir()
    (tmp_path / ".aws/credentials").write_text("[default]\naws_access_key_id=AKIAREAL\naws_secret_access_key=x\n")
    lab.put("s3://bucket/hook/sitecustomize.py", "import os; os.environ['CHAINED'] = __file__\n")
    hook = str(lab.path("s3://bucket/hook"))
    settings = {**SECRETS, "HOME": str(tmp_path), "OMP_NUM_THREADS": "1", "LOCAL_ISOLATION": isolation}
    report = lab.run(lab.processing("Clients", CLIENTS, environment={"PYTHONPATH": hook}), environment=settings)
    assert report.statuses == {"Clients": "Succeeded"}, report.log("Clients")
    said = report.printed("Clients")
    own = said.pop("environment")
    assert not set(own.values()) & set(SECRETS.values()) - {"{}"}
    assert not set(own) & {"AWS_PROFILE", "GITHUB_TOKEN", "SM_HPS", "HTTPS_PROXY"}
    assert own["OMP_NUM_THREADS"] == "1"
    assert own["CHAINED"] == f"{hook}/sitecustomize.py"  # of the environment itself, which ours hides
    assert Path(own["HOME"]).is_relative_to(lab.home / "jobs")
    assert "dynamodb:ListTables" in said.pop("dynamodb")
    assert "no instance metadata" in said.pop("metadata")
    assert said.pop("foreign")
    for text in said.pop("unguarded"):
        assert text.startswith("local\nbotocore.exceptions.EndpointConnectionError")
    assert said == {"read": "a", "child": "100000", "groups": [], "keys": "local", "profiles": []}
    assert [lab.path(f"s3://bucket/data/{name}.txt").exists() for name in "ab"] == [True, False]
    assert len(lab.get("s3://bucket/from/job.txt")) == 100_000
    assert not list(lab.home.glob("jobs/*/ml/.api.sock"))


def test_a_functions_clients_are_answered_too(any_lab: Lab) -> None:
    function = any_lab.function(
        """
        import boto3, os, sys
        def handler(event, context):
            boto3.client("s3").put_object(Bucket="bucket", Key="made", Body=event["text"].encode())
            assert "GITHUB_TOKEN" not in os.environ and not [n for n in sys.modules if n.startswith("pipeline")]
            return {"left": context.get_remaining_time_in_millis() > 500_000}
        """
    )
    step = call("Call", {"text": "by a function"}, {"left": "Boolean"})
    assert any_lab.run(step, functions=[function], environment=SECRETS).statuses == {"Call": "Succeeded"}
    assert any_lab.get("s3://bucket/made") == "by a function"
