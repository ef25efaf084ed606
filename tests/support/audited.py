"""A small prepared data set with some wrong labels, as PrepareData would have left it; no network is needed."""

import io
import json
from contextlib import closing
from pathlib import Path

import numpy as np
from PIL import Image

from classifier.data.prepared_images import ImageWriter

CLASSES = ["sky", "<grass> & co", "rust"]
COUNTS = {"train": 36, "validation": 12, "test": 12}
WRONG = ("train/3.png", "train/20.png", "test/5.png")  # they are of the next class
STRANGE = "validation/2.png"
FEATURES = 16


def write_prepared(root: Path) -> None:
    """PrepareData's outputs."""
    generator, listed, counts = np.random.default_rng(0), list[dict[str, object]](), {}
    for folder in ("embeddings", "manifest", *COUNTS):
        (root / folder).mkdir(parents=True)
    centres = generator.normal(0, 2, (len(CLASSES), FEATURES))
    for split, count in COUNTS.items():
        labels = np.repeat(np.arange(len(CLASSES)), count // len(CLASSES))
        names = [f"{split}/{number}.png" for number in range(count)]
        shown = np.array([(label + (name in WRONG)) % len(CLASSES) for label, name in zip(labels, names, strict=True)])
        features = centres[shown] + generator.normal(0, 1, (count, FEATURES))
        features[[name == STRANGE for name in names]] = 40 * generator.normal(0, 1, FEATURES)
        with closing(ImageWriter(root / split, split)) as shards:
            for number, (name, label) in enumerate(zip(names, labels.tolist(), strict=True)):
                buffer = io.BytesIO()
                Image.new("RGB", (12, 12), tuple(80 * (shown[number] == channel) for channel in range(3))).save(
                    buffer, "PNG"
                )
                shards.add(f"{len(listed):016x}.png", label, buffer.getvalue())
                listed.append({"name": f"{len(listed):016x}.png", "source": name, "split": split, "label": label})
        views = np.stack([features, np.zeros_like(features)], axis=1)  # the second, augmented view says nothing
        np.save(root / "embeddings" / f"{split}-000000.npy", views.astype(np.float16))
        np.save(root / "embeddings" / f"{split}_labels.npy", labels.astype(np.int64))
        numbers = np.arange(len(listed) - count, len(listed))
        np.save(root / "embeddings" / f"{split}_groups.npy", numbers)
        counts[split] = dict.fromkeys(CLASSES, count // len(CLASSES))
    pairs = [{"paths": ["train/0.png", "train/1.png"], "distance": 0.25}, {"paths": list(WRONG[:2]), "distance": 0.5}]
    manifest = {"classes": CLASSES, "counts": counts, "backbone": {"feature_dim": FEATURES}}
    manifest |= {"near_duplicates": pairs, "near_duplicates_of_two_classes": pairs[1:], "near_duplicate_count": 4}
    manifest |= {"corrections": {"applied": [{"path": "train/0.png", "from": "rust", "to": "sky"}],
                                 "left_out": [{"path": "gone.png", "label": "rust"}]}}  # fmt: skip
    (root / "manifest" / "manifest.json").write_text(json.dumps(manifest))
    lines = [json.dumps(entry) for entry in listed]
    (root / "manifest" / "images.jsonl").write_text("\n".join(lines) + "\n")
