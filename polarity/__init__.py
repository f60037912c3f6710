"""Multi-task classifiers of comments: trained, judged and compared. `fit` a run, `load` its classifier, or open its folder as a `Run`."""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["Run", "__version__", "fit", "load"]

if TYPE_CHECKING:
    from polarity.predict import load_classifier as load
    from polarity.run import Run
    from polarity.workflows.train import train as fit


def __getattr__(name: str) -> Any:
    """Imported when asked for: torch takes seconds. (`polarity.train` is the room of the training loop, so the function is `fit`.)"""
    if name == "load":
        from polarity.predict import load_classifier

        return load_classifier
    if name == "Run":
        from polarity.run import Run

        return Run
    if name == "fit":
        from polarity.workflows.train import train

        return train
    raise AttributeError(f"module 'polarity' has no attribute {name!r}")
