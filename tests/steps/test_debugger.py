"""smdebug reads what the final training saved; and whatever breaks smdebug, the training goes on."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.steps.conftest import Prepared, Run, Trained, channels

FINAL = "--final true --epochs 2 --batch_size 16 --debug_save_interval_steps 2".split()
STEPS_PER_EPOCH = 5  # 72 images in batches of 16
EPOCHS = 6


def read(directory: Path):  # type: ignore[no-untyped-def]
    from smdebug.trials import create_trial

    return create_trial(str(directory))
