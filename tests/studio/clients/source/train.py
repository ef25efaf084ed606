"""Trains a model that multiplies by a factor: `loss` is how far the factor is from the data's."""

import json
import os
import shutil
import sys
from pathlib import Path

factor = float(os.environ["SM_HP_FACTOR"])
rows = Path(os.environ["SM_CHANNEL_TRAIN"], "rows.csv").read_text().split()
loss = sum(abs(factor * x - y) for x, y in (map(float, row.split(",")) for row in rows))
print(f"loss={loss:.3f}", flush=True)
if loss > 1000:
    sys.exit(f"the factor {factor:g} is far off")
folder = Path(os.environ["SM_MODEL_DIR"])
(folder / "model.json").write_text(json.dumps(factor))
shutil.copytree("served", folder / "code")
