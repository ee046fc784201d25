"""Trains ResNet-18 on CIFAR-10 and writes one JSON record.

python scripts/train_cifar10.py --method metalr
python scripts/train_cifar10.py --method static --learning-rate 0.01
python scripts/train_cifar10.py --train-examples 500 --steps 20  # a quick look
"""

import argparse
import sys
from collections.abc import Sequence

from keras_metalr import workloads
from keras_metalr.benchmark import command_line


def main(argv: Sequence[str] | None = None) -> int:
    """Read the flags and make the run."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command_line.add_run_arguments(parser, optimizer="sgd")
    parser.add_argument(
        "--augment",
        action="store_true",
        help="shift and mirror the training images at random",
    )
    arguments = parser.parse_args(argv)
    return command_line.run_from_arguments(
        lambda: workloads.get(
            "cifar10_resnet18",
            train_examples=arguments.train_examples,
            validation_examples=arguments.validation_examples,
            augment=arguments.augment,
            optimizer=arguments.optimizer,
            download=arguments.download,
        ),
        arguments,
    )


if __name__ == "__main__":
    sys.exit(main())
