"""What is trained, and from which rates."""

import pathlib
from collections.abc import Callable
from typing import NamedTuple

import keras

from keras_metalr.workloads.cifar10_resnet18 import build_resnet18
from keras_metalr.workloads.sst2_bert import build_classifier

METHODS = ("static", "tuned", "metalr")


class Task(NamedTuple):
    """What is trained, and from where.

    `data` names the file that `prepare` wrote, of which `num_train` examples
    are trained on. `schedule` is the tuned rows' own, `rates` its highest
    rates, `static` the constant rates, and `starts` the first rates that
    MetaLR is given.
    """

    title: str
    data: str
    num_train: int
    build: Callable[[pathlib.Path], keras.Model]
    optimizer: str
    batch_size: int
    epochs: int
    schedule: str
    rates: tuple[float, ...]
    starts: tuple[float, ...]
    static: tuple[float, ...] = ()


_ENCODER = Task(
    title="A pretrained encoder on SST-2, AdamW",
    data="encoder",
    num_train=12_800,
    build=lambda folder: _plain_classifier(folder / "encoder"),
    optimizer="adamw",
    batch_size=32,
    epochs=1,
    schedule="linear",
    rates=(1e-5, 2e-5, 5e-5, 1e-4),
    starts=(1e-7, 1e-5, 1e-3, 1e-1),
)
TASKS = {
    "resnet18": Task(
        title="ResNet-18 on CIFAR-10, SGD with momentum, new weights",
        data="resnet18",
        num_train=4_992,
        build=lambda folder: build_resnet18(),
        optimizer="momentum",
        batch_size=64,
        epochs=5,
        schedule="cosine",
        rates=(0.003, 0.01, 0.03, 0.1, 0.3, 1.0),
        starts=(1e-5, 1e-3, 1e-1, 10.0),
    ),
    "encoder": _ENCODER,
    "encoder_whole": _ENCODER._replace(
        title="The same encoder on all of SST-2, the experiment report's run",
        num_train=67_328,
        epochs=3,
        rates=(2e-5, 5e-5, 1e-4),
        starts=(2e-7, 2e-5, 2e-3),
        static=(2e-5,),
    ),
}


def _plain_classifier(preset: pathlib.Path) -> keras.Model:
    """Without KerasHub's own `fit`, which needs TensorFlow or Grain."""
    classifier = build_classifier(str(preset))
    return keras.Model(classifier.inputs, classifier.outputs)


def rates(task: Task, method: str) -> tuple[float, ...]:
    """What a method is started from, or has as its highest rate."""
    return {
        "static": task.static,
        "tuned": task.rates,
        "metalr": task.starts,
    }[method]
