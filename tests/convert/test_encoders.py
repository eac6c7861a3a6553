"""BERT and T5 against transformers."""

import copy

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.testing import assert_close

from ostinato import from_pretrained
from ostinato.cli.__main__ import main
from ostinato.convert.writing import write_pretrained
from tests.convert.parity import randomised

transformers = pytest.importorskip("transformers")

SMALL = dict(rtol=0, atol=1e-4)
TOKENS = torch.randint(2, 61, (3, 50), generator=torch.Generator().manual_seed(1))
MASK = torch.arange(50) < torch.tensor([50, 37, 1])[:, None]
SEGMENTS = (torch.arange(50) > torch.tensor([20, 30, 0])[:, None]).long()


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def bert(kind="BertForMaskedLM", **settings):
    sizes = dict(vocab_size=61, hidden_size=30, intermediate_size=44, num_hidden_layers=3, num_attention_heads=3)
    sizes |= dict(max_position_embeddings=60, attn_implementation="eager")
    return randomised(getattr(transformers, kind)(transformers.BertConfig(**(sizes | settings))))


def t5(**settings):
    sizes = dict(vocab_size=61, d_model=30, d_kv=7, d_ff=44, num_layers=3, num_decoder_layers=2, num_heads=3)
    sizes |= dict(decoder_start_token_id=0, attn_implementation="eager")
    return randomised(transformers.T5ForConditionalGeneration(transformers.T5Config(**(sizes | settings))), gain=0.8)


def same_files(one, other):
    one, other = (load_file(folder / "model.safetensors") for folder in (one, other))
    assert one.keys() == other.keys()
    assert all(torch.equal(x, other[name]) and x.dtype == other[name].dtype for name, x in one.items())


@pytest.mark.parametrize(
    "settings",
    [dict(), dict(hidden_act="gelu_new", layer_norm_eps=1e-3, type_vocab_size=3), dict(hidden_act="relu")],
)  # fmt: skip
def test_bert(settings, tmp_path):
    theirs = bert(**settings)
    theirs.save_pretrained(tmp_path / "theirs")
    ours = from_pretrained(tmp_path / "theirs")
    labels = TOKENS.masked_fill(TOKENS % 5 > 0, -100).masked_fill(~MASK, -100)
    found = theirs(TOKENS, attention_mask=MASK.long(), token_type_ids=SEGMENTS, labels=labels)
    logits = ours.logits(ours.vectors(TOKENS, mask=MASK, segments=SEGMENTS))
    assert found.logits.std() > 0.05
    assert_close(logits[MASK], found.logits[MASK], **SMALL)
    assert_close(ours(TOKENS, mask=MASK)[0][MASK], theirs(TOKENS, attention_mask=MASK.long()).logits[MASK], **SMALL)
    found = theirs(TOKENS, attention_mask=MASK.long(), labels=labels)
    loss = ours.masked_loss(TOKENS, labels, MASK)
    assert_close(loss, found.loss, **SMALL)
    loss.backward()
    found.loss.backward()
    layer = theirs.bert.encoder.layer[1]
    assert_close(ours.stack.layers[1].mlp.project_in.weight.grad, layer.intermediate.dense.weight.grad, **SMALL)
    assert_close(ours.positions.weight.grad, theirs.bert.embeddings.position_embeddings.weight.grad, **SMALL)
    half, expected = (copy.deepcopy(model).bfloat16() for model in (ours, theirs))
    errors = [(x.float() - found.logits)[MASK].abs().mean()
              for x in (half(TOKENS, mask=MASK)[0], expected(TOKENS, attention_mask=MASK.long()).logits)]  # fmt: skip
    assert 0 < errors[0] < 1.5 * errors[1] + 1e-3
    write_pretrained(ours, tmp_path / "theirs", tmp_path / "back")
    same_files(tmp_path / "theirs", tmp_path / "back")


def test_both_heads_of_the_training_of_bert(tmp_path):
    theirs = bert("BertForPreTraining")
    theirs.save_pretrained(tmp_path / "theirs")
    ours = from_pretrained(tmp_path / "theirs")
    found = theirs(TOKENS[:1], token_type_ids=SEGMENTS[:1])
    x = ours.vectors(TOKENS[:1], segments=SEGMENTS[:1])
    assert_close(ours.logits(x), found.prediction_logits, **SMALL)
    assert_close(ours.follows(x), found.seq_relationship_logits, **SMALL)
    theirs.bfloat16().save_pretrained(tmp_path / "half")
    write_pretrained(from_pretrained(tmp_path / "half"), tmp_path / "half", tmp_path / "back")
    same_files(tmp_path / "half", tmp_path / "back")
    with pytest.raises(ValueError, match="holds something already"):
        write_pretrained(ours, tmp_path / "theirs", tmp_path / "back")
    with pytest.raises(ValueError, match="the model is not what"):
        write_pretrained(torch.nn.Linear(2, 2), tmp_path / "theirs", tmp_path / "other")


def test_bert_without_heads_and_its_older_names(tmp_path):
    theirs = bert("BertModel")
    theirs.save_pretrained(tmp_path / "theirs")
    path = tmp_path / "theirs" / "model.safetensors"
    older = {name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): x
             for name, x in load_file(path).items()}  # fmt: skip
    save_file(older, path)
    ours = from_pretrained(tmp_path / "theirs")
    found, x = theirs(TOKENS), ours(TOKENS)[0]
    assert_close(x, found.last_hidden_state, **SMALL)
    assert_close(ours.pooled(x), found.pooler_output, **SMALL)
    with pytest.raises(ValueError, match="no head for hidden tokens"):
        ours.masked_loss(TOKENS, TOKENS)
    with pytest.raises(ValueError, match="judges no pairs"):
        ours.follows(x)


@pytest.mark.parametrize(
    "settings",
    [
        dict(),
        dict(feed_forward_proj="gated-gelu", tie_word_embeddings=False, layer_norm_epsilon=1e-3),
        dict(relative_attention_num_buckets=12, relative_attention_max_distance=20, num_decoder_layers=1),
    ],
)
def test_t5(settings, tmp_path):
    theirs = t5(**settings)
    theirs.save_pretrained(tmp_path / "theirs")
    if "tie_word_embeddings" in settings:  # as in version 1.1: transformers 5 makes none that is not tied, and reads it
        path = tmp_path / "theirs" / "model.safetensors"
        save_file(load_file(path) | {"lm_head.weight": 0.3 * torch.randn(61, 30)}, path, {"format": "pt"})
        theirs = transformers.T5ForConditionalGeneration.from_pretrained(tmp_path / "theirs")
        assert not torch.equal(theirs.lm_head.weight, theirs.shared.weight)
    ours = from_pretrained(tmp_path / "theirs")
    target = torch.cat([torch.zeros(3, 1, dtype=torch.long), TOKENS.flip(1)[:, :30]], 1)
    found = theirs(TOKENS, attention_mask=MASK.long(), decoder_input_ids=target[:, :-1], labels=target[:, 1:].clone())
    assert found.logits.std() > 0.05
    state = ours.read_source(TOKENS, MASK)
    assert_close(ours(target[:, :-1], state)[0], found.logits, **SMALL)
    loss = ours.loss(target, state=state)
    assert_close(loss, found.loss, **SMALL)
    loss.backward()
    found.loss.backward()
    bias = theirs.decoder.block[0].layer[0].SelfAttention.relative_attention_bias.weight.grad
    assert_close(ours.decoder[0].attention.distance_bias.weight.grad, bias, **SMALL)
    wo = theirs.encoder.block[1].layer[1].DenseReluDense.wo.weight.grad
    assert_close(ours.encoder[1].mlp.project_out.weight.grad, wo, **SMALL)
    with torch.no_grad():
        state, token = ours.read_source(TOKENS, MASK), target[:, :1]
        written = [token]
        for _ in range(64):
            logits, state = ours(written[-1], state)
            written.append(logits[:, -1:].argmax(-1))
        theirs.generation_config.eos_token_id = None
        expected = theirs.generate(
            TOKENS, attention_mask=MASK.long(), max_new_tokens=64, do_sample=False, pad_token_id=0
        )
        assert torch.cat(written, 1).tolist() == expected.tolist()
        whole = torch.cat(written, 1)
        assert ours(whole, ours.read_source(TOKENS, MASK))[0][:, :-1].argmax(-1).tolist() == whole[:, 1:].tolist()
    write_pretrained(ours, tmp_path / "theirs", tmp_path / "back")
    same_files(tmp_path / "theirs", tmp_path / "back")
    again = transformers.T5ForConditionalGeneration.from_pretrained(tmp_path / "back")
    assert all(torch.equal(x, y) for x, y in zip(theirs.parameters(), again.parameters(), strict=True))


def test_a_t5_without_a_head_of_its_own_has_that_of_the_embedding(tmp_path):
    theirs = t5(feed_forward_proj="gated-gelu", tie_word_embeddings=False)
    theirs.save_pretrained(tmp_path)
    assert "lm_head.weight" not in load_file(tmp_path / "model.safetensors")
    ours = from_pretrained(tmp_path)
    assert torch.equal(ours.head.weight, ours.embedding.weight)
    expected = theirs(TOKENS[:1], decoder_input_ids=TOKENS[1:2]).logits
    assert_close(ours(TOKENS[1:2], ours.read_source(TOKENS[:1]))[0], expected, **SMALL)


@pytest.mark.parametrize(
    ("theirs", "message"),
    [
        (lambda: bert(is_decoder=True), "asks for is_decoder=True"),
        (lambda: bert(tie_word_embeddings=False), "asks for tie_word_embeddings=False"),
        (lambda: bert(hidden_act="silu"), "asks for hidden_act='silu'"),
        (lambda: bert("BertForSequenceClassification"), "is a BertForSequenceClassification; ostinato has BertForMaskedLM"),
        (lambda: t5(feed_forward_proj="gated-silu"), "asks for feed_forward_proj='gated-silu'"),
    ],
)  # fmt: skip
def test_what_is_not_here_is_refused_by_name(theirs, message, tmp_path):
    theirs().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=message):
        from_pretrained(tmp_path)


def test_encoders_make_no_runs(tmp_path, capsys):
    bert().save_pretrained(tmp_path / "theirs")
    assert main(["import", str(tmp_path / "theirs"), "-o", str(tmp_path / "run")]) == 2
    assert "a bert model does not go on from what was said" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
