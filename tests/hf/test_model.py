"""A model of this library behind the calls of transformers: the same numbers, whatever is asked of it."""

import copy

import pytest
import torch
from torch.nn.functional import cross_entropy
from torch.testing import assert_close

transformers = pytest.importorskip("transformers")

import ostinato.hf as hf  # noqa: E402 - needs transformers
from ostinato.models.named import build  # noqa: E402

VOCABULARY = 31
PATTERNS = {
    "gla+window": [{"gla": {"heads": 3}}, {"attention": {"heads": 3, "window": 6}}],
    "mamba": ["mamba"],
    "attention": [{"attention": {"heads": 3}}],
    "hgrn2": [{"hgrn2": {"heads": 3}}],  # its layers share a parameter
    "rwkv7": [{"rwkv7": {"heads": 2, "value_rank": 3}}],  # layers hear of those below
    "unitary_rnn": ["unitary_rnn"],  # has numbers that are in no checkpoint
}


def make(pattern="gla+window", **changes):
    torch.manual_seed(0)
    arguments = dict(dim=24, layers=2, pattern=PATTERNS[pattern]) | changes
    model = hf.OstinatoForCausalLM(hf.OstinatoConfig(vocab_size=VOCABULARY, model=arguments))
    with torch.no_grad():
        model.model.embedding.weight.mul_(20)  # logits of a fresh model are so flat that nothing can be seen in them
    return model.eval()


def tokens(*shape, seed=1):
    """Any but 0: transformers takes what is equal to pad_token_id for padding, where no mask says what is."""
    return torch.randint(1, VOCABULARY, shape, generator=torch.Generator().manual_seed(seed))


def continued(model, prompt, count=12, **how):
    how = dict(do_sample=False, pad_token_id=0) | how
    return model.generate(prompt, max_new_tokens=count, min_new_tokens=count, **how)[:, prompt.shape[1] :].tolist()


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("tie", [True, False])
def test_saved_and_loaded_by_auto_classes_bit_for_bit(pattern, tie, tmp_path):
    model, x = make(pattern, tie=tie), tokens(2, 17)
    model.save_pretrained(tmp_path, max_shard_size="10KB")
    again, report = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path, trust_remote_code=False, output_loading_info=True
    )
    assert type(again) is hf.OstinatoForCausalLM
    assert not any(report.values())
    assert again.state_dict().keys() == model.state_dict().keys()
    assert all(torch.equal(again.state_dict()[name], x) for name, x in model.state_dict().items())
    assert (again.model.head.weight is again.model.embedding.weight) is tie is again.config.tie_word_embeddings
    assert again.num_parameters() == model.num_parameters()
    assert torch.equal(again(x).logits, model(x).logits)
    config = transformers.AutoConfig.from_pretrained(tmp_path, trust_remote_code=False)
    assert (config.hidden_size, config.num_hidden_layers, config.vocab_size) == (24, 2, VOCABULARY)


def test_logits_are_those_of_the_model_and_a_config_makes_it():
    model, x = make(), tokens(2, 9)
    ours = build(**model.config.arguments).eval()
    ours.load_state_dict(model.model.state_dict())
    assert torch.equal(model(x).logits, ours(x)[0])
    with pytest.raises(ValueError, match="no argument 'wide'"):
        hf.OstinatoForCausalLM(hf.OstinatoConfig(model={"dim": 8, "wide": 3}))
    with pytest.raises(ValueError, match="sees the whole sequence"):
        hf.OstinatoForCausalLM(hf.OstinatoConfig(model={"dim": 8, "pattern": ["hydra"]}))


@pytest.mark.parametrize("pattern", ["gla+window", "mamba", "attention"])
@pytest.mark.parametrize(
    "how", [{}, {"num_beams": 3}, {"do_sample": True, "top_k": 5}], ids=["greedy", "beams", "drawn"]
)
def test_generation_with_the_state_equals_reading_everything_again(pattern, how):
    model, prompt = make(pattern), tokens(2, 11)
    texts = []
    for use_cache in (True, False):
        torch.manual_seed(3)
        texts.append(continued(model, prompt, use_cache=use_cache, **how))
    assert texts[0] == texts[1]
    assert len({*map(tuple, texts[0])}) == 2, "rows that are all alike show nothing"


@pytest.mark.parametrize("pattern", ["gla+window", "mamba", "attention"])
@pytest.mark.parametrize("how", [{}, {"num_beams": 3}, {"use_cache": False}, {"prefill_chunk_size": 4}], ids=str)
def test_padding_in_front_changes_nothing(pattern, how):
    model, rows = make(pattern), [tokens(1, n, seed=n) for n in (5, 11, 1)]
    batch, mask = torch.full((3, 11), 7), torch.zeros(3, 11, dtype=torch.long)
    for i, row in enumerate(rows):
        batch[i, 11 - row.shape[1] :], mask[i, 11 - row.shape[1] :] = row[0], 1
    logits = model(batch, attention_mask=mask).logits
    for i, row in enumerate(rows):
        assert_close(logits[i, mask[i].bool()], model(row).logits[0], rtol=1e-4, atol=1e-5)
    chunked = "prefill_chunk_size" in how
    together = continued(
        model, batch, attention_mask=mask, **how, **({"past_key_values": hf.OstinatoCache()} if chunked else {})
    )
    how.pop("prefill_chunk_size", None)
    assert together == [continued(model, row, **how)[0] for row in rows]


def test_padding_behind_is_for_training_and_not_within_a_text():
    model, x = make(), tokens(2, 9)
    mask = torch.ones_like(x)
    mask[0, 5:] = 0
    labels = x.masked_fill(mask == 0, -100)
    expected = torch.cat([model(x[:1, :5]).logits[0, :-1], model(x[1:]).logits[0, :-1]])
    targets = torch.cat([x[0, 1:5], x[1, 1:]])
    assert_close(model(x, attention_mask=mask, labels=labels).loss, cross_entropy(expected, targets))
    with pytest.raises(ValueError, match="padding belongs in front"):
        continued(model, x, attention_mask=mask)
    with pytest.raises(ValueError, match=r"attention_mask is \(batch, time\)"):
        model(x, attention_mask=mask[:, :4])


def test_positions_that_begin_again_are_documents_that_do():
    model, x = make(), tokens(1, 13)
    places = torch.cat([torch.arange(5), torch.arange(8)])[None]
    apart = torch.cat([model(x[:, :5]).logits, model(x[:, 5:]).logits], 1)
    assert_close(model(x, position_ids=places).logits, apart)
    assert not torch.allclose(model(x).logits, apart, atol=1e-3)


def test_a_cache_is_a_state_with_handles():
    model, x = make(), tokens(2, 12)
    whole = model(x, logits_to_keep=1).logits
    out = model(x[:, :7])
    point = copy.copy(out.past_key_values)
    assert (point.get_seq_length(), point.batch_size) == (7, 2)
    rest = model(x[:, 7:], past_key_values=out.past_key_values)
    assert rest.past_key_values is out.past_key_values
    assert (out.past_key_values.get_seq_length(), point.get_seq_length()) == (12, 7)
    assert_close(rest.logits[:, -1:], whole)
    assert_close(model(x[:, 7:], past_key_values=point).logits, rest.logits)
    turned = copy.copy(out.past_key_values)
    turned.reorder_cache(torch.tensor([1, 0]))
    turned.batch_repeat_interleave(2)
    again = model(x[:, :1].flip(0).repeat_interleave(2, 0), past_key_values=turned).logits
    assert_close(again[::2].flip(0), model(x[:, :1], past_key_values=out.past_key_values).logits)
    for undo in (lambda: turned.crop(3), turned.activate_past_recording):
        with pytest.raises(ValueError, match="as speculative decoding asks for"):
            undo()
    turned.reset()
    assert torch.equal(model(x, past_key_values=turned).logits, model(x).logits)
    with pytest.raises(ValueError, match="past_key_values is an OstinatoCache"):
        model(x, past_key_values=transformers.DynamicCache())


def test_a_conversation_goes_on_from_its_cache():
    model, first = make(), tokens(1, 9)
    cache = hf.OstinatoCache()
    reply = model.generate(first, past_key_values=cache, max_new_tokens=5, do_sample=False, pad_token_id=0)
    longer = torch.cat([reply, tokens(1, 4, seed=9)], 1)
    assert cache.get_seq_length() == reply.shape[1] - 1
    assert continued(model, longer, past_key_values=cache) == continued(model, longer)


def test_embeddings_in_place_of_tokens():
    model, x = make(positions=40, embedding_scale=2.0, soft_cap=5.0), tokens(2, 9)
    assert torch.equal(model(inputs_embeds=model.get_input_embeddings()(x)).logits, model(x).logits)
    out = model(x, output_hidden_states=True)
    assert len(out.hidden_states) == 3
    assert_close(model.model.logits(out.hidden_states[-1]), out.logits)
    with pytest.raises(ValueError, match="one of input_ids and inputs_embeds"):
        model()


def test_layers_hear_of_those_below_as_in_the_stack():
    model, x = make("rwkv7"), tokens(2, 9)
    assert model.model.stack.listens
    assert_close(model(x).logits, model.model(x)[0])


@pytest.mark.parametrize("reentrant", [True, False])
def test_gradient_checkpointing_gives_the_same_gradients(reentrant):
    model, x, calls = make().train(), tokens(2, 9), []
    model.model.stack.layers[0].register_forward_pre_hook(lambda *_: calls.append(1))
    found = []
    for enabled in (False, True):
        if enabled:
            model.gradient_checkpointing_enable({"use_reentrant": reentrant})
        model.zero_grad()
        out = model(x, labels=x)
        assert out.past_key_values is None
        out.loss.backward()
        found.append([parameter.grad.clone() for parameter in model.parameters()])
    assert len(calls) == 3, "the second time, the layer is computed again"
    assert_close(found[0], found[1])


def test_bfloat16_and_a_device_map(tmp_path):
    model, x = make("unitary_rnn"), tokens(2, 9)
    model.save_pretrained(tmp_path)
    load = transformers.AutoModelForCausalLM.from_pretrained
    half = load(tmp_path, dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in half.parameters()} == {torch.bfloat16}
    assert torch.equal(half(x).logits, make("unitary_rnn").bfloat16()(x).logits)
    parts = {"model.embedding": "cpu", "model.stack": "cpu", "model.norm": "cpu", "model.head": "cpu"}
    for places in ("auto", "cpu", parts):
        assert torch.equal(load(tmp_path, device_map=places)(x).logits, model(x).logits)
    with pytest.raises(ValueError, match="a device_map names GPUs, or cpu alone"):
        load(tmp_path, device_map=parts | {"model.stack": "disk"}, offload_folder=tmp_path / "off")


def test_new_tokens(tmp_path):
    model, x = make(), tokens(2, 9)
    before = model(x).logits
    model.resize_token_embeddings(40, mean_resizing=False)
    assert_close(model(x).logits[..., :VOCABULARY], before)
    model(torch.full((1, 2), 39))
    model.save_pretrained(tmp_path)
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(again(x).logits, model(x).logits)
    assert again.model.head.weight is again.model.embedding.weight


def test_a_model_with_a_class_of_its_own(tmp_path):
    torch.manual_seed(0)
    config = hf.OstinatoConfig(vocab_size=VOCABULARY, model={"name": "awd_lstm", "dim": 12, "layers": 2})
    model, x = hf.OstinatoForCausalLM(config).eval(), tokens(2, 9)
    model.save_pretrained(tmp_path)
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(again(x).logits, model(x).logits)
    assert continued(again, x) == continued(model, x, use_cache=False)
    with pytest.raises(ValueError, match="inputs_embeds and output_hidden_states are not for AWDLSTM"):
        model(x, output_hidden_states=True)
    with pytest.raises(ValueError, match="not compatible with gradient checkpointing"):
        model.gradient_checkpointing_enable()
