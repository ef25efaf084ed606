"""A job's AWS clients: answered by whoever runs the job, never by AWS, and with nothing of the user's."""

from pathlib import Path

from tests.local.lab import Lab, call

SECRETS = {
    "AWS_ACCESS_KEY_ID": "AKIAREAL",
    "AWS_SECRET_ACCESS_KEY": "real",
    "AWS_PROFILE": "prod",
    "GITHUB_TOKEN": "ghp_real",
    "SM_HPS": "{}",
    "HTTPS_PROXY": "http://me:password@proxy:3128",
    "OMP_NUM_THREADS": "1",
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
    child = subprocess.run([sys.executable, "-c", inner], capture_output=True, text=True)
    print(json.dumps({
        "read": read,
        "child": child.stdout.strip() or child.stderr,
        "foreign": refused(s3.get_object, Bucket="somebody-elses", Key="k"),
        "dynamodb": refused(boto3.client("dynamodb").list_tables),
        "groups": boto3.client("sagemaker").list_model_package_groups()["ModelPackageGroupSummaryList"],
        "keys": boto3.Session().get_credentials().access_key,
        "profiles": boto3.Session().available_profiles,
        "environment": dict(os.environ),
    }))
"""
UNGUARDED = """
    import json, subprocess, sys
    attempt = (
        "import boto3; print(boto3.Session().get_credentials().access_key);"
        "boto3.client('s3').delete_object(Bucket='bucket', Key='data/a.txt')"
    )
    metadata = "import urllib.request; urllib.request.urlopen('http://169.254.169.254/latest/meta-data', timeout=2)"
    said = {flag: subprocess.run([sys.executable, flag, "-c", attempt], capture_output=True, text=True)
            for flag in ("-I", "-E")}
    said = {flag: done.stdout + done.stderr.splitlines()[-1] for flag, done in said.items()}
    said["metadata"] = subprocess.run([sys.executable, "-c", metadata], capture_output=True, text=True).stderr
    print(json.dumps(said))
"""


def test_clients_in_jobs_are_answered_here_and_find_nothing_of_the_users(any_lab: Lab, tmp_path: Path) -> None:
    for name in "ab":
        any_lab.put(f"s3://bucket/data/{name}.txt", name)
    (tmp_path / ".aws").mkdir()
    (tmp_path / ".aws" / "credentials").write_text("[default]\naws_access_key_id=AKIAREAL\naws_secret_access_key=x\n")
    steps = [any_lab.processing("Clients", CLIENTS), any_lab.processing("Unguarded", UNGUARDED)]
    for isolation in ("on", "off"):
        environment = {**SECRETS, "HOME": str(tmp_path), "LOCAL_ISOLATION": isolation}
        report = any_lab.run(*steps, environment=environment, options=["--no-cache"])
        assert report.statuses == {"Clients": "Succeeded", "Unguarded": "Succeeded"}, report.log("Clients")
        said = report.printed("Clients")
        own = said.pop("environment")
        assert not set(SECRETS.values()) - {"1", "{}"} & set(own.values())
        assert not {"AWS_PROFILE", "GITHUB_TOKEN", "SM_HPS", "HTTPS_PROXY"} & set(own)
        assert own["OMP_NUM_THREADS"] == "1"
        assert Path(own["HOME"]).is_relative_to(any_lab.home / "jobs")
        assert "dynamodb:ListTables" in said.pop("dynamodb")
        assert said.pop("foreign")
        assert said == {"read": "a", "child": "100000", "groups": [], "keys": "local", "profiles": []}
        assert not any_lab.path("s3://bucket/data/b.txt").exists()
        assert len(any_lab.get("s3://bucket/from/job.txt")) == 100_000
        unguarded = report.printed("Unguarded")
        assert "no instance metadata" in unguarded.pop("metadata")
        for said_by_python in unguarded.values():
            assert said_by_python.startswith("local\nbotocore.exceptions.EndpointConnectionError")
        assert any_lab.get("s3://bucket/data/a.txt") == "a"
        assert not list(any_lab.home.glob("jobs/*/ml/.api.sock"))


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


def test_a_long_path_and_a_sitecustomize_of_the_environment_do_no_harm(tmp_path: Path) -> None:
    deep = tmp_path / ("long-" * 30)
    (deep / "own").mkdir(parents=True)
    (deep / "own" / "sitecustomize.py").write_text("import os; os.environ['CHAINED'] = __file__\n")
    code = """
        import boto3, json, os
        boto3.client("s3").put_object(Bucket="b", Key="k")
        print(json.dumps(dict(os.environ)))
    """
    lab = Lab(deep)
    step = lab.processing("Deep", code, environment={"PYTHONPATH": str(deep / "own")})
    report = lab.run(step, environment={"LOCAL_ISOLATION": "off"})
    assert report.printed("Deep")["CHAINED"] == str(deep / "own" / "sitecustomize.py")
    assert lab.path("s3://b/k").exists()
