"""What every architecture is measured by: the numbers of transformers, and what it writes."""

import copy

import torch
from torch.testing import assert_close

from ostinato import from_pretrained
from ostinato.convert import table
from ostinato.convert.exporting import export_run
from ostinato.convert.importing import import_run, load


def randomised(model, gain=1.2):
    """The model with random weights of moderate size, norms and biases too: zeros and ones hide faults."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim > 1:
                parameter.copy_(noise * gain * parameter.shape[-1] ** -0.5)
            else:
                parameter.add_(0.3 * noise)
    return model.eval()


def check(theirs, tmp_path, *, cached=True, masked=True, halved=True, slack=1e-4):
    """Saves a model of transformers, reads it, and compares everything that both can do, and the weights on the way back.

    cached: whether theirs continues with a state as it does without one
    masked: whether theirs can be told what is padding
    halved: whether theirs runs in bfloat16
    slack: how far gradients may be apart, as a part of the largest where that is more than 1
    """
    folder = tmp_path / "theirs"
    theirs.save_pretrained(folder)
    weights = {name: parameter.clone() for name, parameter in theirs.named_parameters()}
    ours = from_pretrained(folder)
    tokens = torch.randint(theirs.config.vocab_size - 1, (2, 120), generator=torch.Generator().manual_seed(1))
    padding = getattr(theirs.config, "pad_token_id", None)
    tokens += 0 if padding is None else tokens >= padding  # the row of padding does not learn in transformers
    expected = learning(ours, theirs, tokens, load(folder), slack)
    with torch.no_grad():
        greedy(ours, theirs, tokens[:, :100], cached)
        padded(ours, theirs, tokens[:, :50], masked)
        half(ours, theirs if halved else None, tokens, expected)
    round_trip(type(theirs), weights, folder, tmp_path)
    return ours


def learning(ours, theirs, tokens, imported, slack):
    """Logits, loss and gradients; returns the logits."""
    found = theirs(tokens, labels=tokens, use_cache=False)
    expected = found.logits.detach()
    assert expected.std() > 0.05, "logits that are all alike show nothing"
    with torch.no_grad():
        assert_close(ours(tokens)[0], expected, rtol=0, atol=1e-4)
    loss = ours.loss(tokens)
    assert_close(loss, found.loss, rtol=0, atol=1e-4)
    loss.backward()
    found.loss.backward()
    rows = [row for row in imported.architecture.rows(imported.arguments) if "mixed" not in row.read.__qualname__]
    gradients = table.write(rows, {name: x.grad for name, x in ours.named_parameters(remove_duplicate=False)})
    compared = {name: x.grad for name, x in theirs.named_parameters() if name in gradients and x.grad is not None}
    assert len(compared) > len(list(theirs.parameters())) / 2
    for name, gradient in compared.items():
        atol = slack * max(1.0, gradient.abs().max().item())
        assert_close(gradients[name], gradient, rtol=0, atol=atol, msg=lambda said, name=name: f"{name}: {said}")
    for model in (ours, theirs):
        model.zero_grad()
    return expected


def greedy(ours, theirs, prompt, cached, count=64):
    """The likeliest tokens after a prompt, one by one with the state, are those that transformers finds.

    Without a state: each is what either finds likeliest after all that is before it, read at once.
    """
    logits, state = ours(prompt)
    found = [logits[:, -1].argmax(-1)]
    while len(found) < count:
        logits, state = ours(found[-1][:, None], state)
        found.append(logits[:, -1].argmax(-1))
    found = torch.stack(found, 1)
    whole = torch.cat([prompt, found], 1)
    for logits in (ours(whole)[0], theirs(whole, use_cache=False).logits):
        assert logits[:, prompt.shape[1] - 1 : -1].argmax(-1).tolist() == found.tolist()
    if cached:
        theirs.generation_config.eos_token_id = None  # all tokens are words here
        mask = torch.ones_like(prompt)
        again = theirs.generate(prompt, attention_mask=mask, max_new_tokens=count, do_sample=False, pad_token_id=0)
        assert again[:, prompt.shape[1] :].tolist() == found.tolist()


def padded(ours, theirs, tokens, masked, length=37):
    """A batch of rows of unequal length, the shorter one with padding before it: a reset where it begins."""
    first = torch.tensor([tokens.shape[1] - length, 0])
    place = torch.arange(tokens.shape[1])
    reset = place == first[:, None]
    found = ours(tokens, reset=reset)[0]
    if masked:
        mask = place >= first[:, None]
        position = {} if masked == "alone" else {"position_ids": (place - first[:, None]).clamp(min=0)}
        expected = theirs(tokens, attention_mask=mask.long(), **position, use_cache=False).logits
    else:
        row = theirs(tokens[:1, -length:], use_cache=False).logits
        expected = torch.stack([torch.cat([found[0, :-length], row[0]]), theirs(tokens[1:], use_cache=False).logits[0]])
    assert_close(found[0, -length:], expected[0, -length:], rtol=0, atol=1e-4)
    assert_close(found[1], expected[1], rtol=0, atol=1e-4)


def half(ours, theirs, tokens, expected):
    """In bfloat16 the numbers are no further from those in float32 than transformers' own."""
    error = (copy.deepcopy(ours).bfloat16()(tokens)[0].float() - expected).abs().mean()
    bound = 0.1 * expected.std()
    if theirs is not None:
        found = copy.deepcopy(theirs).bfloat16()(tokens, use_cache=False).logits.float()
        bound = 1.5 * (found - expected).abs().mean() + 1e-3
    assert 0 < error < bound


def round_trip(kind, weights, folder, tmp_path):
    """Imported as a run and exported again, transformers reads the same weights, bit for bit."""
    run = import_run(folder, tmp_path / "run")
    export_run(run, tmp_path / "back")
    again, report = kind.from_pretrained(tmp_path / "back", output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    found = dict(again.named_parameters())
    assert found.keys() == weights.keys()
    for name, weight in weights.items():
        assert weight.dtype == found[name].dtype
        assert torch.equal(weight, found[name]), name
