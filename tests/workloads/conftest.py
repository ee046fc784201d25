"""A tiny BERT in KerasHub's own folder format."""

from pathlib import Path

import pytest

from keras_metalr.workloads.tiny_bert import save_tiny_bert

_WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "the", "film"]
_WORDS += ["good", "bad", "cafe", "##s", "great", "awful", "is", "not"]


@pytest.fixture(scope="session")
def vocabulary() -> list[str]:
    """Sixteen tokens."""
    return list(_WORDS)


@pytest.fixture(scope="session")
def tiny_bert(tmp_path_factory, vocabulary) -> Path:
    """A folder that KerasHub's `save_to_preset` wrote."""
    pytest.importorskip("keras_hub")
    folder = tmp_path_factory.mktemp("tiny_bert")
    save_tiny_bert(folder, vocabulary)
    return folder
