import argparse
import os
from pathlib import Path

parser = argparse.ArgumentParser()
parser.add_argument("--point", type=float)
point = parser.parse_known_args()[0].point
print(f"score={1 - (point - 3) ** 2};", flush=True)
Path(os.environ["SM_MODEL_DIR"], "x.txt").write_text(str(point))
