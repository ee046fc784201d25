"""Saves a BERT of a few weights as a preset, to run the SST-2 script with."""

import string
import sys


def main(folder: str) -> None:
    """Write the preset into `folder`."""
    import keras_hub

    letters = [*string.ascii_lowercase, *string.digits, *string.punctuation]
    pieces = [f"##{letter}" for letter in letters]
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    vocabulary = [*special, *letters, *pieces]
    backbone = keras_hub.models.BertBackbone(
        vocabulary_size=len(vocabulary),
        num_layers=1,
        num_heads=2,
        hidden_dim=16,
        intermediate_dim=16,
        max_sequence_length=32,
    )
    tokenizer = keras_hub.models.BertTokenizer(
        vocabulary=vocabulary, lowercase=True, strip_accents=True
    )
    backbone.save_to_preset(folder)
    tokenizer.save_to_preset(folder)


if __name__ == "__main__":
    main(sys.argv[1])
