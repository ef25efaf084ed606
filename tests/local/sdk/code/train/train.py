import argparse
import os
import pickle
import shutil
from pathlib import Path

import numpy
from helper import fit

parser = argparse.ArgumentParser()
parser.add_argument("--penalty", type=float)
rows = numpy.loadtxt(Path(os.environ["SM_CHANNEL_TRAIN"], "train.csv"), delimiter=",")
print(f"train:rows={len(rows)};")
folder = Path(os.environ["SM_MODEL_DIR"])
(folder / "model.pkl").write_bytes(pickle.dumps(fit(rows[:, 1:], rows[:, 0], parser.parse_args().penalty)))
shutil.copytree("served", folder / "code")
