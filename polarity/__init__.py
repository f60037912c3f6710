"""Multi-task classifiers of comments: trained, judged and compared. `load` a trained run, or `fit` one from Python."""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["__version__", "fit", "load"]

if TYPE_CHECKING:
    from polarity.predict import load_classifier as load
    from polarity.workflows.train import train as fit


def __getattr__(name: str) -> Any:
    """Imported when asked for: torch takes seconds. (`polarity.train` is the room of the training loop, so the function is `fit`.)"""
    if name == "load":
        from polarity.predict import load_classifier

        return load_classifier
    if name == "fit":
        from polarity.workflows.train import train

        return train
    raise AttributeError(f"module 'polarity' has no attribute {name!r}")
