"""Multi-task classifiers of comments: trained, judged and used.

    config = polarity.resolve("quickstart").config          # or resolve(file=Path("polarity.yaml"))
    polarity.fit(config, "runs/first")                      # trains, judges, writes the run folder
    model = polarity.load("runs/first")                     # a Classifier
    model.predict(["a comment", "another"])                 # a DataFrame: label, probabilities, confidence
    polarity.explain(model, ["a comment"])                  # each word's part in the decision
    polarity.Run.open("runs/first").rows("test")            # what a run folder holds

Each is imported when it is asked for: torch takes seconds. (`polarity.train` is the room of the training loop, so the function is `fit`.)
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from polarity.config import Config
    from polarity.errors import PolarityError
    from polarity.predict import Classifier
    from polarity.predict import load_classifier as load
    from polarity.predict.classifier import explain
    from polarity.resolve import resolve
    from polarity.run import Run
    from polarity.workflows.export import export
    from polarity.workflows.train import train as fit

_PLACES = {
    "Classifier": "polarity.predict:Classifier",
    "Config": "polarity.config:Config",
    "PolarityError": "polarity.errors:PolarityError",
    "Run": "polarity.run:Run",
    "explain": "polarity.predict.classifier:explain",
    "export": "polarity.workflows.export:export",
    "fit": "polarity.workflows.train:train",
    "load": "polarity.predict:load_classifier",
    "resolve": "polarity.resolve:resolve",
}
__all__ = ["Classifier", "Config", "PolarityError", "Run", "__version__", "explain", "export", "fit", "load", "resolve"]


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'polarity' has no attribute {name!r}; it has {', '.join(sorted(_PLACES))}")
    from polarity.quiet import importing

    module, _, wanted = _PLACES[name].partition(":")
    with importing():
        return getattr(import_module(module), wanted)


def __dir__() -> list[str]:
    return sorted({*globals(), *_PLACES})
