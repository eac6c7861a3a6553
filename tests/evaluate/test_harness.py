"""lm-evaluation-harness: the likelihoods of plain reading, with what requests share read once."""

import json
import math
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from ostinato.cli.__main__ import main
from ostinato.data import ByteTokenizer
from ostinato.evaluate.prefixes import walk
from ostinato.models.named import build
from tests.hf.runs import make_run

PATTERNS = {"gla+window": [{"gla": {"heads": 2}}, {"attention": {"heads": 2, "window": 9}}], "attention": ["attention"]}
EXAMPLES = "Question: what is red? Answer: blood. "
CONTEXTS = [EXAMPLES + "Question: what is green? Answer:", EXAMPLES + "Question: what is blue? Answer:", EXAMPLES[:-1]]
ANSWERS = [" grass", " sky", " the sky above the sea", " grass and leaves", " "]


def request(*arguments):
    return SimpleNamespace(args=arguments)


def make(pattern="gla+window", **how):
    pytest.importorskip("lm_eval")
    from ostinato.harness import HarnessLM

    torch.manual_seed(0)
    model = build(256, dim=16, layers=2, pattern=PATTERNS[pattern]).double().eval().requires_grad_(False)
    with torch.no_grad():
        model.embedding.weight.mul_(20)
    return HarnessLM(model, ByteTokenizer(), **how)


def plainly(lm, context, answer, begins_with=None):
    """The same from logits of the whole, at once."""
    before = list(context.encode()) or ([] if begins_with is None else [begins_with])
    whole = torch.tensor([before + list(answer.encode())])
    total, greedy = 0.0, True
    log_p = lm.model(whole)[0].float().log_softmax(-1)[0] if whole.numel() else None
    for at in range(len(before), whole.shape[1]):
        if at == 0:
            total, greedy = total - math.log(256), False
        else:
            total += float(log_p[at - 1, whole[0, at]])
            greedy &= int(log_p[at - 1].argmax()) == whole[0, at]
    return total, greedy


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("batch_size", [1, 3, 8])
@pytest.mark.parametrize("begins_with", [None, 10])
def test_likelihoods_are_those_of_plain_reading(pattern, batch_size, begins_with):
    lm = make(pattern, batch_size=batch_size, begins_with=begins_with)
    pairs = [(context, answer) for answer in ANSWERS for context in [*CONTEXTS, ""]]
    pairs += [pairs[3], (CONTEXTS[0], ANSWERS[0] + "!"), (CONTEXTS[0] + ANSWERS[0], "!"), ("a", ""), ("", "")]
    found = lm.loglikelihood([request(*pair) for pair in pairs])
    assert len({round(total, 5) for total, _ in found}) > 15
    for pair, (total, greedy) in zip(pairs, found, strict=True):
        expected, likeliest = plainly(lm, *pair, begins_with)
        assert total == pytest.approx(expected, abs=1e-4), pair
        assert greedy == likeliest
    rolling = lm.loglikelihood_rolling([request(text) for text in (CONTEXTS[0] * 40, "x", CONTEXTS[1])])
    for text, total in zip((CONTEXTS[0] * 40, "x", CONTEXTS[1]), rolling, strict=True):
        assert total == pytest.approx(plainly(lm, "", text, begins_with)[0], rel=1e-5)


def test_what_is_likeliest_is_said_to_be():
    lm = make()
    answer = lm.generate_until([request(CONTEXTS[0], {"max_gen_toks": 4})])[0]
    context = list(CONTEXTS[0].encode())
    tokens = torch.tensor([context])
    for _ in range(4):
        tokens = torch.cat([tokens, lm.model(tokens)[0][:, -1:].argmax(-1)], 1)
    assert answer == bytes(tokens[0, -4:].tolist()).decode(errors="replace")
    likeliest = tokens[0, -4:].tolist()
    other = [*likeliest[:3], (likeliest[3] + 1) % 256]
    asked = [(None, context, likeliest), (None, context, other)]
    assert [greedy for _, greedy in lm._loglikelihood_tokens(asked)] == [True, False]


def test_what_is_shared_is_read_once():
    lm = make()
    pairs = [(context, answer) for answer in ANSWERS for context in CONTEXTS]
    lm.loglikelihood([request(*pair) for pair in pairs])
    different = {
        (context + answer).encode()[:end] for context, answer in pairs for end in range(1, len(context + answer))
    }
    assert lm.read == len(different), "as many tokens as there are different beginnings"
    assert lm.read < 0.25 * sum(len(context + answer) for context, answer in pairs)


def test_walk_meets_every_sequence_once():
    sequences = ["abcd", "ab", "abce", "x", "abcd", "", "xyz"]
    pieces = []

    def read(begin, end, state, group):
        piece = {sequences[i][begin:end] for i in group}
        assert len(piece) == 1
        pieces.append(piece.pop())
        return (state or "") + pieces[-1]

    found = {i: (depth, state) for i, depth, state in walk(sequences, read)}
    assert sorted(found) == list(range(7))
    assert all((state or "") == sequences[i][:depth] for i, (depth, state) in found.items())
    assert sorted(pieces) == ["ab", "c", "d", "x"]
    assert found[0] == found[4] == (4, "abcd")
    assert list(walk([], read)) == []


def test_answers_end_where_they_should():
    lm = make()
    (whole,) = lm.generate_until([request(CONTEXTS[0], {"until": [], "max_gen_toks": 30})])
    assert whole
    cut = whole[len(whole) // 2]
    asked = {"until": [cut], "max_gen_toks": 30, "temperature": 0.0, "do_sample": False}
    answers = lm.generate_until([request(context, asked) for context in CONTEXTS])
    assert answers[0] == whole[: whole.index(cut)]
    assert lm.generate_until([request(CONTEXTS[2], asked)]) == answers[2:]
    drawn = {"do_sample": True, "temperature": 2.0, "top_k": 50, "max_gen_toks": 9}
    assert lm.generate_until([request(CONTEXTS[0], drawn)]) != [whole[:9]]
    with pytest.raises(ValueError, match="this task asks for length_penalty"):
        lm.generate_until([request("a", {"do_sample": True, "length_penalty": 1})])
    with pytest.raises(ValueError, match="a context of at least 1 token"):
        lm.generate_until([request("", {})])
    lm.ends_with = {255, int(whole.encode()[0])}
    assert lm.eot_token_id == min(lm.ends_with)
    assert lm.generate_until([request(CONTEXTS[0], {})]) == [""]


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({}, (None, set())),
        ({"bos_token_id": 3, "eos_token_id": 4}, (3, {4})),
        ({"bos_token_id": None, "eos_token_id": [9, 7]}, (7, {7, 9})),
    ],
)
def test_tokens_that_an_imported_model_begins_and_ends_texts_with(config, expected, tmp_path):
    pytest.importorskip("lm_eval")
    from ostinato.harness import special_tokens

    run = make_run(tmp_path / "run", ["gla"])
    (run.folder / "hugging_face").mkdir()
    (run.folder / "hugging_face" / "config.json").write_text(json.dumps(config))
    assert special_tokens(run) == expected


CHOICES = """
task: colours
dataset_path: json
dataset_kwargs: {data_files: {test: FOLDER/colours.json}}
test_split: test
output_type: multiple_choice
doc_to_text: "What is {{thing}}?"
doc_to_choice: [" red", " green", " blue"]
doc_to_target: answer
metric_list: [{metric: acc}]
"""
WRITING = """
task: writing
dataset_path: json
dataset_kwargs: {data_files: {test: FOLDER/colours.json}}
test_split: test
output_type: generate_until
doc_to_text: "What is {{thing}}?"
doc_to_target: "{{thing}}"
generation_kwargs: {until: ["."], max_gen_toks: 5}
metric_list: [{metric: exact_match}]
"""
TEXTS = """
task: texts
dataset_path: json
dataset_kwargs: {data_files: {test: FOLDER/colours.json}}
test_split: test
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{thing}} is a thing."
metric_list: [{metric: byte_perplexity}]
"""


def test_tasks_of_ones_own_from_the_command_line(tmp_path, capsys):
    pytest.importorskip("lm_eval")
    run, tasks, out = make_run(tmp_path / "run", PATTERNS["gla+window"]), tmp_path / "tasks", tmp_path / "out.json"
    tasks.mkdir()
    things = [{"thing": thing, "answer": n} for n, thing in enumerate(["blood", "grass", "the sky"])] * 3
    (tasks / "colours.json").write_text("\n".join(map(json.dumps, things)))
    for name, content in (("colours", CHOICES), ("writing", WRITING), ("texts", TEXTS)):
        (tasks / f"{name}.yaml").write_text(content.replace("FOLDER", str(tasks)))
    home = {"HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    command = [sys.executable, "-m", "ostinato.cli", "evaluate", str(run.folder), "--harness-folder", str(tasks)]

    words = ["--harness", "colours,writing,texts", "--json", str(out)]
    done = subprocess.run([*command, *words], capture_output=True, text=True, env=os.environ | home)
    assert done.returncode == 0, done.stderr
    assert "colours" in done.stdout
    result = json.loads(out.read_text())["results"]
    model = run.model().requires_grad_(False)
    right, nats, size = 0, 0.0, 0
    for document in things:
        scores = []
        for answer in (" red", " green", " blue"):
            whole = f"What is {document['thing']}?{answer}".encode()
            log_p = model(torch.tensor([list(whole)]))[0][0].log_softmax(-1)
            begin = len(whole) - len(answer)
            scores.append(sum(float(log_p[at - 1, whole[at]]) for at in range(begin, len(whole))))
        right += scores.index(max(scores)) == document["answer"]
        text = f"{document['thing']} is a thing.".encode()
        log_p = model(torch.tensor([list(text)]))[0][0].log_softmax(-1)
        nats += math.log(256) - sum(float(log_p[at - 1, text[at]]) for at in range(1, len(text)))
        size += len(text)
    assert result["colours"]["acc,none"] == pytest.approx(right / len(things))
    assert result["texts"]["byte_perplexity,none"] == pytest.approx(math.exp(nats / size), rel=1e-4)
    assert result["writing"]["exact_match,none"] == 0.0
    assert main(["evaluate", str(run.folder), "--harness", "colors", "--harness-folder", str(tasks)]) == 2
    error = capsys.readouterr().err
    assert "there is no task 'colors'" in error
    assert "did you mean colours" in error


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--limit", "3"], "are for --harness"),
        (["--harness", "texts", "--length", "9"], "without --data, --length and --max-tokens"),
        (["--harness", "texts"], "pip install 'ostinato[harness]'"),
    ],
)
def test_what_does_not_fit_is_one_line(words, message, tmp_path, capsys, monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "lm_eval"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delitem(sys.modules, "ostinato.harness", raising=False)
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    run = make_run(tmp_path / "run", ["gla"])
    assert main(["evaluate", str(run.folder), *words]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
