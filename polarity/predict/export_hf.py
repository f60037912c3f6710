"""A run as a folder that plain transformers loads with `trust_remote_code=True`, with nothing of this package installed.

`modeling_polarity.py` is put together from the modules that trained the model (see `standalone`), so the two cannot drift apart.
"""

import json
from pathlib import Path
from typing import Any

from polarity import config, errors
from polarity.data import tokenize
from polarity.evaluate import calibration, predictions
from polarity.model import configuration, encoder, heads, inference, multitask, noise, pooling
from polarity.predict import portable_texts, portable_torch
from polarity.predict.exported import (
    README,
    Exported,
    calibration_section,
    labels_section,
    no_progress_bars,
    package_version,
    texts_section,
    without_paths,
    write_about,
)
from polarity.predict.standalone import Part, standalone

MODELING = "modeling_polarity"
SETTINGS = "DataConfig = Any  # order, max_length, max_comment and max_title of config.json's text_settings"

TEXT_PARTS = (
    Part(errors, only=("_PASSWORD", "_KEY", "redacted", "PolarityError", "EncoderError", "RunError")),
    Part(config, only=("MIN_COMMENT_TOKENS",)),
    Part(predictions, only=("Floats", "Codes")),
    Part(calibration, only=("SMALLEST", "apply", "_logs")),
)
FRAME_NAMES = ("Int64", "Frame", "frames", "_frame", "_read_frame", "kept_lengths")


def modeling_source() -> str:
    """The text of modeling_polarity.py."""
    header = (
        f"Written by `polarity export --to hf` (polarity {package_version()}, Apache-2.0): the modules of the package that this model\n"
        "needs, as they stood when it was exported. Do not edit: export again."
    )
    parts = [
        *TEXT_PARTS,
        Part(tokenize, only=(*FRAME_NAMES, "plain_backend")),
        Part(configuration, without=("model_configuration",)),
        Part(noise),
        Part(pooling),
        Part(heads),
        Part(encoder, only=("text_encoder", "empty_encoder")),
        Part(multitask, without=("MultitaskModel.from_encoder", "MultitaskModel._freeze_unused", "load_model")),
        Part(inference, without=("to_tensors",)),
        Part(portable_texts),
        Part(portable_torch),
    ]
    return standalone(parts, header, aliases=[SETTINGS])


def export_hf(exported: Exported, folder: Path) -> dict[str, Any]:
    """Write the export into the empty `folder`; returns what export.json holds."""
    about = {**exported.about("hf"), "votes": exported.votes, "not_carried": NOT_CARRIED}
    with no_progress_bars():
        exported.model.save_pretrained(folder)
    exported.tokenizer.save_pretrained(folder)
    (folder / f"{MODELING}.py").write_text(modeling_source(), encoding="utf-8")
    settings = without_paths(json.loads((folder / "config.json").read_text("utf-8")))
    settings |= {
        "architectures": ["PolarityClassifier"],
        "auto_map": {"AutoConfig": f"{MODELING}.PolarityConfig", "AutoModel": f"{MODELING}.PolarityClassifier"},
        "text_settings": exported.text_settings(),
        "calibration": exported.calibration,
    }
    (folder / "config.json").write_text(json.dumps(settings, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    (folder / README).write_text(_readme(exported), encoding="utf-8")
    write_about(folder, about)
    return about


NOT_CARRIED = [
    "training: the loss, the optimizer, and loading pretrained encoder weights",
    "what the run folder says of the model's quality: its scores, intervals and report",
]


def _readme(exported: Exported) -> str:
    votes = {
        "off": "One pass without dropout, as the run was judged.",
        "mean": "`classify` averages the run's dropout samples, as the run was judged; `model(**inputs)` is one pass without dropout.",
        "vote": "`classify` takes the majority vote of the run's dropout samples, as the run was judged; `model(**inputs)` is one pass "
        "without dropout.",
    }[exported.votes]
    left_out = "\n".join(f"- {line}" for line in NOT_CARRIED)
    return f"""# {exported.name}: a comment classifier, exported by polarity {package_version()}

```python
from transformers import AutoModel, AutoTokenizer

folder = "."  # this folder
tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
model = AutoModel.from_pretrained(folder, trust_remote_code=True).eval()
model.classify(["the comment"], ["the post that it answers"], tokenizer=tokenizer)
# {{task: {{"labels": [...], "probabilities": array}}}}
```

`trust_remote_code=True` runs `{MODELING}.py` of this folder: read it first where you did not make the export yourself. It needs
transformers, torch and numpy. `model(**inputs)` on token ids gives {{task: logits of shape (1, rows, classes)}}.

{votes}
{calibration_section(exported)}
{labels_section(exported)}
{texts_section(exported)}
## What this folder does not carry

{left_out}
"""
