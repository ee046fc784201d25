"""A tiny BERT in KerasHub's own folder format."""

from pathlib import Path

import pytest

_WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "the", "film"]
_WORDS += ["good", "bad", "cafe", "##s", "great", "awful", "is", "not"]


@pytest.fixture(scope="session")
def vocabulary() -> list[str]:
    """Sixteen tokens."""
    return list(_WORDS)


@pytest.fixture(scope="session")
def tiny_bert(tmp_path_factory, vocabulary) -> Path:
    """A folder that KerasHub's `save_to_preset` wrote."""
    keras_hub = pytest.importorskip("keras_hub")
    folder = tmp_path_factory.mktemp("tiny_bert")
    keras_hub.models.BertBackbone(
        vocabulary_size=len(vocabulary),
        num_layers=1,
        num_heads=2,
        hidden_dim=8,
        intermediate_dim=16,
        max_sequence_length=16,
    ).save_to_preset(folder)
    keras_hub.models.BertTokenizer(
        vocabulary=vocabulary, lowercase=True
    ).save_to_preset(folder)
    return folder
