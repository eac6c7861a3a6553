"""What a config accepts, what it refuses and in which words, and what follows from it."""

import pytest
import yaml

from ostinato.models.budget import parameter_count
from ostinato.train import Config
from ostinato.train.config import assignments, differences, load, meaning, override

REFUSED = [
    ({"train": {"learning_rate": "fast"}}, "train.learning_rate: a number above 0; got 'fast'"),
    ({"train": {"learning_rate": 0}}, "train.learning_rate: a number above 0; got 0"),
    ({"train": {"learning_rate": float("nan")}}, "train.learning_rate: a number above 0; got nan"),
    ({"train": {"learning_rat": 1}}, "train.learning_rat: no such key (did you mean learning_rate?)"),
    ({"train": {"xyz": 1}}, "train.xyz: no such key; train has steps, tokens,"),
    ({"train": {"steps": 2.5}}, "train.steps: a whole number of at least 1, or null; got 2.5"),
    ({"train": {"steps": True}}, "train.steps: a whole number of at least 1, or null; got True"),
    ({"train": {"steps": 10, "tokens": "1M"}}, "train: steps or tokens says how long to train; got both"),
    ({"train": {"beta2": 1}}, "train.beta2: a number of at least 0 and below 1; got 1"),
    ({"train": {"clip": -1}}, "train.clip: a number above 0, or null; got -1"),
    (
        {"train": {"schedule": "cosin"}},
        "train.schedule: one of cosine, wsd, noam, constant; got 'cosin' (did you mean cosine?)",
    ),
    ({"train": {"tensorboard": "yes"}}, "train.tensorboard: true or false; got 'yes'"),
    ({"train": [1]}, "train: a section with keys of its own; got [1]"),
    ({"data": {"paths": [1]}}, "data.paths: text or a list of it, or null; got [1]"),
    ({"data": {"valid_fraction": 1}}, "data.valid_fraction: a number above 0 and below 1; got 1"),
    ({"trian": {}}, "trian: no such section (did you mean train?); a config has model, data, train"),
    ({"learning_rate": 1}, "learning_rate: no such section (did you mean train.learning_rate?)"),
    ({"model": {"width": 8}}, "model.width: no such key; model has dim,"),
    ({"model": {"layer": 8}}, "model.layer: no such key (did you mean layers"),
    ({"model": {"layers": "four"}}, "model.layers: a whole number; got 'four'"),
    ({"model": {"params": "lots"}}, "model.params: a whole number of at least 1; got 'lots'"),
    ({"model": {"params": "1M", "dim": 8}}, "model: dim and params say the same in two ways; got both"),
    ({"model": {"mixer": "gla", "pattern": ["gla"]}}, "model: pattern and mixer say the same in two ways; got both"),
    ({"model": {"mixer": "glaa"}}, "model.pattern: there is no 'glaa' in ostinato (did you mean gla"),
    ({"model": {"mixer": {"gla": {"head": 2}}}}, "model.pattern: mixer:gla has no argument 'head' (did you mean heads"),
    ({"model": {"mixer": {"gla": {"heads": "two"}}}}, "model.pattern.gla.heads: a whole number; got 'two'"),
    ({"model": {"pattern": 3}}, "model.pattern: a list of mixers, each a name or {name: {argument: value}}; got 3"),
    ({"model": {"pattern": []}}, "model.pattern: pattern names at least one mixer; got none"),
    (3, "a config: a section with keys of its own; got 3"),
]

UNBUILDABLE = [
    ({"model": {"layers": 0}}, "model: layers is the number of blocks, at least 1; got 0"),
    ({"model": {"dim": 30}}, "model: dim is shared evenly by the heads; 30 is no multiple of heads=4"),
    ({"model": {"mlp": "swigul"}}, "model: mlp is one of swiglu"),
    ({"model": {"params": "1k"}}, "model: params: 1,000 cannot be met: the narrowest such model, dim 8, has"),
    ({"train": {"steps": 10, "warmup": 11}}, "train.warmup: at most the 10 steps of the run; got 11"),
]


@pytest.mark.parametrize(("values", "message"), REFUSED, ids=[message.split(";")[0] for _, message in REFUSED])
def test_what_is_wrong_is_said_in_one_line(values, message):
    with pytest.raises(ValueError, match=r"\S") as caught:
        Config.read(values)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("values", "message"), UNBUILDABLE, ids=[message for _, message in UNBUILDABLE])
def test_what_cannot_be_built_is_said_in_one_line(values, message):
    with pytest.raises(ValueError, match=r"\S") as caught:
        Config.read(values).resolve(256)
    assert str(caught.value).startswith(message)


def test_numbers_may_be_written_as_people_write_them():
    train = Config.read({"train": {"tokens": "1.5M", "learning_rate": "1e-3", "warmup": 1e2}}).train
    assert (train.tokens, train.learning_rate, train.warmup) == (1_500_000, 0.001, 100)
    assert isinstance(train.warmup, int)
    assert Config.read({"model": {"params": "2.5k"}}).model["params"] == 2500


def test_what_is_left_open_follows():
    config = Config.read({"train": {"tokens": "10k", "batch_size": 2, "length": 100, "accumulate": 3}})
    assert config.resolve(256).train.steps == 17  # of 600 tokens
    assert config.resolve(256, processes=4).train.steps == 5
    resolved = config.resolve(256, threads=3)
    assert (resolved.train.warmup, resolved.train.tokens, resolved.train.threads) == (1, None, 3)
    assert (resolved.model["dim"], resolved.model["layers"], resolved.model["mlp"]) == (128, 4, "swiglu")


def test_a_resolved_config_stays_as_it_is_through_yaml():
    config = Config.read({"model": {"params": "50k", "layers": 2}, "train": {"steps": 3}}).resolve(256, threads=1)
    assert "params" not in config.model
    again = Config.read(yaml.safe_load(yaml.safe_dump(config.to_mapping())))
    assert again == config == again.resolve(256)
    assert differences(config, again) == []


def test_flags_override_the_file(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text("model: {dim: 32, mixer: gla}\ntrain:\n  steps: 5\n  clip: 2\ndata:\n")
    flags = {"model": {"params": "60k"}, "train": {"tokens": "9k"}, "data": {"column": "body"}}
    config = Config.read(override(load(path), flags))
    assert config.model == {"params": 60_000, "pattern": ["gla"]}
    assert (config.train.steps, config.train.tokens, config.train.clip) == (None, 9000, 2.0)
    assert config.data.column == "body"


def test_assignments_are_yaml():
    words = ["train.clip=null", "model.pattern=[gla, {gla: {heads: 2}}]", "train.learning_rate=1e-3"]
    assert assignments(words) == {
        "train": {"clip": None, "learning_rate": "1e-3"},
        "model": {"pattern": ["gla", {"gla": {"heads": 2}}]},
    }
    for wrong in ("clip=1", "train.clip", "train.=1"):
        with pytest.raises(ValueError, match=r"--set takes SECTION.KEY=VALUE, as in train.clip=0.5; got"):
            assignments([wrong])
    with pytest.raises(ValueError, match=r"--set train.clip: '\[' is not a YAML value"):
        assignments(["train.clip=["])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a: [", "not YAML .* in line"),
        (b"- 1", "a config has the sections model, data, train"),
        (b"\xff\xfe\xfa", "not UTF-8"),
    ],
)
def test_a_file_that_is_no_config(tmp_path, content, message):
    (tmp_path / "config.yaml").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        load(tmp_path / "config.yaml")
    with pytest.raises(FileNotFoundError, match="no config file"):
        load(tmp_path / "other.yaml")


def test_differences_are_named():
    one = Config.read({"train": {"steps": 3}, "model": {"layers": 2}})
    other = Config.read({"train": {"steps": 4}, "model": {"layers": 2, "mlp": None}})
    assert differences(one, other) == ["train.steps is 3, now 4"]
    assert differences(one, Config.read({"model": {"layers": 2}, "data": {"seed": 1}})) == [
        "data.seed is 0, now 1",
        "train.steps is 3, now None",
    ]


def test_every_setting_is_explained():
    assert meaning("train.clip") == "Longest gradient; a longer one is shortened to it."
    assert meaning("train.precision").endswith("(float32, bf16).")
    for section in ("data", "train"):
        for name in Config().to_mapping()[section]:
            assert len(meaning(f"{section}.{name}")) > 15


def test_the_budget_of_a_config_is_met():
    config = Config.read({"model": {"params": "300k", "layers": 2, "mixer": "gla"}}).resolve(256)
    assert parameter_count(256, **config.model) == pytest.approx(300_000, rel=0.05)
