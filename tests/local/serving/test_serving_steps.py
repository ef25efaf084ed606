"""Model, Transform, EndpointConfig and Endpoint steps of a pipeline, by the command line."""

from tests.local.lab import Lab, parameter
from tests.local.serving.serving_home import cases
from tests.local.serving.test_transforms import TEN_TIMES

DEFAULTS = {"Filter": "$[1:]", "Config": "c", "Split": "Line"}
PARAMETERS = [parameter(name, "String", value) for name, value in DEFAULTS.items()]


def run(lab, *names, script=TEN_TIMES, changes=(), **parameters):
    """Run some of the steps, with changed members of their Arguments."""
    lab.archive("s3://bucket/model.tar.gz", {"code/inference.py": script})
    arguments = cases("steps")
    for name, members in dict(changes).items():
        arguments[name].update(members)
    options = [word for name, value in parameters.items() for word in ("--param", f"{name}={value}")]
    steps = [{"Name": name, "Type": name, "Arguments": arguments[name]} for name in names]
    return lab.run(*steps, parameters=PARAMETERS, options=options)


def test_a_step_transforms_with_the_filter_of_a_parameter(home):
    lab = Lab(home.folder.parent)
    lab.put("s3://bucket/in/a.csv", "id,1\nid,2\n")
    report = run(lab, "Model", "Transform")
    assert report.code == 0, report.stdout + report.stderr
    assert lab.get("s3://bucket/out/a.csv.out") == "id,1,10.0\nid,2,20.0\n"
    report = run(lab, "Model", "Transform", Filter="$..x")
    assert report.code == 1
    assert "DataProcessing.InputFilter that cannot be used: '$..x'" in report.statuses["Transform"]


def test_an_endpoint_is_created_and_then_updated_and_waited_for(home):
    scripts = {"c": TEN_TIMES, "d": TEN_TIMES.replace("10", "20"), "e": "def model_fn(d): raise OSError('no weights')"}
    for config, body in {"c": b"40.0", "d": b"80.0", "e": b"80.0"}.items():
        steps = ("Model", "EndpointConfig", "Endpoint")
        report = run(Lab(home.folder.parent), *steps, script=scripts[config], Config=config)
        if config == "e":
            assert (report.code, "OSError: no weights" in report.statuses["Endpoint"]) == (1, True)
        else:
            assert report.code == 0, report.stdout + report.stderr
            found = report.properties("Endpoint")
            assert (found["EndpointStatus"], found["EndpointConfigName"]) == ("InService", config)
        assert home.answer("4", ContentType="text/csv", Accept="text/csv")["Body"] == body
    report = run(Lab(home.folder.parent), "Model", "EndpointConfig")
    assert "Cannot create already existing endpoint configuration 'c'." in report.statuses["EndpointConfig"]


def test_what_is_not_followed_is_refused_before_anything_runs(any_lab):
    xgboost = "683313688378.dkr.ecr.us-east-1.amazonaws.com/sagemaker-xgboost:1.7-1"
    changes = {
        "Model": {"PrimaryContainer": {"Image": xgboost, "ModelDataUrl": "s3://bucket/model.tar.gz"}},
        "Transform": {"BatchStrategy": "Some"},
        "EndpointConfig": {"AsyncInferenceConfig": {"OutputConfig": {}}},
    }
    report = run(any_lab, *cases("steps"), changes=changes)
    assert report.code == 2
    for said in ("built-in algorithm 'sagemaker-xgboost'", "has 'Some' as BatchStrategy", "has AsyncInferenceConfig"):
        assert said in report.stderr
    assert not (any_lab.home / "jobs").exists()
