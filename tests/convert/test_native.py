"""The authors' own formats: mamba-ssm against transformers, and RWKV-7's .pth against the authors' inference code."""

import json

import pytest
import torch
from safetensors.torch import load_file
from torch.testing import assert_close

from ostinato import from_pretrained
from ostinato.cli.__main__ import main
from ostinato.convert.exporting import export_run
from ostinato.convert.importing import import_run
from ostinato.convert.writing import write_pretrained
from tests.convert.parity import greedy, randomised
from tests.independent import load_peer

transformers = pytest.importorskip("transformers")

MAMBA2 = dict(layer="Mamba2", d_state=7, headdim=8, expand=3, ngroups=3, d_conv=3)


def mamba_ssm(folder, *, ssm=None, **settings):
    """A model of transformers, written as mamba-ssm writes it."""
    torch.manual_seed(0)
    ssm = ssm or {}
    if ssm.get("layer") == "Mamba2":
        config = transformers.Mamba2Config(
            vocab_size=64, hidden_size=24, num_hidden_layers=2, state_size=7, head_dim=8, num_heads=9, expand=3, n_groups=3,
            conv_kernel=3, tie_word_embeddings=True, chunk_size=16,
        )  # fmt: skip
        theirs = randomised(transformers.Mamba2ForCausalLM(config))
    else:
        sizes = dict(state_size=5, expand=3, use_bias=True, time_step_rank=4) if ssm else {}
        config = transformers.MambaConfig(vocab_size=64, hidden_size=20, num_hidden_layers=2, **sizes)
        theirs = randomised(transformers.MambaForCausalLM(config))
    folder.mkdir()
    tensors = {name.replace("embeddings", "embedding"): x for name, x in theirs.state_dict().items()}
    torch.save(tensors, folder / "pytorch_model.bin")
    values = dict(
        d_model=config.hidden_size, n_layer=2, vocab_size=61, ssm_cfg=ssm, rms_norm=True, residual_in_fp32=True
    )
    values |= dict(fused_add_norm=True, pad_vocab_size_multiple=8, tie_embeddings=True)
    (folder / "config.json").write_text(json.dumps(values | settings))
    return theirs, tensors


@pytest.mark.parametrize(
    "ssm", [None, dict(d_state=5, expand=3, bias=True, dt_rank=4), MAMBA2], ids=["plain", "options", "2"]
)
def test_mamba_ssm(ssm, tmp_path):
    theirs, tensors = mamba_ssm(tmp_path / "theirs", ssm=ssm)
    ours = from_pretrained(tmp_path / "theirs")
    tokens = torch.randint(64, (2, 60), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert_close(ours(tokens)[0], theirs(tokens).logits, rtol=0, atol=1e-4)
        greedy(ours, theirs, tokens, True, count=20)
    export_run(import_run(tmp_path / "theirs", tmp_path / "run"), tmp_path / "back")
    back = load_file(tmp_path / "back" / "model.safetensors")
    assert back.keys() | {"lm_head.weight"} == tensors.keys()
    assert all(torch.equal(x, tensors[name]) for name, x in back.items())
    same = from_pretrained(tmp_path / "back")
    assert torch.equal(same(tokens)[0], ours(tokens)[0])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(attn_layer_idx=[1], attn_cfg={"num_heads": 2}), "asks for attn_layer_idx="),
        (dict(ssm_cfg={"layer": "Mamba3"}), "asks for layer='Mamba3'"),
        (dict(ssm_cfg={"layer": "Mamba2", "D_has_hdim": True}), "asks for D_has_hdim=True"),
        (dict(ssm_cfg={"width": 3}), "asks for width=3, which ostinato does not know"),
        (dict(vocab_size=65), r"embedding.weight has the shape \(64, 20\); .* has \(72, 20\)"),
    ],
)
def test_what_mamba_ssm_has_besides_is_refused_by_name(settings, message, tmp_path):
    mamba_ssm(tmp_path / "theirs", **settings)
    with pytest.raises(ValueError, match=message):
        from_pretrained(tmp_path / "theirs")


def gated(x, w, name):
    """The channel mixer of mamba-ssm: what goes up comes before its gate."""
    up, gate = (x @ w[f"{name}.fc1.weight"].T).chunk(2, -1)
    return (up * torch.nn.functional.silu(gate)) @ w[f"{name}.fc2.weight"].T


def test_channel_mixers_of_mamba_ssm(tmp_path):
    _, w = mamba_ssm(tmp_path / "theirs", d_intermediate=100)
    generator = torch.Generator().manual_seed(2)
    for i in range(2):
        for name, *shape in (("norm2", 20), ("mlp.fc1", 256, 20), ("mlp.fc2", 20, 128)):
            w[f"backbone.layers.{i}.{name}.weight"] = 0.2 * torch.randn(shape, generator=generator)
    torch.save(w, tmp_path / "theirs" / "pytorch_model.bin")
    block = from_pretrained(tmp_path / "theirs").stack.layers[1]
    x = torch.randn(2, 5, 20, generator=generator)
    assert_close(block.mlp(x), gated(x, w, "backbone.layers.1.mlp"))
    assert torch.equal(block.mlp_norm.weight, w["backbone.layers.1.norm2.weight"])
    back = export_run(import_run(tmp_path / "theirs", tmp_path / "run"), tmp_path / "back") / "model.safetensors"
    assert all(torch.equal(x, w[name]) for name, x in load_file(back).items())


D, H, K, L, V = 128, 2, 64, 3, 31


@pytest.fixture
def authors(monkeypatch):
    """The authors' inference code in plain Python."""
    monkeypatch.setattr(torch._C, "_jit_set_autocast_mode", lambda mode: None)
    for name, plain in (("script", lambda f: f), ("script_method", lambda f: f), ("ScriptModule", torch.nn.Module)):
        monkeypatch.setattr(torch.jit, name, plain)
    monkeypatch.setenv("RWKV_JIT_ON", "0")
    monkeypatch.setenv("RWKV_V7_ON", "1")
    return load_peer("rwkv/model.py", "seven").RWKV_x070


def rwkv7_weights():
    """Random weights of an RWKV-7 under the authors' names."""
    generator, w = torch.Generator().manual_seed(0), {}

    def add(name, *shape, middle=0.0, size=None):
        w[name] = middle + (shape[-1] ** -0.5 if size is None else size) * torch.randn(shape, generator=generator)

    def norm(name):
        add(f"{name}.weight", D, middle=1.0, size=0.2)
        add(f"{name}.bias", D, size=0.2)

    add("emb.weight", V, D)
    for i in range(L):
        block = f"blocks.{i}"
        for name in ("ln1", "ln2", *(["ln0"] if i == 0 else [])):
            norm(f"{block}.{name}")
        for use in "rwkvag":
            add(f"{block}.att.x_{use}", 1, 1, D, middle=0.5, size=0.2)
        for use, rank in (("w", 8), ("a", 9), ("v", 5), ("g", 11)):
            add(f"{block}.att.{use}1", D, rank, size=D**-0.5)
            add(f"{block}.att.{use}2", rank, D, size=rank**-0.5)
            if use != "g":
                add(f"{block}.att.{use}0", 1, 1, D)
        for name in ("k_k", "k_a"):
            add(f"{block}.att.{name}", 1, 1, D, middle=0.9, size=0.1)
        add(f"{block}.att.r_k", H, K)
        for name in ("receptance", "key", "value", "output"):
            add(f"{block}.att.{name}.weight", D, D)
        norm(f"{block}.att.ln_x")
        add(f"{block}.ffn.x_k", 1, 1, D, middle=0.5, size=0.2)
        add(f"{block}.ffn.key.weight", 4 * D, D)
        add(f"{block}.ffn.value.weight", D, 4 * D)
    norm("ln_out")
    add("head.weight", V, D)
    return w


def test_pth_of_rwkv7(authors, tmp_path, capsys):
    w = rwkv7_weights()
    path = tmp_path / "RWKV-x070-World-0.1B.pth"
    torch.save(w, path)
    ours = from_pretrained(path)
    theirs = authors(str(path.with_suffix("")), "cpu fp32")
    tokens = torch.randint(V, (40,), generator=torch.Generator().manual_seed(1)).tolist()
    with torch.no_grad():
        expected, state = theirs.forward(list(tokens), None, full_output=True)
        logits, ours_state = ours(torch.tensor([tokens]))
        assert expected.std() > 0.05
        assert_close(logits[0], expected, rtol=0, atol=1e-4)
        expected = expected[-1]
        for _ in range(20):
            token = expected.argmax().item()
            assert logits[0, -1].argmax().item() == token
            expected, state = theirs.forward(token, state)
            logits, ours_state = ours(torch.tensor([[token]]), ours_state)
        assert_close(logits[0, -1], expected, rtol=0, atol=1e-4)
    run = tmp_path / "run"
    assert main(["import", str(path), "-o", str(run)]) == 0
    assert "rwkv7_pth" in capsys.readouterr().out
    assert main(["export", str(run), "-o", str(tmp_path / "back")]) == 0
    back = load_file(tmp_path / "back" / "model.safetensors")
    assert w.keys() - back.keys() == {f"blocks.0.att.v{n}" for n in range(3)}
    assert all(torch.equal(x, w[name]) for name, x in back.items())
    assert torch.equal(from_pretrained(tmp_path / "back")(torch.tensor([tokens]))[0], ours(torch.tensor([tokens]))[0])
    written = write_pretrained(ours, path, tmp_path / "written")
    assert load_file(written / "model.safetensors").keys() == back.keys()
    capsys.readouterr()
    assert main(["generate", str(run), "--prompt", "a"]) == 2
    assert "has no tokenizer: none came with the checkpoint" in capsys.readouterr().err


def test_a_pth_of_something_else(tmp_path, capsys):
    torch.save({"emb.weight": torch.ones(3, 2)}, tmp_path / "x.pth")
    for source in (tmp_path, tmp_path / "x.pth"):
        assert main(["import", str(source), "-o", str(tmp_path / "run")]) == 2
        said = capsys.readouterr().err
        assert "is no RWKV-7 without blocks.0.att.r_k" in said
        assert said.count("\n") == 1
    assert not (tmp_path / "run").exists()
