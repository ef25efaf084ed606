"""Rules on tensors that the user chooses, by collection or by name."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from watch.rules.base import Array, Mode, TensorRule, Trial
from watch.rules.parameters import ParameterError, names, patterns


@dataclass(kw_only=True)
class ChosenTensorsRule(TensorRule):
    """A rule on the tensors that are in one of `collection_names` or match one of `tensor_regex`."""

    needs = "no tensor of the chosen collections or names was saved"
    choice_required: ClassVar[bool] = True

    collection_names: tuple[str, ...] | None = names()
    tensor_regex: tuple[str, ...] | None = patterns()

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.choice_required and not (self.collection_names or self.tensor_regex):
            raise ParameterError(["collection_names or tensor_regex must say which tensors to look at."])

    def chosen_names(self, trial: Trial, step: int, mode: Mode) -> list[str]:
        return self.names(trial, step, mode, collections=self.collection_names or (), regex=self.tensor_regex or ())

    def chosen(self, trial: Trial, step: int, mode: Mode) -> Iterator[tuple[str, Array]]:
        """Names and values of the chosen tensors that hold anything."""
        for name in self.chosen_names(trial, step, mode):
            value = trial.tensor(name).value(step, mode=mode)
            if value.size:
                yield name, value
