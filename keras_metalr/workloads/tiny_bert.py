"""Saves a BERT of a few thousand random weights, to try the SST-2 task with.

python -m keras_metalr.workloads.tiny_bert FOLDER
"""

import os
import string
import sys
from collections.abc import Sequence

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def save_tiny_bert(
    folder: str | os.PathLike[str], vocabulary: Sequence[str] | None = None
) -> None:
    """Write it in KerasHub's own format.

    Args:
        folder: String or path.
        vocabulary: Sequence of strings. Defaults to `None`, the special tokens
            and single characters.
    """
    from keras_metalr.workloads.sst2_bert import import_keras_hub

    keras_hub = import_keras_hub()
    if vocabulary is None:
        letters = string.ascii_lowercase + string.digits + string.punctuation
        pieces = [f"##{letter}" for letter in letters]
        vocabulary = [*SPECIAL_TOKENS, *letters, *pieces]
    keras_hub.models.BertBackbone(
        vocabulary_size=len(vocabulary),
        num_layers=1,
        num_heads=2,
        hidden_dim=16,
        intermediate_dim=16,
        max_sequence_length=32,
    ).save_to_preset(os.fspath(folder))
    keras_hub.models.BertTokenizer(
        vocabulary=list(vocabulary), lowercase=True, strip_accents=True
    ).save_to_preset(os.fspath(folder))


if __name__ == "__main__":
    save_tiny_bert(sys.argv[1])
