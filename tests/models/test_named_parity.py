"""Models with a name are those of transformers: the same weights give the same numbers."""

import pytest
import torch
from torch.testing import assert_close

import ostinato
from ostinato import from_pretrained
from ostinato.models.layouts import LAYOUTS
from tests.convert.parity import randomised

transformers = pytest.importorskip("transformers")


def theirs(name, dim, layers):
    """A model of transformers with all settings as it has them, but for the sizes."""
    sizes = dict(vocab_size=61, hidden_size=dim, num_hidden_layers=layers)
    torch.manual_seed(0)
    if name == "mamba":
        return transformers.MambaForCausalLM(transformers.MambaConfig(**sizes))
    if name == "mamba2":
        heads = dict(num_heads=dim // 32, n_groups=1, tie_word_embeddings=True)
        return transformers.Mamba2ForCausalLM(transformers.Mamba2Config(**sizes, **heads))
    return transformers.RwkvForCausalLM(transformers.RwkvConfig(**sizes, attention_hidden_size=dim))


@pytest.mark.parametrize(("name", "dim"), [("mamba", 24), ("mamba2", 64), ("rwkv4", None)])
def test_models_with_a_name_equal_those_of_transformers(name, dim, tmp_path):
    sizes = {} if dim is None else dict(dim=dim, layers=2, pattern=LAYOUTS[name].arguments("small")["pattern"])
    made = ostinato.create(f"model:{name}", vocab_size=61, size="tiny", **sizes).eval()
    layers = len(made.stack.layers) // (2 if name == "rwkv4" else 1)
    other = randomised(theirs(name, made.dim, layers))
    other.save_pretrained(tmp_path)
    made.load_state_dict(from_pretrained(tmp_path).state_dict())
    tokens = torch.randint(61, (2, 37), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert_close(made(tokens)[0], other(tokens, use_cache=False).logits, rtol=0, atol=1e-4)
