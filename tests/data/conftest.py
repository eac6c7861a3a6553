import pytest

from tests.data.corpora import write_jsonl


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """An empty cache for each test."""
    monkeypatch.setenv("OSTINATO_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def many(tmp_path):
    """400 documents of different lengths."""
    return write_jsonl(tmp_path / "many.jsonl", [f"zw\u00f6lf {i} " + "x" * (i % 17) for i in range(400)])
