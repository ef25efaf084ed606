"""What a training job leaves for its report, made up: realistic in shape, without any training.

`python tests/support/training_output.py FOLDER [healthy|sick]` writes one, to look at.
"""

import json
import math
import random
import sys
from pathlib import Path
from typing import Any

Json = dict[str, Any]
START = 1_790_000_000.0  # epoch seconds, a full minute is at START - 20
STEPS, STEPS_PER_EPOCH, EPOCHS = 400, 20, 20
STEP_SECONDS = 0.025
PHASES = {"DataWait": 0.12, "Forward": 0.27, "Backward": 0.34, "Optimizer": 0.12, "Logging": 0.08}


def history(**changes: Any) -> Json:
    """history.json of a training that went well."""
    return {
        "schema_version": 1,
        "job_name": "pipelines-abc-TrainWithDebugger-1",
        "started": "2026-09-21T14:13:20+00:00",
        "ended": "2026-09-21T14:13:31.500000+00:00",
        "outcome": "Completed",
        "reason": None,
        "hyperparameters": {"lr": 0.0008269, "batch_size": 32, "epochs": EPOCHS, "hidden_units": 128, "dropout": 0.2,
                            "seed": 7},
        "classes": [str(digit) for digit in range(10)],
        "counts": {"train": 1257, "validation": 270},
        "best_epoch": 17,
        "steps_per_epoch": {"TRAIN": STEPS_PER_EPOCH, "EVAL": 1},
        "epochs": [epoch(number) for number in range(1, EPOCHS + 1)],
        "debugger_trouble": None,
        "backbone": "tf_efficientnet_lite2",
        **changes,
    }  # fmt: skip


def epoch(number: int, **changes: Any) -> Json:
    """One epoch of history.json."""
    left = math.exp(-number / 5)
    return {
        "epoch": number,
        "train_loss": 0.08 + 2.1 * left,
        "train_accuracy": 0.995 - 0.8 * left,
        "validation_loss": 0.14 + 1.9 * left + 0.004 * max(0, number - 12),
        "validation_accuracy": 0.965 - 0.75 * left,
        "lr": 0.0008269 * (1 + math.cos(math.pi * number / EPOCHS)) / 2,
        "seconds": 0.55,
        **changes,
    }


def rule(name: str, status: str = "NoIssuesFound", **changes: Any) -> Json:
    """One rule of rules/status.json."""
    return {
        "name": name,
        "rule": name,
        "kind": "tensor",
        "status": status,
        "action": "none",
        "parameters": {"threshold": 1e-7},
        "fired": [],
        "evidence": evidence(),
        "advice": "Lower the learning rate.",
        "traceback": None,
        "note": None,
        **changes,
    }


def evidence(**changes: Any) -> Json:
    """A plot of one."""
    steps = list(range(0, STEPS, 4))
    return {
        "title": "Smallest mean gradient of all layers",
        "x_label": "training step",
        "y_label": "mean of |gradient|",
        "series": [{"name": "hidden.weight", "x": steps, "y": [1e-2 * math.exp(-step / 90) for step in steps]}],
        "thresholds": [{"name": "threshold", "y": 1e-7}],
        **changes,
    }


def fired(step: int, sentence: str, **changes: Any) -> Json:
    """One firing."""
    return {"step": step, "mode": "TRAIN", "time": START + STEP_SECONDS * step, "sentence": sentence, **changes}


QUIET = ("VanishingGradient", "ExplodingTensor", "PoorWeightInitialization", "SaturatedActivation", "DeadRelu",
         "WeightUpdateRatio", "AllZero", "ClassImbalance", "LossNotDecreasing", "TensorVariance", "UnchangedTensor",
         "StalledTraining", "CheckInputImages", "Confusion", "LowGPUUtilization", "CPUBottleneck", "IOBottleneck",
         "BatchSize", "StepOutlier", "MaxInitializationTime", "OverallSystemUsage")  # fmt: skip


def status(*rules: Json, **observer: Any) -> Json:
    """rules/status.json: these rules, and quiet ones."""
    named = {found["name"] for found in rules}
    quiet = [rule(name) for name in QUIET if name not in named]
    return {
        "schema_version": 1,
        "observer": {"state": "finished", "detail": None, **observer},
        "rules": [*quiet, *rules],
    }


def overfit(**changes: Any) -> Json:
    """The rule Overfit, fired."""
    epochs = list(range(1, EPOCHS + 1))
    gap = [max(0.0, 0.02 * number - 0.05) for number in epochs]
    return rule(
        "Overfit",
        "IssuesFound",
        parameters={"start_step": 0, "patience": 1, "ratio_threshold": 0.1, "tensor_regex": None},
        fired=[
            fired(160, "Validation loss is 11 % above training loss at step 160 (ratio_threshold 10 %).", mode="EVAL"),
            *(fired(160 + 20 * n, f"Validation loss is {11 + 2 * n} % above training loss at step {160 + 20 * n} "
                    "(ratio_threshold 10 %).", mode="EVAL") for n in range(1, 7)),
        ],
        evidence=evidence(
            title="Validation loss above training loss",
            x_label="training step",
            y_label="(validation - train) / train",
            series=[{"name": "gap", "x": [20 * n for n in epochs], "y": gap}],
            thresholds=[{"name": "ratio_threshold", "y": 0.1}],
        ),
        advice="The model learns the training images by heart. Train for fewer epochs, raise dropout or weight decay, "
        "or add images.",
        **changes,
    )  # fmt: skip


def failing_rule() -> Json:
    """A rule of the user's own that raised."""
    text = (
        'Traceback (most recent call last):\n  File "my_rule.py", line 12, in evaluate\n    ratio = a / b\n'
        "ZeroDivisionError: float division by zero <b>\n"
    )
    return rule("MyRule", "Error", kind="custom", evidence=None, advice="", traceback=text)


def series() -> Json:
    """rules/series.json."""
    steps = list(range(0, STEPS, 4))
    fading = {"hidden.weight": 2e-2, "hidden.bias": 6e-3, "classifier.weight": 9e-2, "classifier.bias": 3e-2}
    return {
        "gradients": {
            name: {"step": steps, "abs_mean": [top * math.exp(-step / 90) for step in steps]}
            for name, top in fading.items()
        },
        "weights": {
            name: {"step": steps, "abs_mean": [0.02 + 0.0001 * n * step for step in steps]}
            for n, name in enumerate(("hidden.weight", "classifier.weight"), start=1)
        },
        "losses": {
            "TRAIN": {"step": steps, "value": [0.1 + 2.2 * math.exp(-step / 100) for step in steps]},
            "EVAL": {"step": list(range(0, STEPS, 20)), "value": [0.2 + 2 * math.exp(-n / 5) for n in range(20)]},
        },
    }


def operators(device: str = "cpu") -> Json:
    """operators.json."""
    names = ("aten::addmm", "aten::mm", "Optimizer.step#AdamW.step", "aten::gelu", "aten::native_layer_norm",
             "aten::_log_softmax", "aten::copy_", "aten::add_", "aten::mul_", "aten::index_select")  # fmt: skip
    return {
        "device": device,
        "steps": [8, 9, 10],
        "operators": [
            {"name": name, "calls": 3 * (n + 1), "self_cpu_us": 4200 / (n + 1), "cpu_us": 5000 / (n + 1),
             "self_device_us": 0 if device == "cpu" else 900 / (n + 1)}
            for n, name in enumerate(names)
        ],
    }  # fmt: skip


def system_lines(seconds: float = 11.5, cores: int = 2, gpus: int = 0) -> list[str]:
    """Lines of system metrics, one sample every half second."""
    chance = random.Random(1)
    rows = []
    for number in range(int(seconds * 2)):
        found: list[tuple[str, str, str, float]] = []
        for core in range(cores):
            found.append(("cpu", f"cpu{core}", "CPUUtilization", (90 if core == 0 else 40) + 8 * chance.random()))
            found.append(("cpu", f"cpu{core}", "I/OWaitPercentage", 2 * chance.random()))
        for gpu in range(gpus):
            found.append(("gpu", f"gpu{gpu}", "GPUUtilization", 40 + 30 * chance.random()))
            found.append(("gpu", f"gpu{gpu}", "GPUMemoryUtilization", 30 + 0.2 * number))
        found.append(("memory", "MemoryUsedPercent", "", 41 + 0.05 * number))
        found.append(("i/o", "ReadThroughputInBytesPerSecond", "", 3e6 * chance.random()))
        found.append(("i/o", "WriteThroughputInBytesPerSecond", "", 9e6 * chance.random()))
        found.append(("i/o", "IOPS", "", 300 * chance.random()))
        found.append(("network", "ReceiveBytesPerSecond", "Algorithm", 2000 * chance.random()))
        found.append(("network", "TransmitBytesPerSecond", "Algorithm", 900 * chance.random()))
        found.append(("process", "training", "ProcessCPUUtilization", 95 + 5 * chance.random()))
        found.append(("process", "training", "ProcessMemoryBytes", 4.1e8 + 1e6 * number))
        rows += [
            json.dumps({"Type": kind, "Name": name, "Dimension": dimension, "Value": value, "NodeId": "algo-1",
                        "Timestamp": START + number / 2})
            for kind, name, dimension, value in found
        ]  # fmt: skip
    return rows


def timeline() -> list[Json]:
    """Chrome trace events of all steps and their phases."""
    chance = random.Random(2)
    events: list[Json] = [
        {"name": "process_name", "ph": "M", "pid": 1, "args": {"name": "Step:ModeKeys.TRAIN"}},
        {"name": "x", "ph": "M", "pid": 1, "args": {"start_time_since_epoch_in_micros": START * 1e6}},
    ]
    at = 0.0
    for number in range(STEPS):
        length = STEP_SECONDS * (1 + 0.2 * chance.random()) * (6 if number == 250 else 1) * 1e6
        events.append({"name": "Step:ModeKeys.TRAIN", "ph": "X", "pid": 1, "ts": at, "dur": length})
        inside = at
        for phase, share in PHASES.items():
            events.append({"name": f"{phase}-node", "ph": "X", "pid": 2, "ts": inside, "dur": share * length})
            inside += share * length
        at += length
    events.append({"name": "Step:ModeKeys.EVAL", "ph": "X", "pid": 1, "ts": at, "dur": 8000.0})
    events.append({"name": "Checkpoint-node", "ph": "X", "pid": 2, "ts": at, "dur": 90000.0})
    return events


def search() -> Json:
    """The trials of a search."""
    chance = random.Random(3)
    trials = []
    for number in range(1, 13):
        lr = 10 ** chance.uniform(-4.5, -0.7)
        objective = 0.97 - 0.06 * (math.log10(lr) + 3) ** 2 - 0.01 * chance.random()
        trials.append(
            {"name": f"tuning-{number:03d}", "status": "Completed", "seconds": 2.0 + chance.random(), "winner": False,
             "hyperparameters": {"lr": f"{lr:.6g}", "batch_size": chance.choice(["16", "32", "64"]),
                                 "epochs": str(chance.randint(5, 25))},
             "objective": max(0.1, objective)}
        )  # fmt: skip
    trials[4].update(status="Failed", objective=None)
    max((found for found in trials if found["objective"]), key=lambda found: found["objective"])["winner"] = True
    return {"name": "pipelines-abc-TuneHyperparameters-1", "strategy": "Bayesian", "objective_type": "Maximize",
            "objective_metric": "validation:accuracy", "trials": trials}  # fmt: skip


def files(**changes: Any) -> dict[str, str]:
    """Every file by its path; `history`, `status`, `series`, `operators`, `system` and `timeline` can be given."""
    documents = {
        "history.json": json.dumps(changes.get("history", history())),
        "rules/status.json": json.dumps(changes.get("status", status())),
        "rules/series.json": json.dumps(changes.get("series", series())),
        "profile/torch/operators.json": json.dumps(changes.get("operators", operators())),
        "profile/system/incremental/2026092114/1789999980.algo-1.json": "".join(
            f"{line}\n" for line in changes.get("system", system_lines())
        ),
        "profile/framework/pevents/2026092114/1790000011000000_42-algo-1_pythontimeline.json": "[\n"
        + ",\n".join(map(json.dumps, changes.get("timeline", timeline())))
        + "\n]\n",
        "tensors/index/000000000/000000000000_worker_0.json": "{}",
    }
    return documents


def write_output(folder: Path, **changes: Any) -> Path:
    """Write them; a file whose content is None in `replaced` is left out."""
    replaced = changes.pop("replaced", {})
    for name, content in {**files(**changes), **replaced}.items():
        if content is not None:
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content, encoding="utf-8")
    return folder


def sick() -> Json:
    """A training that a rule stopped, with a rule that failed and one that could not judge."""
    stopped = overfit(action="stop")
    young = rule("Overtraining", note="Too little data: 4 epochs of validation losses, and 10 are needed.")
    diverged = rule(
        "LossNotDecreasing",
        "IssuesFound",
        fired=[fired(40, "The loss went down by 0.02 % from step 30 to step 40 (diff_percent 0.1 %).")],
        advice="Raise the learning rate by a factor of ten, or check that labels and images belong together.",
    )
    reason = "Stopped by rule Overfit at step 160: validation loss is 11 % above training loss (ratio_threshold 10 %)."
    return {
        "history": history(outcome="Stopped", reason=reason, best_epoch=6, epochs=[epoch(n) for n in range(1, 9)]),
        "status": status(stopped, diverged, failing_rule(), young),
        "system": system_lines(gpus=2),
    }


if __name__ == "__main__":
    target = Path(sys.argv[1])
    write_output(target, **(sick() if sys.argv[2:] == ["sick"] else {}))
    (target / "search.json").write_text(json.dumps(search()))
