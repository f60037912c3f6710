"""The section `tracking` of the configuration."""

from urllib.parse import urlsplit

from pydantic import Field, model_validator

from polarity.config_base import Section


class TrackingConfig(Section):
    """Where a run's curves are shown besides its own files; nothing here changes a number of the run."""

    tensorboard: bool = True
    """Write event files into the run folder, for `tensorboard --logdir runs`."""
    mlflow: str | None = None
    """MLflow's tracking URI, such as http://host:5000 or sqlite:///mlflow.db; null: off. Needs the extra `mlflow`. User and password
    go into MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, not into the URI."""
    mlflow_experiment: str = Field(default="polarity", min_length=1)
    """MLflow's experiment; it is made where there is none."""
    wandb: str | None = Field(default=None, pattern=r"^[^/\\#?%:]+$")
    """Project of Weights & Biases; null: off. Needs the extra `wandb`; WANDB_API_KEY, WANDB_ENTITY and WANDB_MODE=offline are heeded."""

    @model_validator(mode="after")
    def _no_secrets(self) -> "TrackingConfig":
        parts = urlsplit(self.mlflow or "")
        if parts.password is not None or (parts.scheme in ("http", "https") and parts.username is not None):
            raise ValueError(
                "tracking.mlflow holds a user or password, and a run's config.yaml is no place for secrets: leave them out of the URI and "
                "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD (for a database directly, what its own client reads)"
            )
        return self
