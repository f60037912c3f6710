"""What an ablation spends between its trials: the time from one trial's end to the next one's, less the training in between."""

import itertools
import json
import re
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from polarity.artifacts import STUDY
from polarity.benchmark.processes import watch_lines
from polarity.benchmark.timing import Spread
from polarity.errors import PolarityError

_ENDED = re.compile(r"(\S+): finished after")
EPOCHS = 2


def trials(options: list[str], *, repeats: int, say: Callable[[str], None]) -> dict[str, Any]:
    """{"first", "next": seconds a trial that are not training}; `options` are those of `polarity ablate`.

    A study of two arms alike, `repeats` + 1 trials or one more, one at a time in one process, which the first trial starts. Validation,
    scoring and writing the results are not training.
    """
    with tempfile.TemporaryDirectory(prefix="polarity-trials-") as folder:
        arms = Path(folder) / "arms.yaml"
        arms.write_text("- {name: baseline}\n- {name: again, set: {train.log_every: 20}}\n")
        study = Path(folder) / "study"
        plan = ["--design", "custom", "--arms", str(arms), "--seeds", str(-(-(repeats + 1) // 2)), "--no-asha", "--max-concurrent", "1"]
        command = [sys.executable, "-m", "polarity.cli", "ablate", *options, *plan, "--epochs", str(EPOCHS), "--study-dir", str(study)]
        ends: list[tuple[str, float]] = []

        def see(seconds: float, line: str) -> None:
            if found := _ENDED.search(line):
                ends.append((found[1], seconds))

        last = watch_lines(command, see)
        if len(ends) < 2:
            raise PolarityError(f"the study of trials did not end:\n{''.join(last)}")
        record = json.loads((study / STUDY).read_text())
    by_id = {trial["id"]: trial for trial in record["trials"]}
    after = [(by_id[name], seconds - before) for (_, before), (name, seconds) in itertools.pairwise(ends)]
    spent = [seconds - trial["train_seconds"] for trial, seconds in after][:repeats]
    first = by_id[ends[0][0]]
    alone = first["seconds"] - first["train_seconds"]
    result = {
        "first": Spread.of([alone]).to_json(),
        "next": Spread.of(spent).to_json(),
        "training": Spread.of([trial["train_seconds"] for trial, _ in after]).to_json(),
        "epochs": EPOCHS,
    }
    say(f"between trials: {Spread.of(spent)} s that are not training; the first one {alone:.1f} s")
    return result
