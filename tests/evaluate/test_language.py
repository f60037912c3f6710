"""Languages of sentences that were written for this test, and the slices made of them."""

import numpy as np
import pyarrow as pa
import pytest

from polarity.errors import DataError
from polarity.evaluate import slices as language
from polarity.evaluate.slices import LANGUAGES, language_slices, languages
from tests.evaluate.judged import PLAN, judged

SENTENCES = {
    "tagalog": [
        "Sana naman ay matulungan ang mga mahihirap sa bayan natin",
        "Bakit ba ang mahal na ng bigas ngayon",
        "Kawawa naman ang mga tao, wala silang makain",
        "Nakakahiya ang ginagawa ng mga pulitiko sa atin",
        "kailan pa kaya magbabago ang ating bansa",
    ],
    "cebuano": [
        "Dili na ko motuo sa ilang mga saad matag eleksyon",
        "Ngano nga mahal na man kaayo ang bugas karon",
        "Kinahanglan nga mobayad ang tanan nga nangawat sa kwarta sa lungsod",
        "Mas maayo pa nga mohilom na lang mo",
        "Pila kaha ang gibayad kaniya",
    ],
    "english": [
        "They should really help the poor people in our town",
        "Why is rice so expensive these days",
        "He keeps lying to us, do not trust him",
        "Nothing will change if all you do is fight",
        "you are right my friend, I think so too",
    ],
    "mixed": [
        "Kung ako sa inyo I will not vote for that person again",
        "They promised a new road pero hangtod karon wala gihapon",
        "Stop the drama na, mag work na lang tayo for the country",
        "Respect na lang natin ang decision ng court, let us move on",
        "The problem kay ang mga tawo mismo dili mosunod sa law",
    ],
}


@pytest.fixture(autouse=True)
def needs_pycld2() -> None:
    pytest.importorskip("pycld2")


@pytest.mark.parametrize("expected", SENTENCES)
def test_sentences(expected: str) -> None:
    """One of five may be missed: the module states its rate, and it is not perfect."""
    assert languages(SENTENCES[expected]).count(expected) >= 4


def test_what_is_in_no_language_and_what_the_library_refuses() -> None:
    odd = ["", "👍👍", "https://example.org/x @someone", "\x00\x08\ud800\uffff", "1234 !!"]
    assert languages(odd) == ["other"] * 5
    assert languages(["Bakit ba ang mahal\x00 na ng bigas\x1b ngayon\ud83d", "word " * 200_000]) == ["tagalog", "english"]


def test_slices_hold_the_rows_of_each_language() -> None:
    texts: list[str] = []
    for number, sentences in enumerate(SENTENCES.values()):
        texts += [sentences[i % 5] for i in range((40, 20, 60, 0)[number])]
    predictions = judged(120, skill=1.0)
    order = np.random.default_rng(0).permutation(120)
    shuffled = language_slices(predictions.take(pa.array(order)), [texts[i] for i in order], PLAN, resamples=200)
    assert [(each["language"], each["rows"]) for each in shuffled] == [("english", 60), ("tagalog", 40)]  # 20 rows are too few
    plain = language_slices(predictions, texts, PLAN, resamples=200)
    assert shuffled == plain and all(each["language"] in LANGUAGES for each in plain)
    right = predictions.slice(60, 60)
    agreed = np.mean([a == b for a, b in zip(right["sentiment_label"].to_pylist(), right["sentiment_prediction"].to_pylist(), strict=True)])
    assert plain[0]["tasks"]["sentiment"]["accuracy"] == pytest.approx(agreed)


def test_without_the_extra_the_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(language, "find_spec", lambda name: None)
    with pytest.raises(DataError, match=r"polarity\[languages\]"):
        languages(["anything"])
