"""GPT-2 and GPT-NeoX against transformers."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from ostinato import from_pretrained
from tests.convert.parity import check, randomised

transformers = pytest.importorskip("transformers")


@pytest.mark.parametrize(
    "settings",
    [
        dict(rope_parameters={"rope_type": "default", "rope_theta": 300.0, "partial_rotary_factor": 0.25}),
        dict(use_parallel_residual=False, attention_bias=False, tie_word_embeddings=True, hidden_act="gelu_new",
             rope_parameters={"rope_type": "linear", "factor": 2.0, "rope_theta": 300.0, "partial_rotary_factor": 1.0}),
    ],
)  # fmt: skip
def test_gpt_neox(settings, tmp_path):
    torch.manual_seed(0)
    sizes = dict(vocab_size=61, hidden_size=48, intermediate_size=44, num_hidden_layers=3, num_attention_heads=3)
    config = transformers.GPTNeoXConfig(**(sizes | settings), attn_implementation="eager")
    check(randomised(transformers.GPTNeoXForCausalLM(config)), tmp_path)


@pytest.mark.parametrize(
    "settings",
    [
        dict(layer_norm_epsilon=1e-3),
        dict(n_inner=37, activation_function="gelu", scale_attn_by_inverse_layer_idx=True, tie_word_embeddings=False),
        dict(scale_attn_weights=False),
    ],
)
def test_gpt2(settings, tmp_path):
    torch.manual_seed(0)
    sizes = dict(vocab_size=61, n_embd=30, n_layer=3, n_head=3, n_positions=200)
    config = transformers.GPT2Config(**(sizes | settings), attn_implementation="eager")
    ours = check(randomised(transformers.GPT2LMHeadModel(config)), tmp_path)
    with pytest.raises(ValueError, match="200 positions; a document is longer"):
        ours(torch.zeros(1, 201, dtype=torch.long))


def test_both_names_of_the_head_of_gpt_neox(tmp_path):
    sizes = dict(vocab_size=61, hidden_size=24, intermediate_size=20, num_hidden_layers=1, num_attention_heads=3)
    theirs = transformers.GPTNeoXForCausalLM(transformers.GPTNeoXConfig(**sizes)).eval()
    weights = {}
    for head in ("lm_head.weight", "embed_out.weight"):
        theirs.save_pretrained(tmp_path / head)
        path = tmp_path / head / "model.safetensors"
        tensors = load_file(path)
        (old,) = {"lm_head.weight", "embed_out.weight"} & set(tensors)
        tensors[head] = tensors.pop(old)
        save_file(tensors, path)
        weights[head] = from_pretrained(tmp_path / head).head.weight
    assert torch.equal(*weights.values())
    assert torch.equal(weights["lm_head.weight"], theirs.get_output_embeddings().weight)
