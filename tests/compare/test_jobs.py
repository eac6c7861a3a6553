"""One job: trained, measured, and not done again."""

import math
import sys
from dataclasses import replace

import pytest

from ostinato.compare.jobs import RESULT, TRAINED, perform, read_result, validations
from ostinato.compare.measure import step_memory, train_speed
from ostinato.compare.plan import make_plan
from ostinato.evaluate import evaluate
from ostinato.runs import Run
from ostinato.train.config import Config


@pytest.fixture(scope="module")
def plan(config):
    return make_plan(["{gla: {heads: 2}}"], config(), 1, 1)


@pytest.fixture(scope="module")
def done(plan, tmp_path_factory):
    """(result, folder, what was told)"""
    folder, told = tmp_path_factory.mktemp("job"), []
    return perform(plan.jobs[0], plan.corpus, folder, told.append), folder, told


def test_it_has_every_figure(done, plan):
    result, _, _ = done
    assert (result.mixer, result.seed, result.dim) == ("gla(heads=2)", 0, 16)
    assert result.tokens == 5 * 2 * 17
    assert [point.tokens for point in result.curve] == [2 * 34, 4 * 34, 5 * 34]
    assert 0 < result.curve[0].seconds < result.train_seconds
    assert result.best_bits_per_byte <= result.final_bits_per_byte < 9
    assert result.positions[-1].last == max(length.length for length in result.lengths if not length.error)
    assert min(result.train_tokens_per_second, result.prefill_tokens_per_second, result.decode_tokens_per_second) > 0
    assert set(result.state_bytes) >= {1024, 16384, 1048576}
    assert result.prompt in plan.corpus.tokenizer.decode(plan.corpus.valid.tokens)
    assert result.sample


def test_figures_are_of_the_model_that_was_trained(done, plan):
    result, folder, _ = done
    model = Run.open(folder / TRAINED).model()
    assert result.parameters == model.parameter_count()
    assert result.state_bytes[1024] == model.state_bytes(1024)
    again = evaluate(model, plan.corpus.valid, plan.corpus.tokenizer.token_bytes, [17, 34], max_tokens=299)
    assert [part["bits_per_byte"] for part in again["lengths"]] == [part.bits_per_byte for part in result.lengths[:2]]


def test_the_last_validation_is_the_loss_at_the_training_length(done):
    """Both are of the same windows of the same text, though two parts of the library compute them."""
    result, _, _ = done
    assert result.final_bits_per_byte == pytest.approx(result.lengths[0].bits_per_byte, rel=1e-5)


def test_it_tells_how_far_it_is(done):
    _, _, told = done
    assert [message["doing"] for message in told[:2]] == ["measuring memory", "training"]
    assert told[-1] == {"doing": "measuring"}
    assert told[-2]["step"] == told[-2]["steps"] == 5
    assert told[-2]["loss"] > 0


def test_it_is_not_done_again(done, plan):
    result, folder, _ = done
    told = []
    assert perform(plan.jobs[0], plan.corpus, folder, told.append) == result == read_result(folder)
    assert not told


@pytest.mark.parametrize("text", ["", "{}", '{"mixer": "gla"}', "[1]"])
def test_a_result_that_cannot_be_read_is_none(tmp_path, text):
    (tmp_path / RESULT).write_text(text)
    assert read_result(tmp_path) is None


def test_validations_have_the_time_of_the_line_before():
    lines = [
        {"step": 1, "tokens": 10, "seconds": 1.0},
        {"step": 2, "tokens": 20, "seconds": 3.0},
        {"step": 2, "valid_bits_per_byte": 5.0},
        {"step": 3, "valid_bits_per_byte": None},
    ]
    first, second = validations(lines)
    assert (first.tokens, first.seconds, first.bits_per_byte) == (20, 3.0, 5.0)
    assert math.isnan(second.bits_per_byte)


def test_the_first_steps_do_not_count_as_speed():
    lines = [{"tokens_per_second": speed} for speed in (1, 1, 100, 120, 110, 90, 80, 105, 95, 101)]
    assert train_speed([*lines, {"valid_loss": 1.0}]) == 100.5


@pytest.mark.skipif(sys.platform != "linux", reason="the peak can be reset on Linux only")
def test_memory_grows_with_the_batch(config):
    (job,) = make_plan(["gla"], config({"dim": 32, "layers": 2}, length=128), 1, 1).jobs
    corpus = make_plan(["gla"], config(), 1, 1).corpus
    settings = Config.read(job.config)
    small, large = (
        step_memory(replace(settings, train=replace(settings.train, batch_size=batch_size)), corpus)
        for batch_size in (2, 64)
    )
    # what is kept for the gradient: tens of numbers of 4 bytes for each of the values of x
    values = 62 * 128 * 32 * 2
    assert 40 * values < large - small < 1000 * values
