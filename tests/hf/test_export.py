"""What `ostinato export` writes is read by others, with the same numbers."""

import json
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, load_model

from ostinato import from_pretrained
from ostinato.cli.__main__ import main
from ostinato.convert.exporting import FORMATS, export_run
from ostinato.models.named import build
from ostinato.runs import Run
from tests.hf.runs import TEXT, make_run

HYBRID = [{"gla": {"heads": 2}}, {"attention": {"heads": 2, "window": 5}}]
TOKENS = torch.tensor([[72, 101, 108, 108, 111, 44, 32]])


@pytest.mark.parametrize("tokenizer", ["bytes", "bpe"])
def test_a_run_that_transformers_has_no_class_for_is_read_after_an_import(tokenizer, tmp_path, capsys):
    transformers = pytest.importorskip("transformers")
    import ostinato.hf

    run, folder = make_run(tmp_path / "run", HYBRID, tokenizer=tokenizer), tmp_path / "theirs"
    assert main(["export", str(run.folder), "--to", "transformers", "-o", str(folder)]) == 0
    assert json.loads((folder / "config.json").read_text())["model_type"] == "ostinato"
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=False)
    assert isinstance(model, ostinato.hf.OstinatoForCausalLM)
    assert torch.equal(model(TOKENS).logits, run.model()(TOKENS)[0])
    theirs, ours = transformers.AutoTokenizer.from_pretrained(folder), run.tokenizer()
    for text in (TEXT, "<unk> a  b\r\n\x00ﬁ", " "):
        assert theirs(text).input_ids == ours.encode(text).tolist()
        assert theirs.decode(theirs(text).input_ids) == text
    theirs.pad_token_id = 0
    write = transformers.pipeline("text-generation", model=model, tokenizer=theirs)
    prompts = ["one line", "one more line of"]
    how = dict(max_new_tokens=7, do_sample=False, return_full_text=False)
    alone = [write(prompt, **how)[0]["generated_text"] for prompt in prompts]
    assert [text[0]["generated_text"] for text in write(prompts, batch_size=2, **how)] == alone
    model.save_pretrained(tmp_path / "again")
    first, again = (load_file(path / "model.safetensors") for path in (folder, tmp_path / "again"))
    assert first.keys() == again.keys()
    assert all(torch.equal(x, again[name]) for name, x in first.items())


def test_our_class_can_be_asked_for(tmp_path):
    run = make_run(tmp_path / "run", ["attention"], mlp="swiglu")
    kinds = [
        json.loads((export_run(run, tmp_path / to, to=to) / "config.json").read_text()) for to in list(FORMATS)[:2]
    ]
    assert [kind["model_type"] for kind in kinds] == ["llama", "ostinato"]


def test_weights_and_the_arguments_that_they_belong_to(tmp_path):
    run = make_run(tmp_path / "run", HYBRID)
    folder = export_run(run, tmp_path / "plain", to="safetensors")
    model = build(**json.loads((folder / "config.json").read_text())["model"]).eval()
    load_model(model, folder / "model.safetensors")
    assert torch.equal(model(TOKENS)[0], run.model()(TOKENS)[0])


def test_what_others_made_of_it_goes_back_into_a_run(tmp_path, capsys):
    transformers = pytest.importorskip("transformers")
    import ostinato.hf

    run, theirs = make_run(tmp_path / "run", [{"hgrn2": {"heads": 2}}, "mamba"]), tmp_path / "theirs"
    export_run(run, theirs)
    model = transformers.AutoModelForCausalLM.from_pretrained(theirs)
    assert type(model) is ostinato.hf.OstinatoForCausalLM
    with torch.no_grad():
        model.model.embedding.weight.add_(0.1)
    tokenizer = transformers.AutoTokenizer.from_pretrained(theirs)
    tokenizer.pad_token_id = 0
    for part in (model, tokenizer):
        part.save_pretrained(tmp_path / "tuned")
    assert main(["import", str(tmp_path / "tuned"), "-o", str(tmp_path / "again")]) == 0
    again = Run.open(tmp_path / "again")
    assert torch.equal(again.model()(TOKENS)[0], model(TOKENS).logits)
    assert again.tokenizer().encode(TEXT).tolist() == run.tokenizer().encode(TEXT).tolist()
    tensors = load_file(export_run(again, tmp_path / "back") / "model.safetensors")
    assert tensors.keys() == load_file(tmp_path / "tuned" / "model.safetensors").keys()
    assert all(torch.equal(model.state_dict()[name], x) for name, x in tensors.items())
    for pattern, what in (
        (["sigmoid_window_attention"], "is in no checkpoint"),
        (None, "a class of its own .awd_lstm."),
    ):
        arguments = {"name": "awd_lstm", "dim": 12} if pattern is None else {"dim": 12, "pattern": pattern}
        other = ostinato.hf.OstinatoForCausalLM(ostinato.hf.OstinatoConfig(vocab_size=9, model=arguments))
        other.save_pretrained(tmp_path / arguments.get("name", "other"))
        with pytest.raises(ValueError, match=what):
            from_pretrained(tmp_path / arguments.get("name", "other"))


ALONE = """
import sys, torch
from safetensors.torch import load_file, save_file
sys.modules["ostinato"] = None
step = torch.export.load(f"{sys.argv[1]}/step.pt2").module()
state = [part for _, part in sorted(load_file(f"{sys.argv[1]}/state.safetensors").items())]
found = []
for token in map(int, sys.argv[2:]):
    logits, *state = step(torch.tensor([[token]]), *state)
    found.append(logits)
save_file({"logits": torch.cat(found, 1).detach()}, f"{sys.argv[1]}/found.safetensors")
"""


@pytest.mark.parametrize("pattern", [["gla", "mamba"], ["s4d", "lstm"]], ids=str)
def test_a_step_of_torch_export_runs_in_a_process_without_us(pattern, tmp_path):
    run = make_run(tmp_path / "run", pattern)
    folder = export_run(run, tmp_path / "step", to="torch-export")
    words = [str(token) for token in TOKENS[0].tolist()]
    subprocess.run([sys.executable, "-c", ALONE, str(folder), *words], check=True, capture_output=True)
    found = load_file(folder / "found.safetensors")["logits"]
    torch.testing.assert_close(found, run.model()(TOKENS)[0].detach(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("pattern", [["gla", "lstm"], ["mamba", "gated_deltanet"]], ids=str)
def test_a_step_of_onnx_gives_the_same_logits(pattern, tmp_path):
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    run = make_run(tmp_path / "run", pattern)
    folder = export_run(run, tmp_path / "step", to="onnx")
    session = runtime.InferenceSession(folder / "step.onnx", providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_inputs()]
    state, found = [part.numpy() for _, part in sorted(load_file(folder / "state.safetensors").items())], []
    for token in TOKENS[0]:
        logits, *state = session.run(None, dict(zip(names, [token.view(1, 1).numpy(), *state], strict=True)))
        found.append(torch.from_numpy(logits))
    torch.testing.assert_close(torch.cat(found, 1), run.model()(TOKENS)[0].detach(), rtol=1e-4, atol=1e-5)


def test_what_cannot_be_a_program_is_refused_in_one_line_and_leaves_nothing(tmp_path, capsys):
    growing = make_run(tmp_path / "growing", ["attention"])
    for to in ("torch-export", "onnx"):
        assert main(["export", str(growing.folder), "--to", to, "-o", str(tmp_path / "out")]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        assert "grows" in error or "needs onnx" in error
    if pytest.importorskip("onnxscript"):
        complex_numbers = make_run(tmp_path / "complex", ["s4d"])
        assert main(["export", str(complex_numbers.folder), "--to", "onnx", "-o", str(tmp_path / "out")]) == 2
        assert "ONNX has no operator for aten.exp of complex numbers" in capsys.readouterr().err
    assert {path.name for path in tmp_path.iterdir()} == {"growing", "complex"}


def test_transformers_is_not_needed_to_export(tmp_path, monkeypatch):
    run = make_run(tmp_path / "run", HYBRID)
    monkeypatch.setitem(sys.modules, "transformers", None)
    assert main(["export", str(run.folder), "-o", str(tmp_path / "out")]) == 0
    assert (tmp_path / "out" / "model.safetensors").is_file()
