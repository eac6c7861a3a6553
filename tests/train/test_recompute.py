"""Gradients that compute their activations again are those that keep them."""

import pytest
import torch
from torch.testing import assert_close

import ostinato
from ostinato.laws import gradients
from ostinato.models.language_model import LanguageModel
from ostinato.train import train
from ostinato.train.recompute import recompute_bptt


def lstm(**arguments):
    torch.manual_seed(0)
    return ostinato.create("lstm", **{"dim": 6, "heads": 2, **arguments}).double()


@pytest.mark.parametrize("piece", [1, 7, 30, 100])
@pytest.mark.parametrize("documents", [False, True])
def test_recomputed_gradients_equal_stored_ones(piece, documents):
    module = lstm()
    x = torch.randn(2, 61, 6, dtype=torch.float64)
    reset = torch.rand(2, 61, generator=torch.Generator().manual_seed(1)) < 0.1 if documents else None
    with torch.no_grad():
        _, before = module(torch.randn(2, 5, 6, dtype=torch.float64))
    expected = gradients(module, x, lambda x_: module(x_, before, reset))
    found = gradients(module, x, lambda x_: recompute_bptt(module, x_, before, reset, piece=piece))
    assert_close(found, expected)
    assert_close(recompute_bptt(module, x, None, reset, piece=piece), module(x, None, reset))


def kept(run):
    """Bytes of the tensors that the graph of a forward pass keeps, each memory once."""
    seen = {}

    def pack(tensor):
        seen[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        run()
    return sum(seen.values())


def test_little_is_kept():
    model = LanguageModel(11, 16, layers=2, pattern=[{"lstm": {"heads": 2}}])
    x = torch.randn(1, 1024, 16)
    stored, recomputed = kept(lambda: model.stack(x)), kept(lambda: recompute_bptt(model.stack, x, piece=32))
    assert recomputed < stored / 5


def test_a_whole_language_model_in_pieces():
    model = LanguageModel(11, 16, layers=2, pattern=[{"lstm": {"heads": 2}}, {"para_gru": {}}])
    tokens = torch.randint(11, (2, 50))
    logits, _ = recompute_bptt(model, tokens, piece=16)
    assert_close(logits, model(tokens)[0], rtol=1e-4, atol=1e-5)


def test_it_refuses_what_cannot_be_cut():
    with pytest.raises(ValueError, match="only causal modules"):
        recompute_bptt(ostinato.create("model:hbmp", dim=4, hidden=2), torch.randn(1, 5, 4))
    with pytest.raises(ValueError, match="at least 1; got 0"):
        recompute_bptt(lstm(), torch.randn(1, 5, 6).double(), piece=0)


def test_a_run_may_compute_blocks_again(config, tmp_path, same):
    same(train(config(steps=3, recompute=True), tmp_path / "less"), train(config(steps=3), tmp_path / "more"))
    with pytest.raises(ValueError, match=r"train\.recompute: this model has no blocks"):
        train(
            config(steps=3, recompute=True, evaluate_every=1) | {"model": {"name": "awd_lstm", "dim": 6, "hidden": 9}},
            tmp_path,
        )
