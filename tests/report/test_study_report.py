"""The page of a study: its numbers are those of the artifacts, everything is inside it, and nothing in it is markup of a user's."""

import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest
from study_folder import CONFIRMED, RUNGS, trials, write_study

from polarity.artifacts import EFFECTS, STUDY, RunFolder
from polarity.errors import RunError
from polarity.report.study import render_study
from polarity.strategy import CLAIMS_NOTE
from polarity.study import Study
from polarity.workflows.report import report


class Page(HTMLParser):
    """The words of each section, and every tag with its attributes; raises nothing, but notes what is left open."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.sections: dict[str, str] = {}
        self._open: list[str] = []
        self._section = "head"
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "section":
            self._section = str(dict(attrs)["id"])

    def handle_data(self, data: str) -> None:
        self.sections[self._section] = " ".join((self.sections.get(self._section, "") + " " + data).split())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_study(tmp_path_factory.mktemp("study"))


@pytest.fixture(scope="module")
def page(folder: Path) -> Page:
    return Page(render_study(str(folder)))


def points(value: float) -> str:
    return f"{100 * value:+.1f}".replace("-", "\N{MINUS SIGN}")


def test_every_effect_is_in_the_page_as_it_is_in_the_table(folder: Path, page: Page) -> None:
    rows = RunFolder.at(folder).read_parquet(EFFECTS).to_pylist()
    assert {row["arm"] for row in rows} == set(CONFIRMED) - {"baseline"}
    for row in rows:
        assert points(row["difference"]) in page.sections["classes"]
        if row["metric"] == "overall":
            limits = f"{points(row['low'])} to {points(row['high'])}"
            assert limits in page.sections["effects"] and row["verdict"] in page.sections["effects"]
            assert f"{points(row['claim_low'])} to {points(row['claim_high'])}" in page.sections["effects"]


def test_the_finding_stands_first(page: Page) -> None:
    head = page.sections["head"]
    assert re.search(r"helps tier-1 \+.* hurts tier-3 .* no evidence tier-2", head)
    assert "inner validation rows 850" in head and "effect rows (validation) 900" in head
    assert "1 trial failed" in head and "Fewer than the 3 confirming seeds are paired for tier-3" in head


def test_all_that_a_study_owes_is_there(page: Page) -> None:
    wanted = ["effects", "claims", "compute", "classes", "spread", "curves", "asha", "priors", "trials", "reproduce"]
    assert [name for name in page.sections if name != "head"] == wanted
    assert CLAIMS_NOTE in page.sections["claims"]
    assert "3.1" in page.sections["spread"] and "measured, from the spread found" in page.sections["spread"]
    assert "tier-4 (seed 0)" in page.sections["asha"] and "33%" in page.sections["asha"]
    assert "Exploration" in page.sections["curves"] and "Confirmation" in page.sections["curves"]
    for trial in trials():
        assert trial["id"] in page.sections["trials"]
        assert f"polarity train {trial['run_dir']}/config.yaml" in page.sections["reproduce"]
    assert "polarity ablate --design only --seeds 3 --data a&b.csv" in page.sections["reproduce"]


def test_each_rung_is_drawn_where_trials_were_stopped(page: Page) -> None:
    uprights = [attrs["x1"] for tag, attrs in page.tags if tag == "line" and attrs.get("class") == "upright"]
    assert uprights == [f"{100 * rung:.2f}%" for rung in RUNGS]


def test_effective_priors_are_those_of_the_ledgers(folder: Path, page: Page) -> None:
    ledger = RunFolder.at(folder).read_json("trials/confirm-tier-1-s11/ledger.json")
    for entries in ledger["tasks"].values():
        for entry in entries:
            assert f"{entry['effective_prior']:.0%}" in page.sections["priors"]


def test_the_page_is_one_file_and_nothing_of_a_users_is_markup(folder: Path, page: Page) -> None:
    html = render_study(str(folder))
    assert {"script", "link", "iframe", "img"}.isdisjoint(tag for tag, _ in page.tags)
    assert not re.search(r"(?:src|href)=\"(?!#)", html) and "url(" not in html and "http" not in html.replace("http-equiv", "")
    assert "&lt;script&gt;alert(1)" in html and "&lt;b&gt;loss&lt;/b&gt; is NaN" in html
    assert str(folder) not in html and "/somewhere" not in html and "a&amp;b.csv 12ab" in html


def test_a_study_that_is_not_done_says_so(tmp_path: Path) -> None:
    waiting = [{**t, "status": "pending", "curve": [], "overall": None, "progress": 0.0, "epochs": 0} for t in trials()]
    folder = write_study(tmp_path, trials=waiting, detectable=None, asha=None, savings=None, asha_replay=None, equal_compute=None)
    (folder / EFFECTS).unlink()
    head = Page(render_study(str(folder))).sections["head"]
    assert "No effects yet" in head and "17 trials have not ended" in head


def test_one_seed_decides_nothing(tmp_path: Path) -> None:
    folder = write_study(tmp_path)
    table = RunFolder.at(folder).read_parquet(EFFECTS)
    rows = [{**row, "low": None, "high": None, "p": None, "p_holm": None} for row in table.to_pylist()]
    for row in rows:
        row["verdict"] = "no evidence" if row["metric"] == "overall" else None
    RunFolder.at(folder).write_parquet(EFFECTS, type(table).from_pylist(rows, schema=table.schema))
    assert "One seed shows no spread" in Page(render_study(str(folder))).sections["head"]


def test_a_folder_without_a_study_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"no study here .*polarity ablate"):
        Study.open(str(tmp_path))
    RunFolder.at(tmp_path).write_json(STUDY, {"name": "x", "design": "only"})
    with pytest.raises(RunError, match="has no level, arms, seeds, reference, trials"):
        Study.open(str(tmp_path))


def test_synthetic_comments_are_announced(tmp_path: Path) -> None:
    html = render_study(str(write_study(tmp_path, config="data:\n  source: sample:300\n")))
    assert '<div class="banner" role="alert">SYNTHETIC' in html


def test_a_study_given_as_a_uri(folder: Path, page: Page, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "a study")
    said: list[str] = []
    written = Path(report((tmp_path / "a study").as_uri(), say=said.append))
    assert written == tmp_path / "a study" / "report.html" and said == [f"report: {written}"]
    assert Page(written.read_text(encoding="utf-8")).sections["effects"] == page.sections["effects"]
    with pytest.raises(RunError, match="no run here"):
        report(tmp_path.as_uri(), say=said.append)


def test_the_real_screen_that_is_kept_makes_its_page() -> None:
    """The record in jobs/studies holds no comments, and all that the page needs."""
    place = Path(__file__).parents[2] / "jobs" / "studies" / "2026-11-27-screen-points"
    study, page = Study.open(str(place)), Page(render_study(str(place)))
    assert len(study.decided) == 10 and study.file.screen is not None
    for row in study.decided:
        assert f"{points(row['low'])} to {points(row['high'])}" in page.sections["effects"]
    assert "half-normal" in page.sections["interactions"] and "optim.schedule" in page.sections["interactions"]
    assert not list(place.rglob("predictions.parquet"))
