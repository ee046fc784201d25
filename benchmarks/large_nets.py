"""MetaLR from four first rates beside tuned schedules, on networks of a size.

    python benchmarks/large_nets.py prepare --preset FOLDER --folder large_nets
    KERAS_BACKEND=jax python benchmarks/large_nets.py run --folder large_nets
    python benchmarks/large_nets.py page    # or check: is it stale?

ResNet-18 from new weights on 4,992 images of CIFAR-10, 5 epochs, SGD with
momentum; and a pretrained encoder on SST-2, AdamW: one epoch of 12,800 phrases,
and three of all 67,328. The schedules are a warmup and a cosine, and a warmup
and a straight line. Made for a GPU. `prepare` runs where the data sets are, and
writes all that `run` reads, so that the machine with the GPU needs neither them
nor TensorFlow. Runs that are there already are not made again, and several can
be made at a time; a folder in `JAX_COMPILATION_CACHE_DIR` spares JAX most of
their compilation.

The page also shows runs on all of SST-2 by `scripts/train_sst2.py`, which needs
the data sets and TensorFlow, whatever the backend. It was called with
`--preset` as above, `--output benchmarks/results/large_nets/all_of_sst2` and

    --sequence-length 48 --steps 2104 --epochs 4
    --sequence-length 64 --steps 2104 --epochs 4 --group-by-length
    --sequence-length 64 --steps 2104 --epochs 4 --group-by-length \\
        --method cosine --learning-rate 1e-4
    --sequence-length 64 --steps 6312 --epochs 12 --group-by-length

the second and the third also with `--seed 1` and `--seed 2`, the last also with
`--seed 1`.
"""

import argparse
import io
import itertools
import json
import os
import pathlib
import sys
import time
from collections.abc import Sequence
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import joblib
import keras
import numpy as np

from keras_metalr import MetaLR
from keras_metalr.benchmark import scoring
from keras_metalr.benchmark.command_line import PAGE_ERRORS
from keras_metalr.benchmark.command_line import RUN_ERRORS
from keras_metalr.benchmark.command_line import SETUP_ERRORS
from keras_metalr.benchmark.command_line import check_counts
from keras_metalr.benchmark.command_line import check_published
from keras_metalr.benchmark.command_line import report_error
from keras_metalr.benchmark.command_line import report_stale
from keras_metalr.benchmark.competitors.methods import cosine
from keras_metalr.benchmark.competitors.rate_rules import warmup_linear
from keras_metalr.benchmark.environment import environment
from keras_metalr.benchmark.identity import controller_mark
from keras_metalr.benchmark.large_nets.page import page
from keras_metalr.benchmark.large_nets.tasks import METHODS
from keras_metalr.benchmark.large_nets.tasks import TASKS
from keras_metalr.benchmark.large_nets.tasks import Task
from keras_metalr.benchmark.large_nets.tasks import rates
from keras_metalr.benchmark.page_command import folder_text
from keras_metalr.benchmark.records import check_folder
from keras_metalr.benchmark.records import check_records
from keras_metalr.benchmark.records import read_json
from keras_metalr.benchmark.records import read_text
from keras_metalr.benchmark.records import write_json
from keras_metalr.benchmark.records import write_text
from keras_metalr.benchmark.text import environment_text
from keras_metalr.workloads import tfds_source
from keras_metalr.workloads.optimizers import optimizer_factory
from keras_metalr.workloads.sst2_bert import encoder_name
from keras_metalr.workloads.sst2_bert import encoder_note
from keras_metalr.workloads.sst2_bert import load_sst2

ROOT = pathlib.Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "large_nets"
PAGE = ROOT / "docs" / "large_nets.md"
COMMAND = "python benchmarks/large_nets.py page"
NUM_SEEDS = 3
ENCODER_FILES = ("config.json", "vocab.txt", "model.safetensors")
SEQUENCE_LENGTH = 64


def main(argv: Sequence[str] | None = None) -> int:
    """Prepare, run, write the page or compare it."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    check_counts(parser, arguments, {"seeds": 1, "processes": 1, "seconds": 0})
    if arguments.what == "prepare" and arguments.preset is None:
        parser.error("prepare needs --preset, the folder of an encoder")
    if arguments.what == "page":
        check_published(parser, arguments, ("page",), ("output",))
    try:
        if arguments.what in ("page", "check"):
            return _write_or_check(arguments)
        if arguments.what == "prepare":
            prepare(arguments.folder, arguments.preset)
            return 0
        _check_run(arguments)
    except (*PAGE_ERRORS, *SETUP_ERRORS) as error:
        return report_error(error)
    try:
        _run_all(arguments)
    except RUN_ERRORS as error:
        return report_error(error)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("what", choices=("prepare", "run", "page", "check"))
    add("--folder", type=pathlib.Path, default=pathlib.Path("large_nets"))
    add("--preset", help="prepare: folder of a Hugging Face style encoder")
    add("--tasks", nargs="+", choices=tuple(TASKS), default=list(TASKS))
    add("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    add("--seeds", type=int, default=NUM_SEEDS)
    add("--seconds", type=float, help="run: begin no run after so many")
    add("--processes", type=int, default=1, help="run: so many at a time")
    add("--output", type=pathlib.Path, default=RESULTS)
    add("--page", type=pathlib.Path, default=PAGE)
    return parser


def _write_or_check(arguments: argparse.Namespace) -> int:
    """Write the page, or compare it; the exit status."""
    check_records(arguments.output)
    text = page(arguments.output, folder_text(arguments.output, ROOT))
    if arguments.what == "page":
        write_text(arguments.page, text)
    elif read_text(arguments.page) != text:
        return report_stale(str(arguments.page), COMMAND)
    return 0


def _check_run(arguments: argparse.Namespace) -> None:
    """Raise for what is missing, before the first run."""
    data = {TASKS[task].data for task in arguments.tasks}
    needed = ["notes.json", *(f"{name}.npz" for name in sorted(data))]
    needed += ["encoder/config.json"] if "encoder" in data else []
    for name in needed:
        if not (arguments.folder / name).is_file():
            raise ValueError(
                f"There is no {str(arguments.folder / name)!r}. Name the "
                "folder that `prepare` wrote with `--folder`."
            )
    backend = keras.backend.backend()
    if backend != "jax" and arguments.output.resolve() == RESULTS.resolve():
        raise ValueError(
            "The published runs are of JAX. Received: "
            f"KERAS_BACKEND={backend}. Set KERAS_BACKEND=jax, or name another "
            "folder with `--output`."
        )
    check_folder(arguments.output)
    for path in arguments.output.glob("*.json"):
        read_json(path)


def _run_all(arguments: argparse.Namespace) -> None:
    seconds = arguments.seconds
    stop = float("inf") if seconds is None else time.time() + seconds
    joblib.Parallel(arguments.processes)(
        joblib.delayed(run)(
            arguments.folder,
            task,
            method,
            rate,
            seed,
            arguments.output,
            stop,
        )
        for task, method, seed in itertools.product(
            arguments.tasks, arguments.methods, range(arguments.seeds)
        )
        for rate in rates(TASKS[task], method)
    )


def prepare(folder: pathlib.Path, preset: str) -> None:
    """Write the images as they are stored, the texts as numbers, the encoder.

    The encoder's weights are stored in half the precision, half the size.

    Raises:
        DataNotAvailableError: If a data set is not on this machine.
        ValueError: If `preset` lacks a file of an encoder.
    """
    missing = [
        name
        for name in ENCODER_FILES
        if not (pathlib.Path(preset) / name).is_file()
    ]
    if missing:
        raise ValueError(
            f"The folder of the encoder, {preset!r}, lacks {missing}. Name "
            f"one with {list(ENCODER_FILES)}."
        )
    import safetensors.numpy

    folder.mkdir(parents=True, exist_ok=True)
    images, labels = [], []
    for split in ("train[:4992]", "train[45000:45512]"):
        rows = tfds_source.load_arrays("cifar10", split, encoded=("image",))
        images += [np.frombuffer(image, "uint8") for image in rows["image"]]
        labels += list(rows["label"])
    np.savez(
        folder / "resnet18.npz",
        bytes=np.concatenate(images),
        ends=np.cumsum([len(image) for image in images]),
        labels=np.array(labels, "int32"),
    )
    data = load_sst2(preset, SEQUENCE_LENGTH, train_examples=67_328)
    parts = {
        f"{part}_{name}": values.astype("uint16")
        for part, x in (("train", data.x_train), ("val", data.x_validation))
        for name, values in x.items()
    }
    np.savez_compressed(
        folder / "encoder.npz",
        train_labels=data.y_train,
        val_labels=data.y_validation,
        **parts,
    )
    encoder = folder / "encoder"
    encoder.mkdir(exist_ok=True)
    for name in ENCODER_FILES[:2]:
        source = pathlib.Path(preset) / name
        (encoder / name).write_bytes(source.read_bytes())
    weights = safetensors.numpy.load_file(
        pathlib.Path(preset) / "model.safetensors"
    )
    half = {
        name: value.astype("float16") if value.dtype.kind == "f" else value
        for name, value in weights.items()
    }
    safetensors.numpy.save_file(
        half, encoder / "model.safetensors", {"format": "pt"}
    )
    notes = {
        "resnet18": tfds_source.images_note("cifar10"),
        "encoder": f"{encoder_name(preset)}, "
        f"{encoder_note(preset)}, weights rounded to float16",
    }
    write_json(folder / "notes.json", notes)


def run(
    folder: pathlib.Path,
    name: str,
    method: str,
    rate: float,
    seed: int,
    output: pathlib.Path,
    stop: float,
) -> None:
    """Make one run, unless the time is past `stop`, or say what is there."""
    mark = controller_mark("general", digits=8) if method == "metalr" else ""
    label = "-".join(filter(None, (name, method, f"{rate:g}", str(seed), mark)))
    path = output / f"{label}.json"
    if path.is_file():
        found = read_json(path)
        # It may be of another machine than this, or of another encoder.
        print(
            f"{label}: found, of {environment_text(found['environment'])} "
            f"({found['note']})",
            flush=True,
        )
        return
    if time.time() > stop:
        return
    record = {
        "task": name,
        "method": method,
        "controller": mark,
        "learning_rate": rate,
        "seed": seed,
        **_trained(folder, TASKS[name], method, rate, seed),
        "environment": environment(),
    }
    write_json(path, record)
    print(
        f"{label}: accuracy {record['eval_accuracy']:.4f}, "
        f"{record['seconds']:.0f} s",
        flush=True,
    )


def _trained(
    folder: pathlib.Path, task: Task, method: str, rate: float, seed: int
) -> dict[str, Any]:
    """Train once; what came of it."""
    x, y, validation = _data(folder, task)
    keras.utils.set_random_seed(seed)
    model = task.build(folder)
    num_steps = len(y) // task.batch_size * task.epochs
    callbacks = [MetaLR()] if method == "metalr" else []
    first = _schedule(task, rate, num_steps) if method == "tuned" else rate
    model.compile(
        optimizer=optimizer_factory(task.optimizer)(first),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    # No smaller batch at the end, which would be compiled for by itself.
    num_validation = len(validation[1])
    validation_batch_size = max(
        size for size in range(1, 257) if num_validation % size == 0
    )
    began = time.monotonic()
    history = model.fit(
        x,
        y,
        batch_size=task.batch_size,
        epochs=task.epochs,
        validation_data=validation,
        validation_batch_size=validation_batch_size,
        callbacks=callbacks,
        verbose=0,
    ).history
    seconds = time.monotonic() - began
    logits = model.predict(
        validation[0], batch_size=validation_batch_size, verbose=0
    )
    predicted = np.argmax(np.asarray(logits), -1)
    return {
        "num_steps": num_steps,
        "eval_accuracy": history["val_accuracy"][-1],
        "eval_loss": history["val_loss"][-1],
        "eval_f1": scoring.macro_f1(validation[1], predicted),
        "seconds": seconds,
        "history": history,
        "rates": _rates_of_trace(callbacks),
        "note": json.loads((folder / "notes.json").read_text())[task.data],
    }


def _rates_of_trace(callbacks: Sequence[Any]) -> list[float]:
    """The rate at each decision, three digits; none without MetaLR."""
    return [
        float(f"{rate:.3g}")
        for callback in callbacks
        for rate in callback.trace["learning_rate"]
    ]


def _schedule(task: Task, rate: float, num_steps: int) -> Any:
    """A linear warmup to the rate, then down to 0."""
    if task.schedule == "cosine":
        return cosine(rate, num_steps).learning_rate
    return _WarmupLinear(rate, num_steps)


class _WarmupLinear(keras.optimizers.schedules.LearningRateSchedule):
    """The peers' rule, as a schedule for the optimizer."""

    def __init__(self, rate: float, num_steps: int) -> None:
        self.rate, self.num_steps = rate, num_steps
        self.rule = warmup_linear(num_steps)

    def __call__(self, step: Any) -> Any:
        step = keras.ops.cast(step, "float32")
        return self.rule.update([], self.rate, step, None)[0]

    def get_config(self) -> dict[str, Any]:
        return {"rate": self.rate, "num_steps": self.num_steps}


def _data(folder: pathlib.Path, task: Task) -> tuple[Any, Any, tuple[Any, Any]]:
    """Training inputs and labels, and the pair to validate on."""
    saved = np.load(folder / f"{task.data}.npz")
    if task.data == "encoder":
        inputs = ("token_ids", "segment_ids", "padding_mask")
        x, x_val = (
            {key: saved[f"{part}_{key}"].astype("int32") for key in inputs}
            for part in ("train", "val")
        )
        x = {key: values[: task.num_train] for key, values in x.items()}
        y = saved["train_labels"][: task.num_train]
        return x, y, (x_val, saved["val_labels"])
    from PIL import Image

    stored = np.split(saved["bytes"], saved["ends"][:-1])
    images = np.stack(
        [np.asarray(Image.open(io.BytesIO(i.tobytes()))) for i in stored]
    )
    images = images.astype("float32") / 255.0
    images = (images - images.mean((0, 1, 2))) / images.std((0, 1, 2))
    count, labels = task.num_train, saved["labels"]
    return images[:count], labels[:count], (images[count:], labels[count:])


if __name__ == "__main__":
    sys.exit(main())
