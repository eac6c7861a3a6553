"""Windows that come down while a model learns: from full attention to the spans of its layers."""

import pytest
import torch
from torch.testing import assert_close

import ostinato
from ostinato.mixers.attention import attention as module
from ostinato.models.layouts import mixed_spans
from ostinato.train import Config, train
from ostinato.train.spans import span_schedule
from ostinato.train.windows import seeing, windowed_attention


def test_spans_come_down_by_the_same_factor():
    spans = [span_schedule([None, 4, 16], step, 20, wide=64, part=0.4) for step in range(21)]
    assert spans[0] == [None, 64, 64]
    assert [span[1] for span in spans[:9:2]] == [64, 32, 16, 8, 4]
    assert [span[2] for span in spans[:9:4]] == [64, 32, 16]
    assert spans[8:] == [[None, 4, 16]] * 13
    assert all(after <= before for one, two in zip(spans, spans[1:]) for before, after in zip(one[1:], two[1:]))


def test_all_at_once_is_the_paper_and_a_wider_span_stays():
    assert span_schedule([None, 4], 0, 10, wide=64, part=0) == [None, 4]
    assert [span_schedule([9, 3], step, 4, wide=5, part=1) for step in (0, 2, 4)] == [[9, 5], [9, 4], [9, 3]]


def masformer(pattern=None):
    torch.manual_seed(0)
    pattern = {} if pattern is None else {"pattern": pattern}
    return ostinato.create("model:masformer", vocab_size=11, size="tiny", **pattern).double()


def test_from_full_attention_to_masformer_with_the_same_weights():
    """The first step sees what full attention sees, the last what MASFormer does."""
    full, model = masformer(mixed_spans(3, 3, 2, 1)), masformer()
    model.load_state_dict(full.state_dict())
    own = [module.window for module in windowed_attention(model)]
    assert own == [7, 7]
    tokens = torch.arange(60).view(2, 30) % 11
    with seeing(model, span_schedule(own, 0, 10, wide=30)):
        assert_close(model(tokens)[0], full(tokens)[0])
    with seeing(model, span_schedule(own, 2, 10, wide=30)):
        between = model(tokens)[0]
    assert not torch.allclose(between, full(tokens)[0])
    assert not torch.allclose(between, model(tokens)[0])
    with seeing(model, span_schedule(own, 5, 10, wide=30)):
        at_the_end = model(tokens)[0]
    assert_close(at_the_end, model(tokens)[0], rtol=0, atol=0)
    assert [module.window for module in windowed_attention(model)] == own


def test_each_layer_has_its_own_for_a_while():
    model, tokens = masformer(), torch.arange(60).view(2, 30) % 11
    other = masformer([{"attention": {"heads": 2, "window": window}} for window in (None, 3, 20)])
    other.load_state_dict(model.state_dict())
    with seeing(model, [3, 20]):
        assert_close(model(tokens)[0], other(tokens)[0], rtol=0, atol=0)
    with pytest.raises(ValueError, match="has 2 layers with a window; got 1 windows"), seeing(model, [3]):
        pass


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(wide=0), "a span is at least 1 token"),
        (dict(spans=[None, 0]), r"a span is at least 1 token, .*; got 8 and \[None, 0\]"),
        (dict(part=1.5), "part is from 0 to 1"),
        (dict(step=11), "step from 0 to 10; got 0.5 and 11"),
    ],
)
def test_refused_with_a_sentence(arguments, message):
    with pytest.raises(ValueError, match=message):
        span_schedule(**{"spans": [4], "step": 0, "steps": 10, "wide": 8, "part": 0.5, **arguments})


SPANS = [{"attention": {"heads": 2, "window": window}} for window in (None, 5)]


def test_a_run_begins_wide_and_ends_with_the_spans_of_its_model(config, tmp_path, monkeypatch):
    seen, plain = [], module.attention

    def recorded(*arguments, **keywords):
        seen.append((torch.is_grad_enabled(), keywords["window"]))
        return plain(*arguments, **keywords)

    monkeypatch.setattr(module, "attention", recorded)
    values = config(model={"pattern": SPANS, "layers": 2}, steps=6, span_from=17, span_part=0.5)
    run = train(values, tmp_path / "run")
    expected = [span for step in range(6) for span in span_schedule([None, 5], step, 6, wide=17)]
    assert expected[:4] == [None, 17, None, 11]
    assert [window for learning, window in seen if learning] == expected
    assert {window for learning, window in seen if not learning} == {None, 5}, "validation has the spans of the model"
    assert [layer.mixer.window for layer in run.model().stack.layers] == [None, 5]


def test_settings_that_do_not_go_together_are_refused(config, tmp_path):
    with pytest.raises(ValueError, match=r"train: windows or span_from says what attention sees; got both"):
        Config.read({"train": {"windows": [3], "span_from": 9}})
    with pytest.raises(ValueError, match=r"train\.span_from: the model has no attention with a window"):
        train(config(span_from=9), tmp_path / "run")
    assert not (tmp_path / "run").exists()
