"""Which labels the audit suspects, where images are copies of one another and classes are few."""

import numpy as np

from classifier.audit.suspicion import strangeness, suspect

CLASSES = ["a", "b", "c"]
TWINS = 6


def images(seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features of 60 scenes, with six near-duplicates of each, their labels and scenes."""
    generator = np.random.default_rng(seed)
    labels = np.arange(60) % 3
    scenes = generator.normal(0, 2, (3, 64))[labels] + generator.normal(0, 2, (60, 64))
    features = np.repeat(scenes, TWINS, axis=0) + generator.normal(0, 0.05, (60 * TWINS, 64))
    return features.astype(np.float16), np.repeat(labels, TWINS), np.repeat(np.arange(60), TWINS)


def test_near_duplicates_with_the_same_wrong_label_do_not_vouch_for_one_another() -> None:
    features, labels, scenes = images()
    is_wrong = np.isin(scenes, [3, 10, 20])
    given = np.where(is_wrong, (labels + 1) % 3, labels)
    found = suspect(features, given, scenes, CLASSES)
    assert is_wrong[found.order[: is_wrong.sum()]].all()
    assert (found.suggested[is_wrong] == labels[is_wrong]).all() and found.wrong[is_wrong].all()
    alone = suspect(features, given, np.arange(len(labels)), CLASSES)
    assert (alone.quality > found.quality)[is_wrong].all() and alone.wrong[is_wrong].mean() < 0.5


def test_a_class_of_one_group_is_not_judged() -> None:
    features, labels, scenes = images()
    found = suspect(features, labels, np.where(labels == 2, 1000, scenes), CLASSES)
    assert (found.judged == (labels != 2)).all()
    assert not found.wrong[labels == 2].any()


def test_two_classes_of_a_few_images_are_judged() -> None:
    features, labels, scenes = images()
    rows = np.flatnonzero(labels < 2)[::TWINS][:6]
    found = suspect(features[rows], labels[rows], scenes[rows], CLASSES[:2])
    assert found.judged.all() and len(found.order) == 6


def test_the_image_that_is_least_like_the_others_is_the_strangest() -> None:
    features, labels, _ = images()
    features[7] = -features[7] + np.float16(9)
    strange = strangeness(features, labels)
    assert strange.argmax() == 7 and np.isclose(np.median(strange), 1)
