"""The model's own configuration class: what `config.json` in a model folder holds."""

from typing import Any

from transformers import AutoConfig, PreTrainedConfig

from polarity.config import ModelConfig


class PolarityConfig(PreTrainedConfig):
    """Configuration of `MultitaskModel`: the encoder's own configuration, the tasks with their classes, pooling and heads."""

    model_type = "polarity"

    encoder_config: dict[str, Any] | PreTrainedConfig | None = None
    task_labels: dict[str, Any] | None = None
    pooling: str = "mean"
    concat_cls: bool = False
    concat_mean: bool = False
    cls_place: str = "first"
    head_layers: int = 0
    head_hidden_size: int = 384
    head_intermediate_size: int | None = None
    head_residual: bool = False
    head_dropout: float = 0.1
    inference_mode: str = "off"
    inference_samples: int = 3

    def __post_init__(self, **kwargs: Any) -> None:
        if isinstance(self.encoder_config, dict):
            spec = dict(self.encoder_config)
            self.encoder_config = AutoConfig.for_model(spec.pop("model_type"), **spec)
        super().__post_init__(**kwargs)  # type: ignore[no-untyped-call]


def model_configuration(
    model: ModelConfig, labels: dict[str, list[str]], encoder_config: PreTrainedConfig, *, cls_place: str
) -> PolarityConfig:
    """The model's configuration from the run's: `labels` is {task: classes in order}, `cls_place` where the CLS token is: first or last."""
    return PolarityConfig(
        encoder_config=encoder_config,
        task_labels=labels,
        pooling=model.pooling,
        concat_cls=model.concat_cls,
        concat_mean=model.concat_mean,
        cls_place=cls_place,
        head_layers=model.head.layers,
        head_hidden_size=model.head.hidden_size,
        head_intermediate_size=model.head.intermediate_size,
        head_residual=model.head.residual,
        head_dropout=model.dropout,
        inference_mode=model.multi_sample.inference,
        inference_samples=model.multi_sample.inference_samples,
    )
