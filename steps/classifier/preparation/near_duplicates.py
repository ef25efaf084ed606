"""Near-duplicates: resized, re-encoded or cropped copies, and bursts, found by the distance of small views' embeddings.

How near is too near follows from the data set: much nearer than images of different classes come to one another, and
than a class's images usually are, as those of zeros all look alike. The distance is 1 - cosine, around the mean.
"""

from dataclasses import replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from classifier.data.dataset import printable
from classifier.data.images import decode, to_pixels
from classifier.job.failures import StepError
from classifier.job.system import core_count, each, progress
from classifier.model.backbone import load_backbone
from classifier.preparation.embedding import Batch, Embedded, Embedder, EmbeddingCache, Recipe, batches

SIDE = 3 / 8  # of the image size: a seventh of the time, and distances tell as much
STRANGERS = (1 / 3, 0.5)  # the threshold: this share of that quantile of distances to the nearest of other classes
CLASSMATES = (0.2, 0.25)  # and in no class more than this share of that quantile of all distances within
SAMPLE, CLASS_SAMPLE = 2000, 300  # images that the former, and of each class the latter is estimated from
BLOCK_BYTES = 64 << 20  # of distances at a time
MOST_NEIGHBOURS = 16  # of an image are followed; they connect a group as well as all do
LISTED = 300  # pairs in the manifest

Vectors = npt.NDArray[np.float32]


def small_embedder(backbone: str, weights_dir: Path, recipe: Recipe) -> Embedder:
    """Return what embeds small plain views; of the recipe's size where the backbone takes no smaller ones."""
    side = int(SIDE * recipe.preprocess.image_size)
    plain = replace(recipe, augmented_views=0, flip=False, seed=0)
    small = replace(plain, preprocess=replace(recipe.preprocess, image_size=side, resize_to=side))
    try:
        return Embedder(load_backbone(backbone, weights_dir, side), small)
    except StepError:
        return Embedder(load_backbone(backbone, weights_dir, recipe.preprocess.image_size), plain)


def embed_small(images: pd.DataFrame, root: Path, embedder: Embedder, cache: EmbeddingCache) -> Vectors:
    """Return the images' embeddings, (N, D), from the cache where it has them."""
    done = each(
        partial(embed_batch, root, embedder),
        batches(images.assign(split="test"), embedder, cache),
        workers=core_count(),
    )
    features = []
    try:
        for image, is_new, found in progress(chain.from_iterable(done), "compared", len(images)):
            features.append(found[0])
            if is_new:
                cache.add(image.sha256, found)
    finally:
        cache.write()
    return np.asarray(features, np.float32)


def embed_batch(root: Path, embedder: Embedder, batch: Batch) -> list[Embedded]:
    """Decode the images of a batch that are not known, and embed them."""
    torch.set_num_threads(1)  # of this worker
    recipe = embedder.recipe
    read = partial(decode, max_pixels=recipe.max_pixels, preprocess=recipe.preprocess)
    new = [(root / image.path).read_bytes() for image, known in batch if known is None]
    pixels = [to_pixels(read(content), recipe.preprocess) for content in new]
    found = iter(embedder.features(np.stack(pixels)) if new else ())
    return [(image, known is None, next(found)[None] if known is None else known) for image, known in batch]


def find_pairs(features: Vectors, labels: npt.NDArray[Any]) -> tuple[npt.NDArray[np.int64], Vectors, Vectors]:
    """Return the near-duplicates among N images: pairs of rows (P, 2), their distances (P,), and thresholds (N,)."""
    vectors = features - features.mean(axis=0)
    vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-6)
    thresholds = choose_thresholds(vectors, labels)
    pairs, distances = [np.empty((0, 2), np.int64)], [np.empty(0, np.float32)]
    for rows in blocks(np.arange(len(vectors)), len(vectors)):
        block = 1 - vectors[rows] @ vectors[rows[0] :].T
        block[np.tril_indices(len(rows), m=block.shape[1])] = np.inf  # itself, and pairs that are looked at elsewhere
        is_near = block < np.minimum(thresholds[rows, None], thresholds[rows[0] :])
        for row in np.flatnonzero(is_near.any(axis=1)):
            near = np.flatnonzero(is_near[row])
            near = near[np.argsort(block[row, near], kind="stable")[:MOST_NEIGHBOURS]]
            pairs.append(np.column_stack([np.full(len(near), rows[row]), rows[0] + near]))
            distances.append(block[row, near])
    order = np.argsort(np.concatenate(distances), kind="stable")
    return np.concatenate(pairs)[order], np.concatenate(distances)[order], thresholds


def choose_thresholds(vectors: Vectors, labels: npt.NDArray[Any]) -> Vectors:
    """Return for each image, by its class, the distance below which another one is a near-duplicate."""
    shuffled = np.random.default_rng(0).permutation(len(vectors))
    nearest = [
        np.where(labels[rows, None] == labels, np.inf, 1 - vectors[rows] @ vectors.T).min(axis=1)
        for rows in blocks(shuffled[:SAMPLE], len(vectors))
    ]
    share, quantile = STRANGERS
    thresholds = np.full(len(vectors), share * np.quantile(np.concatenate(nearest), quantile), np.float32)
    share, quantile = CLASSMATES
    for label in np.unique(labels):
        rows = shuffled[labels[shuffled] == label][:CLASS_SAMPLE]
        within = (1 - vectors[rows] @ vectors[rows].T)[np.triu_indices(len(rows), 1)]
        of_class = share * np.quantile(within, quantile) if len(within) else np.inf
        thresholds[labels == label] = np.minimum(thresholds[labels == label], of_class)
    return thresholds


def blocks(rows: npt.NDArray[np.int64], count: int) -> list[npt.NDArray[np.int64]]:
    """Return the rows in parts whose distances to `count` images fit into BLOCK_BYTES."""
    size = max(1, BLOCK_BYTES // (4 * count))
    return [rows[start : start + size] for start in range(0, len(rows), size)]


def connected(pairs: npt.NDArray[np.int64], index: "pd.Index[Any]") -> "pd.Series[Any]":
    """Return for each image the number of what it is connected with by pairs."""
    graph = coo_array((np.ones(len(pairs), np.int8), (pairs[:, 0], pairs[:, 1])), shape=(len(index), len(index)))
    return pd.Series(connected_components(graph, directed=False)[1], index)


def describe(
    images: pd.DataFrame, pairs: npt.NDArray[np.int64], distances: Vectors, thresholds: Vectors
) -> dict[str, Any]:
    """Return what the manifest says of near-duplicates, the nearest pairs first; those of two classes apart."""
    paths, labels = images["path"].map(printable).to_numpy(), images["label"].to_numpy()
    listed = [
        {"paths": paths[pair].tolist(), "distance": round(float(distance), 4)}
        for pair, distance in zip(pairs, distances, strict=True)
    ]
    differ = labels[pairs[:, 0]] != labels[pairs[:, 1]]
    return {
        "near_duplicates": listed[:LISTED],
        "near_duplicate_count": len(np.unique(pairs)),  # images that have one
        "near_duplicate_threshold": round(float(thresholds.max(initial=0)), 4),  # of the class with the largest
        "near_duplicates_of_two_classes": [pair for pair, is_so in zip(listed, differ, strict=True) if is_so][:LISTED],
    }
