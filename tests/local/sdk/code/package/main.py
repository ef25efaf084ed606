from pathlib import Path

from beside import VALUE

Path("/opt/ml/processing/values/v.txt").write_text(VALUE)
