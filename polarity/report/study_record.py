"""A study's artifacts as its page reads them: study.json, effects.parquet, and each trial's ledger and scores."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from polarity import artifacts
from polarity.artifacts import RunFolder
from polarity.errors import RunError
from polarity.yaml_text import parse_yaml

OVERALL = "overall"
_NEEDED = ("name", "design", "level", "arms", "seeds", "reference", "trials")


@dataclass(frozen=True)
class StudyRecord:
    """What a study folder holds. `study` is study.json; `effects` the rows of effects.parquet, none before the confirmation has ended.

    `ledgers` {arm: ledger.json of one of its trials}; `scores` {trial id: overall macro-F1 on the effect rows}.
    """

    study: dict[str, Any]
    effects: list[dict[str, Any]]
    ledgers: Mapping[str, dict[str, Any]]
    scores: Mapping[str, float]

    @property
    def arms(self) -> list[str]:
        """Names, in the study's order."""
        return [str(arm["name"]) for arm in self.study["arms"]]

    @property
    def decided(self) -> list[dict[str, Any]]:
        """The effects on overall macro-F1, which carry the verdicts: a screen's factors, else the confirmed arms."""
        return [row for row in self.of_stage("screen" if self.screen else "confirm") if row["metric"] == OVERALL]

    @property
    def confirmed(self) -> list[dict[str, Any]]:
        """The effects on overall macro-F1 of what confirms a screen."""
        return [row for row in self.of_stage("confirm") if row["metric"] == OVERALL] if self.screen else []

    @property
    def screen(self) -> dict[str, Any] | None:
        """study.json's `screen`, where the study is one."""
        return self.study.get("screen")

    def of_stage(self, stage: str) -> list[dict[str, Any]]:
        """Rows of the effects table; tables of before there were screens name no stage."""
        return [row for row in self.effects if (row.get("stage") or "confirm") == stage]

    @property
    def tested(self) -> bool:
        """Whether there are intervals: a single seed has none."""
        return any(row["low"] is not None for row in self.decided)

    @property
    def synthetic(self) -> bool:
        """Whether the comments are those of the made-up sample corpus."""
        tree = parse_yaml(str(self.study.get("config") or "{}"), f"{artifacts.STUDY}, config")
        data = tree.get("data") if isinstance(tree, dict) else None
        sources = [data.get(key) for key in ("source", "train", "validation")] if isinstance(data, dict) else []
        return any(str(source or "").split(":")[0] == "sample" for source in sources)

    @property
    def rows(self) -> dict[str, int]:
        """{what they are for: how many}."""
        data = self.study.get("data") or {}
        on = f" ({data['effects_on']})" if data.get("effects_on") else ""
        words = {"train": "training rows", "validation": "inner validation rows", "test": f"effect rows{on}"}
        return {words.get(part, part): int(count) for part, count in data.get("rows", {}).items()}

    def trials(self, *statuses: str, stage: str | None = None) -> list[dict[str, Any]]:
        """The trials of these statuses (all where none is given) and of one stage where it is given."""
        return [
            trial
            for trial in self.study["trials"]
            if (not statuses or trial["status"] in statuses) and (stage is None or trial["stage"] == stage)
        ]


def read_study(place: str) -> StudyRecord:
    """The record of a study folder (local or URI). Raises RunError: no study there, or a file that is damaged."""
    folder = RunFolder.at(place)
    if not folder.exists(artifacts.STUDY):
        raise RunError(f"{place}: no study here (it has no {artifacts.STUDY}); `polarity ablate` writes one")
    study = folder.read_json(artifacts.STUDY)
    lacking = [key for key in _NEEDED if key not in study]
    if lacking:
        raise RunError(f"{place}/{artifacts.STUDY}: has no {', '.join(lacking)}; it is damaged or was written by another version")
    effects = folder.read_parquet(artifacts.EFFECTS).to_pylist() if folder.exists(artifacts.EFFECTS) else []
    ledgers: dict[str, dict[str, Any]] = {}
    scores: dict[str, float] = {}
    for trial in study["trials"]:
        run = str(trial["run_dir"])
        if trial["arm"] not in ledgers and folder.exists(f"{run}/{artifacts.LEDGER}"):
            ledgers[trial["arm"]] = folder.read_json(f"{run}/{artifacts.LEDGER}")
        if trial["status"] == "finished" and folder.exists(f"{run}/{artifacts.METRICS}"):
            judged = folder.read_json(f"{run}/{artifacts.METRICS}")
            if "test" in judged:
                scores[trial["id"]] = float(judged["test"][OVERALL]["macro_f1"])
    return StudyRecord(study, effects, ledgers, scores)
