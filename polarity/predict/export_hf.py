"""Each task of a run as a folder that `transformers.pipeline("text-classification")` takes, with nothing of this package installed.

Where transformers' own classifier of the encoder's family computes the very same, the folder is one of its models. Else it carries
`modeling_polarity.py`, put together from the modules that trained the model (see `standalone`), so the two cannot drift apart.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification, PreTrainedModel

from polarity import arrays, config, errors
from polarity.data import tokenize
from polarity.encoders import HfConfig, transformers_quiet
from polarity.evaluate import calibration, metrics
from polarity.model import encoder, heads, inference, multitask
from polarity.model.encoder import probe_ids
from polarity.model.multitask import MultitaskModel
from polarity.predict import portable
from polarity.predict.exported import About, Exported, ModulePart, package_version, standalone, texts_section, without_paths, write_about
from polarity.predict.portable import PolarityForSequenceClassification

MODELING = "modeling_polarity"
SETTINGS = "DataConfig = Any  # order, max_length, max_comment and max_title of config.json's text_settings"

TEXT_PARTS = (
    ModulePart(errors, only=("_PASSWORD", "_KEY", "redacted", "PolarityError", "EncoderError", "RunError")),
    ModulePart(config, only=("MIN_COMMENT_TOKENS",)),
    ModulePart(arrays, only=("Integers", "Floats", "Codes")),
    ModulePart(metrics, only=("softmax",)),
    ModulePart(calibration, only=("SMALLEST", "apply", "_logs")),
)
FRAME_NAMES = ("Frame", "frames", "_frame", "_read_frame", "kept_lengths")
TEXT_NAMES = ("Row", "encode_texts", "_framed", "longest_first", "pad_rows")

LOOP_NAMES = (
    "_DTYPES", "has_fast_bf16", "_product_seconds", "precision_here", "autocast", "to_tensors", "states_of", "score_corpus",
)  # fmt: skip

NOT_CARRIED = ["training: the loss, the optimizer, and loading pretrained encoder weights"]
FAINT = 2.0**-13
"""tanh(FAINT x) / FAINT is x within 1e-5 of it for |x| up to 40: a pooler's tanh is passed without a trace, in bfloat16 too."""
_FAMILIES = {"bert": "pooler.dense", "roberta": "classifier.dense", "xlm-roberta": "classifier.dense", "camembert": "classifier.dense"}
"""{encoders' family: the layer before the tanh of transformers' classifier}, of those that read the first token's state."""
_PROBED = 12  # tokens


def modeling_source() -> str:
    """The text of modeling_polarity.py."""
    header = (
        f"Written by `polarity export --to hf` (polarity {package_version()}, Apache-2.0): the modules of the package that this model\n"
        "needs, as they stood when it was exported. Do not edit: export again."
    )
    parts = [
        *TEXT_PARTS,
        ModulePart(tokenize, only=(*FRAME_NAMES, "plain_backend")),
        ModulePart(heads),
        ModulePart(encoder, only=("text_encoder", "empty_encoder")),
        ModulePart(
            multitask, without=("model_configuration", "MultitaskModel.from_encoder", "MultitaskModel._freeze_unused", "load_model")
        ),
        ModulePart(inference, without=LOOP_NAMES),
        ModulePart(portable, only=(*TEXT_NAMES, "PolarityForSequenceClassification", "PolarityPipeline")),
    ]
    return standalone(parts, header, aliases=[SETTINGS])


def export_hf(exported: Exported, folder: Path, card: Callable[[str, str], str]) -> About:
    """Write a folder a task into the empty `folder`; `card` gives a README.md from the
    task and a section on how to use the folder. Returns what export.json holds."""
    kinds = {}
    for task in exported.config.labels:
        target = folder / task
        standard = standard_model(exported, task)
        tokenizer = exported.tokenizer
        tokenizer.model_max_length, tokenizer.padding_side = _most_tokens(exported), "right"
        with transformers_quiet():
            (standard or own_model(exported, task)).save_pretrained(target)
            tokenizer.save_pretrained(target)
        settings = without_paths(json.loads((target / "config.json").read_text("utf-8")))
        if standard is None:
            (target / f"{MODELING}.py").write_text(modeling_source(), encoding="utf-8")
            settings |= _references(exported, task)
        (target / "config.json").write_text(json.dumps(settings, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        (target / "README.md").write_text(card(task, _usage(exported, task, standard is not None)), encoding="utf-8")
        kinds[task] = type(standard).__name__ if standard is not None else f"{MODELING}.py"
    about = exported.about("hf")
    about["votes"], about["models"], about["not_carried"] = exported.votes, kinds, NOT_CARRIED
    write_about(folder, about)
    return about


def own_model(exported: Exported, task: str) -> PolarityForSequenceClassification:
    """The encoder, the pooling and one head, with the weights of the run."""
    whole = exported.model
    names = exported.config.labels[task]
    settings = type(whole.config)(**{**whole.config.to_dict(), "task_labels": {task: names}, "architectures": None})
    settings.id2label, settings.label2id = dict(enumerate(names)), {name: index for index, name in enumerate(names)}
    built = PolarityForSequenceClassification(settings)
    kept = {name: value for name, value in whole.state_dict().items() if not name.startswith("heads.") or name.startswith(f"heads.{task}.")}
    built.polarity.load_state_dict(kept)
    built.train(False)
    return built


def standard_model(exported: Exported, task: str) -> PreTrainedModel | None:
    """The task as transformers' own classifier of the encoder's family; None where that would be another function.

    It is the same for a linear head on the first token's state, one pass without dropout, no class biases, and comments without
    titles (whose cutting no tokenizer does). The state passes the family's dense layer and tanh scaled by FAINT and comes out as it
    was; a temperature goes into the last layer. The two models are compared on some rows before this one is given.
    """
    whole, fitted = exported.model, exported.calibration.get(task)
    settings = whole.config
    linear = settings.pooling == "cls" and settings.cls_place == "first" and not settings.head_layers
    plain = exported.votes == "off" and exported.config.data.title_column is None and not (fitted and fitted["biases"])
    family = whole.encoder.config.model_type
    if not (linear and plain and family in _FAMILIES) or settings.concat_cls or settings.concat_mean:
        return None
    names = exported.config.labels[task]
    own = type(whole.encoder.config)(**{**whole.encoder.config.to_dict(), "id2label": dict(enumerate(names)), "architectures": None})
    own.label2id = {name: index for index, name in enumerate(names)}
    built: Any = AutoModelForSequenceClassification.from_config(own, dtype=torch.float32)
    built.base_model.load_state_dict(whole.encoder.state_dict(), strict=False)
    head: Any = whole.heads[task]
    dense = (built.base_model if _FAMILIES[family].startswith("pooler") else built).get_submodule(_FAMILIES[family])
    out = built.classifier if isinstance(built.classifier, nn.Linear) else built.classifier.out_proj
    temperature = 1.0 if fitted is None else float(fitted["temperature"])
    with torch.no_grad():
        dense.weight.copy_(FAINT * torch.eye(dense.weight.shape[0]))
        dense.bias.zero_()
        out.weight.copy_(head.out.weight / (FAINT * temperature))
        out.bias.copy_(head.out.bias / temperature)
    built.train(False)
    return cast("PreTrainedModel", built) if _agree(built, whole, task, temperature) else None


@torch.inference_mode()
def _agree(built: nn.Module, whole: MultitaskModel, task: str, temperature: float) -> bool:
    """Whether both give the same probabilities for rows of several lengths."""
    ids_1L = probe_ids(whole.encoder, _PROBED)
    ids_BL = torch.cat([ids_1L.roll(shift, 1) for shift in range(_PROBED)])
    mask_BL: Tensor = (torch.arange(_PROBED) <= torch.arange(_PROBED).unsqueeze(1)).long()
    expected_BK = (whole(ids_BL, mask_BL)[task][0] / temperature).softmax(-1)
    return torch.allclose(built(input_ids=ids_BL, attention_mask=mask_BL).logits.softmax(-1), expected_BK, atol=1e-4)


def _most_tokens(exported: Exported) -> int:
    """Tokens of a comment without a title, special tokens included."""
    data = exported.config.data
    special = exported.tokenizer.num_special_tokens_to_add(pair=False)
    return data.max_length if data.max_comment is None else min(data.max_length, data.max_comment + special)


def _references(exported: Exported, task: str) -> HfConfig:
    """What config.json names for transformers: the code's classes, and what they read."""
    model = f"{MODELING}.PolarityForSequenceClassification"
    return {
        "auto_map": {"AutoConfig": f"{MODELING}.PolarityConfig", "AutoModelForSequenceClassification": model},
        "custom_pipelines": {"text-classification": {"impl": f"{MODELING}.PolarityPipeline", "pt": ["AutoModelForSequenceClassification"]}},
        "text_settings": exported.text_settings(),
        "calibration": exported.calibration.get(task),
    }


def _usage(exported: Exported, task: str, standard: bool) -> str:
    """The card's section on how to use the folder."""
    names = exported.config.labels[task]
    if standard:
        return f"""```python
from transformers import pipeline

classify = pipeline("text-classification", "PATH/OR/NAME/OF/THIS/FOLDER", truncation=True)
classify(["a comment", "another"])  # [{{"label": {json.dumps(names[0], ensure_ascii=False)}, "score": ...}}, ...]
```

A standard model of transformers; no other code is run. With `truncation=True` comments are cut where training cut them.
{_decided(exported, task)}"""
    return f"""```python
from transformers import pipeline

classify = pipeline("text-classification", "PATH/OR/NAME/OF/THIS/FOLDER", trust_remote_code=True)
classify(["a comment", "another"])  # [{{"label": {json.dumps(names[0], ensure_ascii=False)}, "score": ...}}, ...]
classify([{{"text": "a comment", "text_pair": "the title of the post that it answers"}}], top_k=None)
```

`trust_remote_code=True` runs `{MODELING}.py` of this folder: read it first where you did not make the export yourself. It needs
transformers, torch and numpy.
{_decided(exported, task)}

{texts_section(exported)}"""


def _decided(exported: Exported, task: str) -> str:
    """How a score becomes a label."""
    votes = {
        "off": "One pass without dropout, as the run was judged.",
        "mean": "The probabilities of the run's dropout samples are averaged, as the run was judged.",
        "vote": "The label is the majority of the run's dropout samples, as the run was judged.",
    }[exported.votes]
    fitted = exported.calibration.get(task)
    if fitted is None:
        return f"{votes} Scores are the model's own probabilities, not calibrated."
    biased = " The label also heeds class biases, so that it may differ from the most probable class." if fitted["biases"] else ""
    return f"{votes} Scores are calibrated probabilities: softmax(log p / temperature).{biased}"
