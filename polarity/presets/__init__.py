"""The presets that come with the package: YAML files beside this one, and `strategy`, which is baseline with all ten points."""

from importlib.resources import files

DEFAULT = "baseline"
STRATEGY = "strategy"


def preset_names() -> list[str]:
    """All names that --preset takes, sorted."""
    return sorted([entry.name.removesuffix(".yaml") for entry in files(__name__).iterdir() if entry.name.endswith(".yaml")] + [STRATEGY])


def preset_text(name: str) -> str:
    """The YAML of a preset that has a file of its own."""
    return (files(__name__) / f"{name}.yaml").read_text("utf-8")
