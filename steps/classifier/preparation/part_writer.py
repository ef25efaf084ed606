"""Parts of the data set, written: a shard of prepared images, embeddings and input means of each.

The workers go from one part to the next without a pause. What they hand over is put in order here.
"""

import heapq
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass

import numpy as np
from numpy.lib.format import open_memmap

from classifier.data.images import Pixels
from classifier.data.parts import part_name
from classifier.data.prepared_images import ShardWriter
from classifier.job.failures import say
from classifier.job.workers import Progress
from classifier.preparation.choices import Part, Preparation
from classifier.preparation.embedding import Embedded, Embedder
from classifier.preparation.embedding_cache import EmbeddingCache


@dataclass(frozen=True)
class Work:
    """Rows of a part that a worker does at once."""

    part: "PartWriter"
    rows: Sequence[int]
    known: bool  # whether they were embedded before


@dataclass(frozen=True)
class Done:
    """What has become of `Work`."""

    work: Work
    files: dict[int, bytes]  # the prepared images of the rows
    embedded: list[Embedded]  # unless they were known


def write_parts(
    parts: Iterable[Part], preparation: Preparation, embedder: Embedder, cache: EmbeddingCache, progress: Progress
) -> None:
    """Prepared images and embeddings; however this ends, what was embedded is in the cache."""
    begun: list[PartWriter] = []  # and not finished: two at most

    def all_work() -> Iterator[Work]:
        for part in parts:
            begun.append(PartWriter(part, preparation, embedder, cache))
            yield from begun[-1].work()

    try:
        with closing(embedder.each(lambda work: work.part.do(work), all_work())) as results:
            for done in results:
                for image in done.embedded:
                    cache.add(done.work.part.entries[image.row].sha256, image.features, image.means)
                done.work.part.take(done)
                if done.work.part.is_complete:
                    done.work.part.close()
                    begun.remove(done.work.part)
                progress.advance(len(done.work.rows), known=done.work.known)
    finally:
        cache.write()  # first: a shard that cannot be abandoned must not cost what was embedded
        for part in begun:
            part.abandon()
    if progress.known:
        say(f"{progress.known} of {progress.total} images were embedded before")


class PartWriter:
    """One part's shard of prepared images, embeddings (rows, views, D) float16 and input means (rows, 3) float32.

    The shard takes images in the rows' order, whichever of them are embedded and whichever are known.
    """

    def __init__(self, part: Part, preparation: Preparation, embedder: Embedder, cache: EmbeddingCache) -> None:
        self.entries, self.preparation, self.embedder = part.entries, preparation, embedder
        self._views = preparation.views_of(part.split)
        self._stem = preparation.output_dir / "embeddings" / part_name(part.split, part.number)
        shape = (len(part.entries), self._views, embedder.feature_dim)
        self._features = open_memmap(f"{self._stem}.npy", mode="w+", dtype=np.float16, shape=shape)  # type: ignore[no-untyped-call]
        self._means = np.zeros((len(part.entries), 3), np.float32)
        self._known: list[int] = []
        self._unknown: list[int] = []
        for row, entry in enumerate(part.entries):
            found = cache.find(entry.sha256, self._views)
            (self._known if found else self._unknown).append(row)
            if found:
                self._features[row], self._means[row] = found
        self._files: dict[int, bytes] = {}  # of rows that wait for those before them
        self._next = 0
        self._shard = ShardWriter(preparation.output_dir / part.split, part.split, part.number)

    def work(self) -> Iterable[Work]:
        """All of the part, by the first rows: so no more than one batch's images ever wait for others."""
        known = (Work(self, rows, True) for rows in self.embedder.batches(self._known, self._views))
        unknown = (Work(self, rows, False) for rows in self.embedder.batches(self._unknown, self._views))
        return heapq.merge(known, unknown, key=lambda work: work.rows[0])

    def do(self, work: Work) -> Done:
        """Decode, and embed what is not known. Any number of threads may."""
        files: dict[int, bytes] = {}
        if work.known:
            files = {row: self.preparation.encoded(self.entries[row])[1] for row in work.rows}
            return Done(work, files, [])

        def pixels_of(row: int) -> Pixels:
            image, files[row] = self.preparation.encoded(self.entries[row])
            return self.preparation.pixels(self.entries[row], image)

        return Done(work, files, self.embedder.embed_batch(pixels_of, work.rows))

    def take(self, done: Done) -> None:
        """Keep a result, and write what is next."""
        for image in done.embedded:
            self._features[image.row], self._means[image.row] = image.features, image.means
        self._files |= done.files
        while self._next in self._files:
            entry = self.entries[self._next]
            self._shard.add(entry.name, entry.label, self._files.pop(self._next))
            self._next += 1

    @property
    def is_complete(self) -> bool:
        """Whether all rows were taken."""
        return self._next == len(self.entries)

    def close(self) -> None:
        """Finish the files."""
        self._shard.close()
        np.save(f"{self._stem}_input_means.npy", self._means)

    def abandon(self) -> None:
        """Leave no shard."""
        self._shard.abandon()
