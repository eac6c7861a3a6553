"""What the tests of corpora share."""

import json


def texts_of(corpus, side):
    store = getattr(corpus, side)
    return [corpus.tokenizer.decode(store.document(i)) for i in range(store.documents)]


def write_jsonl(path, texts):
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return path
