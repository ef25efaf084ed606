"""The search in the compiled definition, and what goes from its winner into the training."""

import pytest

from tests.compile.definitions import steps_of

SEARCHED = ("hidden_units", "dropout", "label_smoothing", "weight_decay")


def test_a_grid_is_run_whole_and_takes_no_number(compiled):
    text = """
tuning:
  strategy: Grid
  max_jobs: 4
  max_parallel_jobs: 2
  ranges:
    lr: {type: categorical, values: [0.001, 0.01]}
    batch_size: {type: categorical, values: [32, 64]}
"""
    config = steps_of(compiled(text))["TuneHyperparameters"]["Arguments"]["HyperParameterTuningJobConfig"]
    assert config["Strategy"] == "Grid"
    assert config["ResourceLimits"] == {"MaxParallelTrainingJobs": {"Get": "Parameters.MaxParallelTuningJobs"}}
    assert config["ParameterRanges"]["CategoricalParameterRanges"] == [
        {"Name": "lr", "Values": ["0.001", "0.01"]},
        {"Name": "batch_size", "Values": ["32", "64"]},
    ]


@pytest.mark.parametrize("strategy", ["Bayesian", "Hyperband"])
def test_other_strategies_take_their_number_at_run_time(compiled, strategy):
    text = f"tuning: {{strategy: {strategy}, early_stopping: 'Off', max_jobs: 9}}\n"
    definition = compiled(text)
    config = steps_of(definition)["TuneHyperparameters"]["Arguments"]["HyperParameterTuningJobConfig"]
    assert config["Strategy"] == strategy
    assert config["ResourceLimits"]["MaxNumberOfTrainingJobs"] == {"Get": "Parameters.MaxTuningJobs"}
    defaults = {parameter["Name"]: parameter["DefaultValue"] for parameter in definition["Parameters"]}
    assert (defaults["MaxTuningJobs"], defaults["MaxParallelTuningJobs"]) == (9, 2)


def test_a_search_begins_with_the_one_that_a_parameter_names(compiled):
    definition = compiled("tuning: {warm_start: last}", warm_start_parent="e-Tune-1")
    assert steps_of(definition)["TuneHyperparameters"]["Arguments"]["WarmStartConfig"] == {
        "WarmStartType": "TransferLearning",
        "ParentHyperParameterTuningJobs": [{"HyperParameterTuningJobName": {"Get": "Parameters.WarmStartParent"}}],
    }
    assert definition["Parameters"][-1] == {
        "Name": "WarmStartParent",
        "Type": "String",
        "DefaultValue": "e-Tune-1",
    }
    without = compiled("tuning: {warm_start: last}")
    assert "WarmStartConfig" not in steps_of(without)["TuneHyperparameters"]["Arguments"]


def test_hyperband_shares_out_epochs_and_does_not_search_them(compiled):
    text = """
tuning:
  strategy: Hyperband
  early_stopping: "Off"
  ranges:
    lr: {type: continuous, min: 0.001, max: 0.1}
    epochs: {type: integer, min: 2, max: 18}
"""
    steps = steps_of(compiled(text))
    tuning = steps["TuneHyperparameters"]["Arguments"]
    config = tuning["HyperParameterTuningJobConfig"]
    assert config["StrategyConfig"] == {"HyperbandStrategyConfig": {"MinResource": 2, "MaxResource": 18}}
    assert [found["Name"] for kind in config["ParameterRanges"].values() for found in kind] == ["lr"]
    assert tuning["TrainingJobDefinition"]["StaticHyperParameters"]["epochs"] == "18"
    assert steps["TrainWithDebugger"]["Arguments"]["HyperParameters"]["epochs"] == "18"


def test_what_is_searched_is_not_fixed_and_goes_from_the_winner_into_the_training(compiled):
    text = """
tuning:
  ranges:
    lr: {type: continuous, min: 0.001, max: 0.1, scaling: Logarithmic}
    hidden_units: {type: integer, min: 16, max: 512, scaling: Linear}
    dropout: {type: continuous, min: 0.0, max: 0.5, scaling: Linear}
    label_smoothing: {type: categorical, values: [0.0, 0.1]}
    weight_decay: {type: continuous, min: 0.00001, max: 0.01, scaling: ReverseLogarithmic}
"""
    steps = steps_of(compiled(text))
    tuning = steps["TuneHyperparameters"]["Arguments"]
    assert not set(SEARCHED) & set(tuning["TrainingJobDefinition"]["StaticHyperParameters"])
    ranges = tuning["HyperParameterTuningJobConfig"]["ParameterRanges"]
    assert [found["Name"] for found in ranges["IntegerParameterRanges"]] == ["hidden_units"]
    assert {found["Name"]: found["ScalingType"] for found in ranges["ContinuousParameterRanges"]} == {
        "lr": "Logarithmic",
        "dropout": "Linear",
        "weight_decay": "ReverseLogarithmic",
    }
    winner = "Steps.TuneHyperparameters.BestTrainingJob.TunedHyperParameters"
    training = steps["TrainWithDebugger"]["Arguments"]["HyperParameters"]
    for name in ("lr", *SEARCHED):
        assert training[name] == {"Get": f"{winner}['{name}']"}
    assert "batch_size" not in training


def test_what_is_not_searched_is_the_same_for_trials_and_training(compiled):
    steps = steps_of(compiled("model: {hidden_units: 512, dropout: 0.3}\n"))
    trials = steps["TuneHyperparameters"]["Arguments"]["TrainingJobDefinition"]["StaticHyperParameters"]
    training = steps["TrainWithDebugger"]["Arguments"]["HyperParameters"]
    assert {name: trials[name] for name in SEARCHED} == {name: training[name] for name in SEARCHED}
    assert (trials["hidden_units"], trials["dropout"]) == ("512", "0.3")
    programs = (trials["sagemaker_program"], training["sagemaker_program"])
    assert programs == ("trial.py", "train.py")
    assert not any(name.startswith("debug") for name in trials)
