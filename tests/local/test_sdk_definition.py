"""A definition as the SDK compiles it, run to its end."""

import json
from pathlib import Path

from tests.local.lab import Lab, source

SDK_CASE = json.loads((Path(__file__).parent / "cases" / "sdk_pipeline.json").read_text())  # compiled by SDK 3.27
SDK_PREP = """
    import argparse, json, pathlib
    parser = argparse.ArgumentParser()
    parser.add_argument("--n", type=int)
    parser.add_argument("--flag")
    told = parser.parse_args()
    out = pathlib.Path("/opt/ml/processing/output")
    (out / "train/x.csv").write_text("1,2\\n" * told.n)
    (out / "report/evaluation.json").write_text(json.dumps({"metrics": {"acc": {"value": 0.91}}}))
    print(told.flag, [path.read_text() for path in pathlib.Path("/opt/ml/processing/input").rglob("*.txt")])
"""
SDK_TRAIN = """
    import argparse, os
    from helper import half
    parser = argparse.ArgumentParser()
    for name in ("lr", "epochs", "flag", "sizes"):
        parser.add_argument(f"--{name}")
    told, rest = parser.parse_known_args()
    print(told.flag, told.sizes, sorted(rest))
    for epoch in range(int(told.epochs)):
        print(f"epoch={epoch} val_acc={half + 0.1 * epoch:.4f} loss=1e-3", flush=True)
    lines = open(os.environ["SM_CHANNEL_TRAIN"] + "/x.csv").readlines()
    open(os.environ["SM_MODEL_DIR"] + "/lines.txt", "w").write(str(len(lines)))
"""
SDK_HANDLER = """
    def handler(event, context):
        return {"s": f"lr{event['best']}", "i": event["n"], "b": event["flag"], "f": event["acc"]}
"""


def test_a_definition_compiled_by_the_sdk_runs_to_its_end(lab: Lab) -> None:
    lab.put("s3://bkt/raw/a/b.txt", "raw")
    lab.put("s3://bkt/code/prep.py", source(SDK_PREP))
    files = {"train.py": SDK_TRAIN, "helper.py": "half = 0.5", "requirements.txt": "numpy"}
    for name, text in files.items():
        lab.put(f"s3://bkt/Train/input/code/{name}", source(text))
    lab.archive("s3://bkt/Tune/input/sourcedir/sourcedir.tar.gz", files)
    for step in ("Train", "Tune"):
        sources = {"source_dir": "src", "requirements": "requirements.txt", "entry_script": "train.py"}
        lab.put(f"s3://bkt/{step}/input/sm_drivers/sourcecode.json", json.dumps(sources))
        driver = "python3 /opt/ml/input/data/sm_drivers/distributed_drivers/basic_script_driver.py"
        lab.put(f"s3://bkt/{step}/input/sm_drivers/sm_train.sh", driver)
    functions = [lab.function(SDK_HANDLER)]
    report = lab.run_definition(SDK_CASE, functions=functions)
    assert report.statuses == dict.fromkeys(["Prep", "Train", "Tune", "Lam", "Gate", "Inner", "Final"], "Succeeded")
    best = report.document["best_hyperparameters"]
    assert set(best) == {"lr", "bs", "k"}
    assert report.step("Lam")["outputs"] == {"s": f"lr{best['lr']}", "i": "3", "b": "True", "f": "0.7"}
    assert report.log("Prep") == "true-me-0.5 ['raw']\n"
    assert report.log("Final") == f"lr{best['lr']} []\n"
    arguments = ["--cfg", "--name", "res net", '{"a": 1}']
    assert report.log("Train").splitlines()[0] == f"true [1, 2] {arguments}"
    refused = lab.run_definition(
        SDK_CASE, functions=functions, options=["--param", "Deploy=false", "--param", "Who=you"]
    )
    assert refused.code == 1
    assert refused.statuses["Bad"] == "acc below 0.5"
