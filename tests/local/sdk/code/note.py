import sys
from pathlib import Path

Path("/opt/ml/processing/note/note.txt").write_text(" ".join(sys.argv[1:]))
