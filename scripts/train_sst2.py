"""Fine-tunes BERT on SST-2 and writes one JSON record.

python scripts/train_sst2.py --method metalr
python scripts/train_sst2.py --method static --learning-rate 2e-5
python scripts/train_sst2.py --preset FOLDER --sequence-length 64 --steps 100
"""

import argparse
import sys
from collections.abc import Sequence

from keras_metalr import workloads
from keras_metalr.benchmark import command_line
from keras_metalr.workloads.sst2_bert import DEFAULT_PRESET


def main(argv: Sequence[str] | None = None) -> int:
    """Read the flags and make the run."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command_line.add_run_arguments(parser, optimizer="adamw")
    parser.add_argument(
        "--preset",
        default=DEFAULT_PRESET,
        help="KerasHub preset, or a folder with config.json, "
        "model.safetensors and vocab.txt (default: %(default)s)",
    )
    parser.add_argument(
        "--sequence-length",
        type=int,
        default=128,
        help="tokens a text is padded or cut to (default: %(default)s)",
    )
    parser.add_argument(
        "--group-by-length",
        action="store_true",
        help="batches of texts of a like length, cut to the longest of them: "
        "less than half the time",
    )
    arguments = parser.parse_args(argv)
    return command_line.run_from_arguments(
        lambda: workloads.get(
            "sst2_bert",
            preset=arguments.preset,
            sequence_length=arguments.sequence_length,
            train_examples=arguments.train_examples,
            validation_examples=arguments.validation_examples,
            optimizer=arguments.optimizer,
            download=arguments.download,
            group_by_length=arguments.group_by_length,
        ),
        arguments,
    )


if __name__ == "__main__":
    sys.exit(main())
