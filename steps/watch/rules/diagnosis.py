"""What is wrong with a training, root first: findings that share a cause, or follow from one, in one sentence.

A cause explains others: ReLUs die, the loss explodes and all predictions become one class because the learning rate is
too high. What is explained is not said again, so that advice never contradicts itself.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

SEVERITIES = ("fatal", "problem", "hint")


class Cause(NamedTuple):
    """A reason for which trainings go wrong, and the causes that it explains."""

    headline: str
    advice: str
    explains: tuple[str, ...] = ()


STUCK = ("vanishing_gradients", "learning_rate_too_low", "wrong_labels", "one_class", "stalled", "overtrained")
BROKEN = ("exploded", "saturated", "dead_relus", "overfitting", *STUCK)
CAUSES: Mapping[str, Cause] = {  # roots first
    "bad_initialisation": Cause(
        "The weights began badly",
        "Use the framework's own initialisation: Kaiming for ReLU, Xavier for tanh, and no constants.",
        ("learning_rate_too_high", *BROKEN),
    ),
    "learning_rate_too_high": Cause("The learning rate is too high", "Try 10 times lower.", BROKEN),
    "exploded": Cause(
        "The numbers exploded",
        "Try a learning rate 10 times lower or gradient clipping, and look for targets or inputs that were not "
        "normalised, a division by 0 or a logarithm of 0 in the loss.",
        ("saturated", "dead_relus", "overfitting", *STUCK),
    ),
    "frozen": Cause(
        "A part of the network does not learn",
        "Give all parameters to the optimizer, and set requires_grad for what is to learn.",
        STUCK,
    ),
    "dead_relus": Cause(
        "ReLUs are dead",
        "A ReLU that never answers gets no gradient. Try a lower learning rate, biases that begin at 0, or LeakyReLU.",
        STUCK,
    ),
    "saturated": Cause(
        "Units are saturated",
        "Where tanh or sigmoid is flat there is no gradient. Normalise the inputs, begin with smaller weights, or use "
        "batch normalisation or ReLU.",
        STUCK,
    ),
    "vanishing_gradients": Cause(
        "Gradients vanish",
        "Use ReLU instead of sigmoid or tanh, batch normalisation, residual connections, or fewer layers.",
        STUCK,
    ),
    "learning_rate_too_low": Cause("The learning rate is too low", "Try 10 times higher.", STUCK),
    "class_imbalance": Cause(
        "Some classes have few examples",
        "Collect more of them, weight classes by their size, or leave out what is too rare.",
        ("one_class", "wrong_labels"),
    ),
    "wrong_labels": Cause(
        "What was learned holds for no other examples",
        "Check that inputs and labels belong together: order, shuffling, file names.",
        ("one_class", "overfitting", "overtrained", "stalled"),
    ),
    "one_class": Cause(
        "All predictions are one class",
        "Check that inputs differ from one another and are normalised, and that the classes are of similar size.",
        ("stalled", "overtrained"),
    ),
    "input_images": Cause(
        "The input images are not normalised",
        "Subtract the images' mean and divide by their deviation, channel by channel.",
        ("stalled",),
    ),
    "overfitting": Cause(
        "The network learns its examples by heart",
        "Stop earlier, or add dropout, weight decay, augmentation or more examples.",
        ("overtrained",),
    ),
    "overtrained": Cause("The last epochs brought nothing", "Use fewer epochs: the best one is long over."),
    "stalled": Cause(
        "The training makes no progress",
        "Look at the end of the log, and whether it waits for data, a full disk or another process; if steps go on, "
        "try another learning rate.",
    ),
    "waits_for_data": Cause(
        "The training waits for its data",
        "Load with more processes, decode once before the training, or keep the data in memory.",
    ),
    "machine": Cause("The machine is not used well", "See the rules: each says what to change."),
}


def diagnose(rules: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the diagnosis of rules/status.json from its rules; empty on a healthy run."""
    found: dict[str | None, list[Mapping[str, Any]]] = {}
    for rule in rules:
        if rule["status"] == "IssuesFound" and rule["fired"] and rule["rule"] != "ProfilerReport":  # it repeats others
            found.setdefault(rule["cause"] if rule["cause"] in CAUSES else None, []).append(rule)
    entries = []
    for cause, known in CAUSES.items():
        if own := found.pop(cause, []):
            explained = [rule for other in known.explains for rule in found.pop(other, [])]
            entries.append(_entry(cause, own, explained))
    entries += [_entry(None, [rule], []) for rule in found.get(None, [])]
    return sorted(entries, key=lambda entry: entry["severity"] == "hint")


def _entry(cause: str | None, own: list[Mapping[str, Any]], explained: list[Mapping[str, Any]]) -> dict[str, Any]:
    rules, known = [*own, *explained], CAUSES.get(cause or "")
    text = " ".join(list(dict.fromkeys(str(rule["fired"][-1]["sentence"]) for rule in own))[:2])
    agree = f" {len(rules)} rules agree." if len(rules) > 1 else ""
    first = text.partition(" ")[0]
    if known and first.isalpha() and first.istitle():  # a word, no tensor's name
        text = text[0].lower() + text[1:]
    return {
        "cause": cause,
        "severity": min((rule["severity"] for rule in rules), key=SEVERITIES.index),
        "sentence": f"{known.headline}: {text}{agree}" if known else f"{text}{agree}",
        "advice": own[0]["advice"] if known is None or cause == "machine" else known.advice,
        "rules": [rule["name"] for rule in rules],
    }
