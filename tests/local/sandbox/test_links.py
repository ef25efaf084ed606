"""What the runner collects of a job: nothing through a link of the job's, which may lead to the user's files."""

from pathlib import Path

from tests.local.lab import Lab, call

LINK_OUT = """
    import os, sys
    os.rmdir("/opt/ml/processing/output/out")
    os.symlink(sys.argv[1], "/opt/ml/processing/output/out")
"""
LINK_MESSAGE = """
    import os, sys
    os.symlink(sys.argv[1] + "/secret", "/opt/ml/output/message")
    sys.exit(3)
"""
PLANT = """
    import sys
    sys.path.insert(0, __import__("os").environ["PYTHONPATH"].split(":")[0])
    import local_guest
    for url in (sys.argv[1] + "/" + "a" * 64, "../" * 9 + sys.argv[1].lstrip("/") + "/" + "a" * 64):
        head = {"service": "pip", "operation": "Keep", "method": "POST", "url": url, "headers": {}}
        print(local_guest.ask(head, b""))
"""


def test_a_link_that_a_job_leaves_is_not_followed(lab: Lab, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    (victim / ("a" * 64)).mkdir(parents=True)
    (victim / "secret").write_text("TOPSECRET")
    link = f"import os; os.rmdir('/opt/ml/a/b'); os.rmdir('/opt/ml/a'); os.symlink({str(victim.parent)!r}, '/opt/ml/a')"
    kept = lab.training("Checkpoints", link)
    kept["Arguments"]["CheckpointConfig"] = {"S3Uri": "s3://bucket/kept", "LocalPath": "/opt/ml/a/b"}
    (victim.parent / "b").mkdir()
    (victim.parent / "b/secret").write_text("TOPSECRET")
    report = lab.run(
        kept,
        lab.processing("Output", LINK_OUT, outputs=["out"], arguments=[str(victim)]),
        lab.processing("Message", LINK_MESSAGE, arguments=[str(victim)]),
        lab.processing("Packages", PLANT, arguments=[str(victim)]),
        lab.training("Model", f"import os; os.rmdir('/opt/ml/model'); os.symlink({str(victim)!r}, '/opt/ml/model')"),
        options=["--parallel", "5"],
    )
    assert "is a link" in report.statuses["Output"]
    assert "is a link" in report.statuses["Model"]
    assert "exit code: 3" in report.statuses["Message"]
    assert report.log("Packages").count("404") == 2
    assert sorted(entry.name for entry in victim.iterdir()) == ["a" * 64, "secret"]
    stored = [file for file in lab.home.rglob("*") if file.is_file() and not file.is_symlink()]
    assert not any(b"TOPSECRET" in file.read_bytes() for file in stored)


def test_a_function_that_writes_over_its_answer_fails_with_a_sentence(lab: Lab) -> None:
    handler = """
        import os

        def handler(event, context):
            open("/opt/ml/outcome.json", "w").write("[]")
            os._exit(0)
    """
    report = lab.run(call("Call", {}, {"x": "String"}), functions=[lab.function(handler)])
    assert "InternalServerError" not in report.statuses["Call"]
    assert report.code == 1
