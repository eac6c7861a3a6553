"""Models of flash-linear-attention against its naive torch functions, in layers that are written out here.

Its own layers need triton and a GPU.
"""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn.functional import conv1d, embedding, layer_norm, linear, logsigmoid, rms_norm, silu, softplus
from torch.testing import assert_close

from ostinato import from_pretrained
from ostinato.convert.exporting import export_run
from ostinato.convert.importing import import_run
from tests.convert.parity import greedy
from tests.independent import load_peer

D, H, L, V, EPS = 12, 3, 3, 31, 1e-3
BASE = dict(vocab_size=V, hidden_size=D, num_hidden_layers=L, num_heads=H, norm_eps=EPS, intermediate_size=20,
            hidden_act="swish", attn=None, fuse_norm=True, fuse_swiglu=True, tie_word_embeddings=False)  # fmt: skip


class Named:
    """Random weights, each made when it is first asked for, under the names of the checkpoint."""

    def __init__(self):
        self.tensors = {}
        self.generator = torch.Generator().manual_seed(3)

    def __call__(self, name, *shape):
        if name not in self.tensors:
            noise = torch.randn(shape, generator=self.generator)
            self.tensors[name] = 0.8 * noise * shape[-1] ** -0.5 if len(shape) == 2 else 1 + 0.3 * noise
        return self.tensors[name]


def heads(x, count=H):
    return x.unflatten(-1, (count, -1))


def normalize(x):
    """Of length 1, as its kernels do it."""
    return x * (x.square().sum(-1, keepdim=True) + 1e-6).rsqrt()


def projected(w, x, name, width):
    return linear(x, w(f"{name}.weight", width, x.shape[-1]))


def convolved(w, x, name, width, taps=4):
    y = projected(w, x, f"{name}_proj", width).transpose(1, 2)
    kernel = w(f"{name}_conv1d.weight", width, 1, taps)
    return silu(conv1d(y, kernel, padding=taps - 1, groups=width)[..., : y.shape[-1]]).transpose(1, 2)


def gla(w, x, at, i, config):
    K, W = D // 2, D
    q, k, g = (heads(projected(w, x, f"{at}.{n}_proj", size)) for n, size in (("q", K), ("k", K), ("g", W)))
    v = heads(projected(w, x, f"{at}.v_proj", W))
    gate = projected(w, projected(w, x, f"{at}.gk_proj.0", 16), f"{at}.gk_proj.1", K) + w(f"{at}.gk_proj.1.bias", K)
    o, _ = load_peer("fla/ops/gla/naive.py").naive_recurrent_gla(q, k, v, heads(logsigmoid(gate) / 16))
    return (rms_norm(o, (W // H,), w(f"{at}.g_norm_swish_gate.weight", W // H), EPS) * silu(g)).flatten(2)


def retnet(w, x, at, i, config):
    q, k = (heads(projected(w, x, f"{at}.{n}_proj", D)) for n in "qk")
    v, g = (heads(projected(w, x, f"{at}.{n}_proj", 2 * D)) for n in "vg")
    angle = torch.arange(x.shape[1])[:, None] * 10000.0 ** -(torch.arange(0, D // H, 2) / (D // H))
    cos, sin = angle.cos()[:, None], angle.sin()[:, None]
    turned = []
    for part in (q, k):
        a, b = part.chunk(2, -1)
        turned.append(torch.cat([a * cos - b * sin, b * cos + a * sin], -1))
    o = load_peer("fla/ops/retention/naive.py").naive_retention(*(part.transpose(1, 2) for part in (*turned, v)))
    o = rms_norm(o.transpose(1, 2), (2 * D // H,), w(f"{at}.g_norm_swish_gate.weight", 2 * D // H), EPS)
    return (o * silu(g)).flatten(2)


def delta_net(w, x, at, i, config):
    q, k, v = (heads(convolved(w, x, f"{at}.{n}", D)) for n in "qkv")
    beta = (1 + config.get("allow_neg_eigval", False)) * projected(w, x, f"{at}.b_proj", H).sigmoid()
    q, k, v, beta = (part.transpose(1, 2) for part in (normalize(q), normalize(k), v, beta))
    o, _ = load_peer("fla/ops/delta_rule/naive.py").delta_rule_recurrence(q, k, v, beta)
    return rms_norm(o.transpose(1, 2), (D // H,), w(f"{at}.o_norm.weight", D // H), EPS).flatten(2)


def gated_deltanet(w, x, at, i, config):
    N, K, W = config.get("num_v_heads", H), config["head_dim"], 2 * config["head_dim"]
    q, k = (normalize(heads(convolved(w, x, f"{at}.{n}", H * K))).repeat_interleave(N // H, 2) for n in "qk")
    v, g = heads(convolved(w, x, f"{at}.v", N * W), N), heads(projected(w, x, f"{at}.g_proj", N * W), N)
    beta = (1 + config.get("allow_neg_eigval", False)) * projected(w, x, f"{at}.b_proj", N).sigmoid()
    decay = -w(f"{at}.A_log", N).exp() * softplus(projected(w, x, f"{at}.a_proj", N) + w(f"{at}.dt_bias", N))
    naive = load_peer("fla/ops/gated_delta_rule/naive.py").naive_recurrent_gated_delta_rule
    o, _ = naive(q, k, v, beta, decay)
    return (rms_norm(o, (W,), w(f"{at}.o_norm.weight", W), EPS) * silu(g)).flatten(2)


def hgrn2(w, x, at, i, config):
    q, f, v = (projected(w, x, f"{at}.{n}_proj", D) for n in "qfi")
    g = logsigmoid(f)
    if i and config.get("use_lower_bound", True):
        bounds = w("model.lower_bounds", L, D).softmax(0).cumsum(0)
        bound = bounds[i] - bounds[0]
        g = torch.logaddexp(bound.log(), torch.log1p(-bound) + g)
    n = D // config["expand_ratio"]
    parts = (heads(part, n) for part in (silu(q), 1 - g.exp(), v, g))
    o, _ = load_peer("fla/ops/gla/naive.py").naive_recurrent_gla(*parts)
    return rms_norm(o.flatten(2), (D,), w(f"{at}.g_norm.weight", D), 1e-5)


def swiglu(w, x, at):
    return projected(
        w, silu(projected(w, x, f"{at}.gate_proj", 20)) * projected(w, x, f"{at}.up_proj", 20), f"{at}.down_proj", D
    )


def model(w, tokens, config, layer):
    """The logits of a whole model around one kind of layer."""
    norm = lambda x, name: rms_norm(x, (D,), w(f"model.{name}.weight", D), EPS)  # noqa: E731
    x = embedding(tokens, w("model.embeddings.weight", V, D))
    for i in range(L):
        at = f"model.layers.{i}"
        y = layer(w, norm(x, f"layers.{i}.attn_norm"), f"{at}.attn", i, config)
        x = x + projected(w, y, f"{at}.attn.o_proj", D)
        x = x + swiglu(w, norm(x, f"layers.{i}.mlp_norm"), f"{at}.mlp")
    x = norm(x, "norm")
    return linear(x, w("model.embeddings.weight" if config["tie_word_embeddings"] else "lm_head.weight", V, D))


def shifted(x, mu):
    return x + mu * (torch.cat([torch.zeros_like(x[:, :1]), x[:, :-1]], 1) - x)


def rwkv7(w, tokens, config):
    """The logits of an RWKV-7, which has another stack."""
    K = D // H
    norm = lambda x, name: layer_norm(x, (D,), w(f"model.{name}.weight", D), w(f"model.{name}.bias", D), EPS)  # noqa: E731
    x, first = norm(embedding(tokens, w("model.embeddings.weight", V, D)), "layers.0.pre_norm"), None
    for i in range(L):
        at = f"model.layers.{i}.attn"
        y = norm(x, f"layers.{i}.attn_norm")
        r_, w_, k_, v_, a_, g_ = (shifted(y, w(f"{at}.x_{use}", 1, 1, D)) for use in "rwkvag")

        def low_rank(y, name, f, rank, bias=True, at=at):
            y = projected(w, f(projected(w, y, f"{at}.{name}_lora.lora.0", rank)), f"{at}.{name}_lora.lora.2", D)
            return y + w(f"{at}.{name}_lora.lora.2.bias", D) if bias else y

        r, k, v = (projected(w, part, f"{at}.{n}_proj", D) for part, n in ((r_, "r"), (k_, "k"), (v_, "v")))
        decay = -0.6065306597126334 * low_rank(w_, "w", torch.tanh, 5).sigmoid()
        first = v if i == 0 else first
        v = v if i == 0 else torch.lerp(v, first, low_rank(v_, "v", torch.nn.Identity(), 4).sigmoid())
        a, g = low_rank(a_, "a", torch.nn.Identity(), 6).sigmoid(), low_rank(g_, "g", torch.sigmoid, 7, bias=False)
        removed = normalize(heads(k * w(f"{at}.k_k", D)))
        k = k * (1 + (a - 1) * w(f"{at}.k_a", D))
        r, k, v, a, decay = (heads(part) for part in (r, k, v, a, decay))
        naive = load_peer("fla/ops/generalized_delta_rule/dplr/naive.py").dplr_recurrence
        o, _ = naive(*(part.transpose(1, 2) for part in (r * K**0.5, k, v, -removed, removed * a, decay)))
        o = layer_norm(o.transpose(1, 2), (K,), eps=K * EPS).flatten(2)
        o = o * w(f"{at}.g_norm.weight", D) + w(f"{at}.g_norm.bias", D)
        o = o + ((r * k * w(f"{at}.r_k", H, K)).sum(-1, keepdim=True) * v).flatten(2)
        x = x + projected(w, o * g, f"{at}.o_proj", D)
        at = f"model.layers.{i}.ffn"
        y = shifted(norm(x, f"layers.{i}.ffn_norm"), w(f"{at}.x_k", D))
        x = x + projected(w, projected(w, y, f"{at}.key", 20).relu().square(), f"{at}.value", D)
    return linear(norm(x, "norm"), w("lm_head.weight", V, D))


MODELS = [
    (gla, dict(expand_k=0.5, expand_v=1.0, use_gk=True, use_gv=False, feature_map=None, clamp_min=None)),
    (gla, dict(tie_word_embeddings=True)),
    (retnet, dict(expand_k=1.0, expand_v=2.0, num_kv_heads=None)),
    (delta_net, dict(qk_norm="l2", qk_activation="silu", use_beta=True, conv_size=4)),
    (delta_net, dict(allow_neg_eigval=True)),
    (gated_deltanet, dict(head_dim=5)),
    (gated_deltanet, dict(head_dim=3, num_v_heads=6, allow_neg_eigval=True, output_gate_activation="swish")),
    (hgrn2, dict(expand_ratio=4, num_heads=3)),
    (hgrn2, dict(expand_ratio=6, num_heads=2, use_lower_bound=False)),
    (rwkv7, dict(head_dim=4, hidden_act="sqrelu", decay_low_rank_dim=5, a_low_rank_dim=6, v_low_rank_dim=4,
                 gate_low_rank_dim=7, norm_first=True, value_dim=[12, 12, 12])),
]  # fmt: skip


def written(layer, options, folder):
    """A checkpoint, and what computes its logits."""
    w, config = Named(), BASE | options | {"model_type": layer.__name__}
    if layer is rwkv7:
        del config["fuse_swiglu"]
    expected = lambda tokens: layer(w, tokens, config) if layer is rwkv7 else model(w, tokens, config, layer)  # noqa: E731
    with torch.no_grad():
        expected(torch.zeros(1, 2, dtype=torch.long))
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    save_file(w.tensors, folder / "model.safetensors")
    return expected, w


@pytest.mark.parametrize(("layer", "options"), MODELS)
def test_models_of_flash_linear_attention(layer, options, tmp_path):
    folder = tmp_path / "theirs"
    expected, w = written(layer, options, folder)
    ours = from_pretrained(folder)
    tokens = torch.randint(V, (2, 40), generator=torch.Generator().manual_seed(1))
    assert expected(tokens).std() > 0.05
    with torch.no_grad():
        assert_close(ours(tokens)[0], expected(tokens), rtol=0, atol=1e-4)
        row = ours(tokens, reset=torch.arange(40).expand(2, 40) == 13)[0][:, 13:]
        assert_close(row, expected(tokens[:, 13:]), rtol=0, atol=1e-4)
        greedy(ours, lambda tokens, **_: type("Out", (), {"logits": expected(tokens)}), tokens, False, count=12)
    parameters = {
        name: x for name, x in w.tensors.items() if name.endswith(("k_proj.weight", "k_norm.weight", "norm.weight"))
    }
    for x in parameters.values():
        x.requires_grad_()
    torch.nn.functional.cross_entropy(expected(tokens)[:, :-1].flatten(0, 1), tokens[:, 1:].flatten()).backward()
    ours.loss(tokens).backward()
    assert_close(ours.norm.weight.grad, parameters["model.norm.weight"].grad, rtol=0, atol=1e-4)
    first = next(x for name, x in parameters.items() if name.startswith("model.layers.0.attn_norm"))
    assert_close(ours.stack.layers[0].mixer_norm.weight.grad, first.grad, rtol=0, atol=1e-4)
    export_run(import_run(folder, tmp_path / "run"), tmp_path / "back")
    back = load_file(tmp_path / "back" / "model.safetensors")
    assert back.keys() == w.tensors.keys()
    assert all(torch.equal(x, back[name]) for name, x in w.tensors.items())


@pytest.mark.parametrize(
    ("layer", "options", "message"),
    [
        (gla, dict(use_short_conv=True), "asks for use_short_conv=True"),
        (gla, dict(attn={"layers": [1], "num_heads": 3}), "asks for attn="),
        (retnet, dict(expand_k=0.5), "asks for keys of 2"),
        (delta_net, dict(qk_norm="sum"), "asks for qk_norm='sum'"),
        (gated_deltanet, dict(head_dim=5, use_gate=False), "asks for use_gate=False"),
        (hgrn2, dict(expand_ratio=4, attnres_block_size=2), "asks for attnres_block_size=2"),
        (rwkv7, dict(head_dim=4, value_dim=[12, 24, 12]), "asks for value_dim="),
    ],
)
def test_options_that_are_not_here_are_refused_by_name(layer, options, message, tmp_path):
    config = BASE | {"hidden_act": "sqrelu" if layer is rwkv7 else "swish"} | options | {"model_type": layer.__name__}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=message):
        from_pretrained(tmp_path)
