"""Small trainings with one known fault each, and healthy ones: does the debugger name the fault, and nothing else?

    python benchmarks/debugger_corpus.py                         the set that the rules' defaults are tuned on
    python benchmarks/debugger_corpus.py --set kept              a second one, by now used for tuning as well
    python benchmarks/debugger_corpus.py --set fresh             the set that nobody has tuned on
    python benchmarks/debugger_corpus.py --keep DIR              the trainings' folders stay there
    python benchmarks/debugger_corpus.py --judge DIR             judges such folders again, without training
    python benchmarks/debugger_corpus.py --only "rate 0" --only cnn     faults and networks with all of these words

Each training (debugger_corpus/cases.toml) is a process of its own, two at a time, judged afterwards by the shipped
rules. A fault is named where the first cause of the diagnosis is one that the case accepts; a healthy training is
flagged where any rule has found something. Intervals are Wilson's, of 95 %.
"""

import argparse
import itertools
import os
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from math import sqrt
from pathlib import Path
from typing import Any

import numpy as np

REPOSITORY = Path(__file__).resolve().parents[1]
CORPUS = REPOSITORY / "benchmarks" / "debugger_corpus"
sys.path[:0] = [str(REPOSITORY), str(REPOSITORY / "steps")]

from pipeline.config.sections import DEFAULT_RULES  # noqa: E402
from watch.read.source import find  # noqa: E402
from watch.rules.judge import judge_folder  # noqa: E402

CASES = tomllib.loads((CORPUS / "cases.toml").read_text())
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(REPOSITORY / "steps"), "OMP_NUM_THREADS": "1"}
STALL_THRESHOLD_SECONDS = 5  # instead of AWS's 1,800
GPU_RULES = ("LowGPUUtilization", "GPUMemoryIncrease", "LoadBalancing", "BatchSize")  # the trainings have none


@dataclass(frozen=True)
class Case:
    """One training: which causes name its fault (none: it is healthy), and what was found."""

    fault: str
    network: str
    seed: int
    accepted: tuple[str, ...]
    status: dict[str, Any] = field(default_factory=dict, compare=False)

    def folder(self, parent: Path) -> Path:
        """Where its training writes."""
        return parent / self.fault.replace(" ", "-") / self.network.replace(" ", "-") / str(self.seed)

    @property
    def causes(self) -> list[str]:
        """Of the diagnosis, the first one first."""
        return [entry["cause"] or "unnamed" for entry in self.status["diagnosis"]]

    @property
    def fired(self) -> list[str]:
        """Rules that have found something."""
        return [rule["name"] for rule in self.status["rules"] if rule["status"] == "IssuesFound"]

    @property
    def right(self) -> bool:
        """Whether the fault is named first; of a healthy training, whether no rule has found anything."""
        return any(cause in self.accepted for cause in self.causes[:1]) if self.accepted else not self.fired

    @property
    def without_gpu(self) -> bool:
        """Whether every rule of GPUs found nothing and says that it could not judge."""
        rules = [rule for rule in self.status["rules"] if rule["name"] in GPU_RULES]
        return all(rule["status"] != "IssuesFound" and not rule["judged"] for rule in rules)


def main() -> None:
    """Train, judge, print."""
    np.seterr(all="ignore")  # what is not finite is what rules look for
    asked = parse_arguments()
    cases = [
        case
        for case in all_cases(asked.set, asked.seeds)
        if all(word in f"{case.fault} {case.network}" for word in asked.only)
        and (not asked.judge or (case.folder(asked.judge) / "tensors").is_dir())
    ]
    with tempfile.TemporaryDirectory(prefix="debugger-corpus-") as scratch, ProcessPoolExecutor(asked.jobs) as pool:
        if asked.judge:
            work = partial(judged, parent=asked.judge)
        else:
            work = partial(trained, parent=asked.keep or Path(scratch), chosen=asked.set)
        found = list(pool.map(work, cases))
    lines = [*table(found), "", *summary(found)]
    print("\n".join(lines))
    if asked.write:
        write(asked.write, asked.set, lines)


def all_cases(chosen: str, seeds: int) -> list[Case]:
    """Every training of the set, in the order of its table."""
    return [
        Case(fault, network, seed, tuple(found["causes"]))
        for fault, found in CASES[chosen].items()
        for network in found["networks"]
        for seed in range(seeds)
    ]


def trained(case: Case, *, parent: Path, chosen: str) -> Case:
    """Train, judge, and say so in one line."""
    folder = case.folder(parent)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    command = [sys.executable, str(CORPUS / "training.py"), "--set", chosen, "--fault", case.fault]
    command += ["--network", case.network, "--seed", str(case.seed), "--out", str(folder)]
    began = time.monotonic()
    with (folder / "log.txt").open("w") as log:
        ended = subprocess.run(command, env=ENVIRONMENT, stdout=log, stderr=log, check=False)
    if ended.returncode:
        sys.exit(f"A training failed: {folder / 'log.txt'}")
    found = judged(case, parent=parent)
    outcome = f"{time.monotonic() - began:.1f} s, {', '.join(found.causes) or 'no cause'}"
    print(f"{case.fault}, {case.network}, seed {case.seed}: {outcome}", file=sys.stderr, flush=True)
    return found


def judged(case: Case, *, parent: Path) -> Case:
    """The case with what the shipped rules say of its folder."""
    entries = {**DEFAULT_RULES, "StalledTraining": {"threshold": STALL_THRESHOLD_SECONDS}}
    return replace(case, status=judge_folder(find(case.folder(parent)), entries))


def table(cases: list[Case]) -> list[str]:
    """A row for each fault and network, over all seeds."""
    lines = ["| fault | network | right | first cause | rules that found something |", "|---|---|---|---|---|"]
    for (fault, network), group in itertools.groupby(cases, lambda case: (case.fault, case.network)):
        found = list(group)
        firsts = Counter(case.causes[0] if case.causes else "none" for case in found)
        rules = Counter(name for case in found for name in case.fired)
        right = f"{sum(case.right for case in found)} of {len(found)}"
        lines.append(f"| {fault} | {network} | {right} | {counted(firsts)} | {counted(rules)} |")
    return lines


def counted(names: Counter[str]) -> str:
    """Names, and how often each, where not once."""
    return ", ".join(name if count == 1 else f"{name} x{count}" for name, count in names.most_common()) or "none"


def summary(cases: list[Case]) -> list[str]:
    """The shares with their intervals, and what was found in healthy trainings."""
    faulty, healthy = [case for case in cases if case.accepted], [case for case in cases if not case.accepted]
    findings = Counter(name for case in healthy for name in case.fired)
    return [
        f"- Faults whose cause comes first: {share([case.right for case in faulty])}.",
        f"- Faults whose cause comes anywhere: {share([bool({*case.causes} & {*case.accepted}) for case in faulty])}.",
        f"- Healthy trainings with a finding: {share([not case.right for case in healthy])}; {findings.total()} "
        f"findings in {len(healthy)} trainings: {counted(findings)}.",
        f"- Trainings, all without a GPU, in which the rules of GPUs say that they could not judge: "
        f"{share([case.without_gpu for case in cases])}.",
    ]


def share(hits: list[bool]) -> str:
    """Such as "9 of 10 (90 %, interval 60 to 98 %)"; the interval is Wilson's."""
    total, z = len(hits), 1.96
    if not total:
        return "none were run"
    found = sum(hits) / total
    middle = (found + z * z / (2 * total)) / (1 + z * z / total)
    reach = z * sqrt(found * (1 - found) / total + z * z / (4 * total * total)) / (1 + z * z / total)
    return f"{sum(hits)} of {total} ({found:.0%}, interval {middle - reach:.0%} to {middle + reach:.0%})"


def write(path: Path, chosen: str, lines: list[str]) -> None:
    """Put the lines into the document, between the set's markers."""
    begin, end = f"<!-- {chosen} -->", f"<!-- end of {chosen} -->"
    before, _, rest = path.read_text().partition(begin)
    path.write_text("\n".join([before + begin, "", *lines, "", end + rest.partition(end)[2]]))


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--set", choices=CASES, default="tuning", help="of trainings (tuning)")
    parser.add_argument("--seeds", type=int, default=3, metavar="N", help="of each training (3)")
    parser.add_argument("--only", action="append", default=[], metavar="WORD", help="in the fault or the network")
    parser.add_argument("--jobs", type=int, default=2, metavar="N", help="at a time (2)")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="for the trainings' folders")
    parser.add_argument("--judge", type=Path, metavar="DIR", help="of folders that are judged again")
    parser.add_argument("--write", type=Path, metavar="FILE", help="whose table of this set is replaced")
    return parser.parse_args()


if __name__ == "__main__":
    main()
