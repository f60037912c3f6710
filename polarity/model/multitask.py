"""The multi-task model: one encoder, one pooling, a head a task; and its configuration, which config.json in a model folder holds.

Shapes: B rows, L tokens, P pooled size, S dropout samples, K classes.
"""

import json
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel

from polarity.config import ModelConfig
from polarity.errors import ConfigError, RunError
from polarity.model.encoder import empty_encoder, examine, freeze_unused, load_encoder, probe_ids
from polarity.model.heads import Head, Pooling, RowNoise, row_keys


class PolarityConfig(PreTrainedConfig):
    """Configuration of a `MultitaskModel`: the encoder's own configuration, the tasks with their classes, pooling and heads."""

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


class Mix(NamedTuple):
    """Mixup of a batch: row i becomes lam * row i + (1 - lam) * row permutation[i]."""

    lam: float
    permutation: Tensor


class MultitaskModel(PreTrainedModel):
    """Encoder, pooling and one head a task; `from_encoder` starts from pretrained weights, `from_pretrained` from a trained folder."""

    config_class = PolarityConfig
    config: PolarityConfig
    base_model_prefix = "encoder"
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True

    def __init__(self, config: PolarityConfig, encoder: PreTrainedModel | None = None) -> None:
        super().__init__(config)
        if not isinstance(config.encoder_config, PreTrainedConfig) or not config.task_labels:
            raise RunError("this model's config.json names no encoder_config or no task_labels: it was not written by polarity")
        self.encoder = encoder if encoder is not None else empty_encoder(config.encoder_config)
        self.layers_above: dict[str, int] = {}
        self.pooling = Pooling(
            config.pooling,
            config.encoder_config.hidden_size,
            concat_cls=config.concat_cls,
            concat_mean=config.concat_mean,
            layers=config.encoder_config.num_hidden_layers,
            cls_place=config.cls_place,
        )
        self.heads = nn.ModuleDict(
            {
                task: Head(
                    self.pooling.output_size,
                    len(labels),
                    layers=config.head_layers,
                    hidden=config.head_hidden_size,
                    intermediate=config.head_intermediate_size,
                    dropout=config.head_dropout,
                    residual=config.head_residual,
                )
                for task, labels in config.task_labels.items()
            }
        )
        self.post_init()  # type: ignore[no-untyped-call]

    def _init_weights(self, module: nn.Module) -> None:
        """Heads and pooling start as BERT's classifiers do: normal with the encoder's initializer range."""
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=getattr(self.config.encoder_config, "initializer_range", 0.02))
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.LayerNorm):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)

    def encode(self, input_ids_BL: Tensor, attention_mask_BL: Tensor, token_type_ids_BL: Tensor | None = None) -> Tensor:
        """Pooled rows (B, P), float32; one pass through the encoder."""
        types: dict[str, Tensor | bool] = {} if token_type_ids_BL is None else {"token_type_ids": token_type_ids_BL}
        if self.pooling.needs_all_layers:
            types["output_hidden_states"] = True
        output = self.encoder(input_ids=input_ids_BL, attention_mask=attention_mask_BL, **types)
        layers = output.hidden_states if self.pooling.needs_all_layers else (output.last_hidden_state,)
        pooled_BP: Tensor = self.pooling(layers, attention_mask_BL)
        return pooled_BP

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        token_type_ids: Tensor | None = None,
        mix: Mix | None = None,
        samples: int = 1,
    ) -> dict[str, Tensor]:
        """{task: logits (S, B, K) float32} of `samples` dropout masks over one encoder pass.

        `mix` mixes the pooled rows before the heads. In evaluation mode the samples are equal: use `sample_logits`.
        """
        pooled_BP = self.encode(input_ids, attention_mask, token_type_ids)
        if mix is not None:
            pooled_BP = mix.lam * pooled_BP + (1.0 - mix.lam) * pooled_BP[mix.permutation]
        rows = pooled_BP.shape[0]
        repeated_NP = pooled_BP.repeat(samples, 1)
        return {task: head(repeated_NP).view(samples, rows, -1) for task, head in self.heads.items()}

    def sample_logits(
        self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None, *, samples: int
    ) -> dict[str, Tensor]:
        """{task: logits (S, B, K)} under `samples` dropout masks in the heads, each fixed by the row's tokens; the encoder runs once."""
        pooled_BP = self.encode(input_ids, attention_mask, token_type_ids)
        keys_B = row_keys(input_ids, attention_mask)
        return {
            task: torch.stack([head(pooled_BP, RowNoise(keys_B, sample)) for sample in range(samples)]) for task, head in self.heads.items()
        }

    @classmethod
    def from_encoder(cls, folder: Path, model: ModelConfig, labels: dict[str, list[str]], *, seed: int) -> "MultitaskModel":
        """A model with the encoder's pretrained weights and fresh heads drawn from `seed`.

        `layers_above` then tells how deep each of the encoder's parameters lies, by its name in this model.
        Raises `EncoderError` when the folder's weights do not fill the encoder, or its family does not encode padded rows, and
        `ConfigError` when `model.pooling` does not fit it.
        """
        encoder = load_encoder(folder)
        nature = examine(encoder, str(folder))
        # The first token of a causal encoder has seen nothing but itself; XLNet's tokenizer puts its CLS token last.
        last = nature.causal or getattr(encoder.config, "summary_type", None) == "last"
        torch.manual_seed(seed)
        built = cls(model_configuration(model, labels, encoder.config, cls_place="last" if last else "first"), encoder)
        built.layers_above = {f"{cls.base_model_prefix}.{name}": above for name, above in nature.layers_above.items()}
        built._freeze_unused()
        return built

    def _freeze_unused(self) -> None:
        ids_1L, training = probe_ids(self.encoder, 3), self.training
        self.train(False)
        try:
            pooled_1P = self.encode(ids_1L, torch.ones_like(ids_1L))
        except (RuntimeError, TypeError, IndexError, ValueError) as error:
            family = self.encoder.config.model_type
            raise ConfigError(
                f"model.pooling {self.pooling.kind!r} does not fit a {family!r} encoder, whose layers' states have other shapes than the "
                "last one's: set model.pooling=mean"
            ) from error
        finally:
            self.train(training)
        for part in (self.encoder, self.pooling):
            freeze_unused(part, pooled_1P)


def load_model(folder: Path) -> MultitaskModel:
    """A trained model from its folder, in evaluation mode.

    Raises `RunError` when a file is missing, damaged, or holds other weights than config.json describes: nothing is left random.
    """
    for name in ("config.json", "model.safetensors"):
        if not (folder / name).is_file():
            raise RunError(f"{folder}: no {name} there, so it is no model folder")
    try:
        settings = json.loads((folder / "config.json").read_text())
    except ValueError as error:
        raise RunError(f"{folder}/config.json is damaged or incomplete ({error})") from error
    if not isinstance(settings, dict) or settings.get("model_type") != PolarityConfig.model_type:
        raise RunError(f"{folder}/config.json: not a polarity model; an encoder goes into model.encoder (--encoder)")
    try:
        loaded: Any = MultitaskModel.from_pretrained(folder, dtype=torch.float32, output_loading_info=True, ignore_mismatched_sizes=True)
    except SafetensorError as error:
        raise RunError(f"{folder}/model.safetensors is damaged or incomplete ({error}); export or train the model again") from error
    model: MultitaskModel = loaded[0]
    info = loaded[1]
    unfit = sorted({*info["missing_keys"], *info["unexpected_keys"], *(str(k) for k in info["mismatched_keys"])})
    if unfit:
        raise RunError(f"{folder}/model.safetensors does not fit config.json: {', '.join(unfit[:5])}")
    model.train(False)
    return model


AutoConfig.register("polarity", PolarityConfig)
AutoModel.register(PolarityConfig, MultitaskModel)
