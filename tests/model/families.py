"""Tiny encoders of many families with random weights, for the table of families."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers as T
from transformers import AutoModel

from tests.tiny import tiny_encoder

ROWS, POSITIONS = 96, 40
_SHAPE = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
_BERT = {**_SHAPE, "max_position_embeddings": POSITIONS, "pad_token_id": 0}
_ROBERTA = {**_SHAPE, "max_position_embeddings": POSITIONS + 2, "pad_token_id": 1}
_DECODER = {**_SHAPE, "max_position_embeddings": POSITIONS, "num_key_value_heads": 1, "pad_token_id": 0}
_T5 = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2}
_BART = {
    "d_model": 16, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 2, "decoder_attention_heads": 2,
    "encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "max_position_embeddings": POSITIONS,
}  # fmt: skip
_XLM = {"emb_dim": 16, "n_layers": 2, "n_heads": 2, "max_position_embeddings": POSITIONS}
_HEAD8 = {"head_dim": 8}

CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "bert": ("bert", _BERT),
    "distilbert": ("distilbert", {"dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 32, "max_position_embeddings": POSITIONS}),
    "roberta": ("roberta", _ROBERTA),
    "xlm-roberta": ("xlm-roberta", _ROBERTA),
    "xlm-roberta-xl": ("xlm-roberta-xl", _ROBERTA),
    "rembert": ("rembert", {**_BERT, "input_embedding_size": 8}),
    "electra": ("electra", {**_BERT, "embedding_size": 8}),
    "deberta": ("deberta", {**_BERT, "relative_attention": True, "pos_att_type": ["c2p", "p2c"]}),
    "deberta-v2": (
        "deberta-v2",
        {**_BERT, "relative_attention": True, "position_buckets": 8, "norm_rel_ebd": "layer_norm", "pos_att_type": ["p2c", "c2p"],
         "type_vocab_size": 0, "conv_kernel_size": 3},
    ),
    "albert": ("albert", {**_BERT, "embedding_size": 8, "num_hidden_layers": 3}),
    "mpnet": ("mpnet", _ROBERTA),
    "camembert": ("camembert", _ROBERTA),
    "modernbert": (
        "modernbert",
        {**_BERT, "num_hidden_layers": 3, "bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1, "sep_token_id": 2},
    ),
    "eurobert": ("eurobert", {**_BERT, "num_key_value_heads": 2, "bos_token_id": 1, "eos_token_id": 2}),
    "nomic_bert": ("nomic_bert", _BERT),
    "roformer": ("roformer", {**_BERT, "embedding_size": 16}),
    "luke": ("luke", {**_ROBERTA, "entity_vocab_size": 5, "entity_emb_size": 8}),
    "longformer": ("longformer", {**_ROBERTA, "attention_window": [4, 4]}),
    "big_bird": ("big_bird", _BERT),
    "bart": ("bart", _BART),
    "mbart": ("mbart", _BART),
    "t5": ("t5", _T5),
    "mt5": ("mt5", _T5),
    "umt5": ("umt5", _T5),
    "xlnet": ("xlnet", {"d_model": 16, "n_layer": 2, "n_head": 2, "d_inner": 32}),
    "xlm": ("xlm", _XLM),
    "flaubert": ("flaubert", {**_XLM, "layerdrop": 0.5}),
    "gpt2": ("gpt2", {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": POSITIONS, "bos_token_id": 1, "eos_token_id": 1}),
    "gpt_neox": ("gpt_neox", {**_SHAPE, "max_position_embeddings": POSITIONS}),
    "opt": ("opt", {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "ffn_dim": 32, "word_embed_proj_dim": 16,
                    "max_position_embeddings": POSITIONS}),
    "llama": ("llama", _DECODER),
    "qwen3": ("qwen3", {**_DECODER, **_HEAD8}),
    "gemma3_text": ("gemma3_text", {**_DECODER, **_HEAD8}),
    "mamba": ("mamba", {"hidden_size": 16, "num_hidden_layers": 2, "state_size": 4}),
    "funnel": ("funnel", {"d_model": 16, "n_head": 2, "d_head": 8, "d_inner": 32, "block_sizes": [1, 1], "num_decoder_layers": 1,
                           "architectures": ["FunnelModel"]}),
    "squeezebert": ("squeezebert", {**_BERT, "embedding_size": 16}),
    "mobilebert": ("mobilebert", {**_BERT, "embedding_size": 8, "intra_bottleneck_size": 8, "true_hidden_size": 8}),
    "convbert": ("convbert", {**_BERT, "embedding_size": 16, "conv_kernel_size": 3}),
    "ernie": ("ernie", _BERT),
    "xmod": ("xmod", {**_ROBERTA, "languages": ["en_XX"], "default_language": "en_XX"}),
    "fnet": ("fnet", _BERT),
    "canine": ("canine", {**_SHAPE, "num_hash_functions": 2, "num_hash_buckets": 16}),
}  # fmt: skip


def build_family(family: str, folder: Path, **more: Any) -> Path:
    """Saves a random encoder with the tiny comments' BERT tokenizer; the table of words has room for its ids."""
    kind, settings = CONFIGS[family]
    tiny_encoder(folder, "bert", hidden=16)
    rows = int(T.AutoConfig.from_pretrained(folder).vocab_size)
    config = T.AutoConfig.for_model(kind, **({"vocab_size": rows} | settings | more))
    make: Callable[..., Any] = AutoModel.from_config
    with torch.random.fork_rng():
        torch.manual_seed(0)
        make(config).save_pretrained(folder)
    return folder
