"""The `finetuning` section of pipeline.yaml: how the backbone learns, where `model.finetune` lets it."""

from dataclasses import dataclass, fields

from pipeline.config.ranges import HYPERPARAMETERS, WHOLE_HYPERPARAMETERS
from pipeline.config.setting import auto_or, boolean, choice, setting, whole_number

FINETUNE = ("none", "last_block", "all")


@dataclass(frozen=True)
class FineTuningConfig:
    """The second stage of the training. None is auto."""

    epochs: int | None = setting(None, auto_or(WHOLE_HYPERPARAMETERS["finetune_epochs"]))
    batch_size: int = setting(16, WHOLE_HYPERPARAMETERS["finetune_batch_size"])
    lr: float = setting(0.0005, HYPERPARAMETERS["finetune_lr"])
    layer_lr_decay: float = setting(0.9, HYPERPARAMETERS["layer_lr_decay"])
    frozen_stride: int | None = setting(None, auto_or(WHOLE_HYPERPARAMETERS["frozen_stride"]))
    image_size_px: int | None = setting(None, auto_or(whole_number(at_least=32, at_most=2048)))
    crop_area_min: float | None = setting(None, auto_or(HYPERPARAMETERS["crop_area_min"]))
    randaugment_magnitude: int | None = setting(None, auto_or(WHOLE_HYPERPARAMETERS["randaugment_magnitude"]))
    mixup_alpha: float = setting(0.1, HYPERPARAMETERS["mixup_alpha"])
    cutmix_alpha: float = setting(0.0, HYPERPARAMETERS["cutmix_alpha"])
    erasing_probability: float = setting(0.1, HYPERPARAMETERS["erasing_probability"])
    ema_decay: float = setting(0.99, HYPERPARAMETERS["ema_decay"])
    batchnorm: str = setting("auto", choice("auto", "frozen", "train"))
    precision: str = setting("auto", choice("auto", "fp32", "bf16"))
    compile: bool = setting(False, boolean)

    @property
    def hyperparameters(self) -> dict[str, object]:
        """By the names that the training script has for them."""
        values = {HYPERPARAMETER_NAMES.get(field.name, field.name): getattr(self, field.name) for field in fields(self)}
        return {name: AUTO[name] if value is None else value for name, value in values.items()}


HYPERPARAMETER_NAMES = {
    "epochs": "finetune_epochs",
    "batch_size": "finetune_batch_size",
    "lr": "finetune_lr",
    "image_size_px": "finetune_image_size",
}
AUTO = {  # as the training script spells it
    "finetune_epochs": 0,
    "finetune_image_size": 0,
    "crop_area_min": 0,
    "frozen_stride": -1,
    "randaugment_magnitude": -1,
}
SEARCHABLE = {
    HYPERPARAMETER_NAMES.get(field.name, field.name) for field in fields(FineTuningConfig)
} & HYPERPARAMETERS.keys()
