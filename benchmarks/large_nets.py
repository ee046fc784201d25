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
    --sequence-length 64 --steps 6312 --epochs 12 --group-by-length
"""

import argparse
import io
import itertools
import json
import os
import pathlib
import statistics
import sys
import time
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any
from typing import NamedTuple

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import joblib
import keras
import numpy as np

from keras_metalr import MetaLR
from keras_metalr.benchmark import scoring
from keras_metalr.benchmark.competitors.methods import cosine
from keras_metalr.benchmark.competitors.rate_rules import warmup_linear
from keras_metalr.benchmark.environment import environment
from keras_metalr.benchmark.full_report.wording import METHOD_NAMES
from keras_metalr.benchmark.identity import OTHER_CONTROLLER
from keras_metalr.benchmark.identity import controller_mark
from keras_metalr.benchmark.records import RunResult
from keras_metalr.benchmark.records import write_json
from keras_metalr.benchmark.records import write_text
from keras_metalr.benchmark.text import environment_text
from keras_metalr.benchmark.text import markdown_table
from keras_metalr.benchmark.text import rate_text
from keras_metalr.workloads import tfds_source
from keras_metalr.workloads.cifar10_resnet18 import build_resnet18
from keras_metalr.workloads.optimizers import optimizer_factory
from keras_metalr.workloads.sst2_bert import build_classifier
from keras_metalr.workloads.sst2_bert import encoder_name
from keras_metalr.workloads.sst2_bert import encoder_note
from keras_metalr.workloads.sst2_bert import load_sst2

METHODS = ("static", "tuned", "metalr")
ROOT = pathlib.Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "large_nets"
PAGE = ROOT / "docs" / "large_nets.md"
NUM_SEEDS = 3
PAGE_HEAD = """
# Large networks

MetaLR from four first rates beside tuned schedules, each of which knows the
whole run's length and one of several highest rates. Accuracy, loss and macro F1
on the validation data at the end: means over the seeds, and the lowest accuracy
of any.
"""
PAGE_FOOT = """
Rows with fewer seeds than others, and rates that are missing, were not finished
in the time there was. Made by `python benchmarks/large_nets.py page` from
`benchmarks/results/large_nets`.
"""
ALL_OF_SST2 = """
## The same encoder on all of SST-2

The encoder above, {encoder}, and not BERT Base, on 67,349 phrases in batches of
{batch_size}; *tokens*: that a text is cut to. Accuracy on the 872 examples of
the validation set after each quarter of the run; loss and macro F1 at the end.
The experiment report has an accuracy of 0.856 for BERT Base after one epoch, on
500 of the examples, and trains for three. The aim here is 0.90. No schedule was
run beside it.
"""
HEADS = (
    "| method | rate | seeds | accuracy | lowest | loss | F1 |",
    "|---|---|---|---|---|---|---|",
)
SEQUENCE_LENGTH = 64


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


def main(argv: Sequence[str] | None = None) -> int:
    """Prepare, run, write the page or compare it."""
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
    arguments = parser.parse_args(argv)
    if arguments.what == "prepare":
        if arguments.preset is None:
            parser.error("prepare needs --preset, the folder of an encoder")
        prepare(arguments.folder, arguments.preset)
    elif arguments.what == "run":
        stop = time.time() + (arguments.seconds or float("inf"))
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
            for rate in _rates(TASKS[task], method)
        )
    elif arguments.what == "page":
        write_text(arguments.page, page(arguments.output))
    elif arguments.page.read_text("utf-8") != page(arguments.output):
        print(f"error: {arguments.page} is stale.", file=sys.stderr)
        return 1
    return 0


def prepare(folder: pathlib.Path, preset: str) -> None:
    """Write the images as they are stored, the texts as numbers, the encoder.

    The encoder's weights are stored in half the precision, half the size.
    """
    import safetensors.numpy
    import tensorflow_datasets as tfds

    folder.mkdir(parents=True, exist_ok=True)
    images, labels = [], []
    for split in ("train[:4992]", "train[45000:45512]"):
        rows = tfds.load(
            "cifar10",
            split=split,
            decoders={"image": tfds.decode.SkipDecoding()},
        )
        for row in tfds.as_numpy(rows):
            images.append(np.frombuffer(row["image"], "uint8"))
            labels.append(row["label"])
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
    for name in ("config.json", "vocab.txt"):
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
    """Make one run, unless its record is there or the time is past `stop`."""
    mark = controller_mark("general", digits=8) if method == "metalr" else ""
    label = "-".join(filter(None, (name, method, f"{rate:g}", str(seed), mark)))
    path = output / f"{label}.json"
    if path.is_file() or time.time() > stop:
        return
    task = TASKS[name]
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
    record = {
        "task": name,
        "method": method,
        "controller": mark,
        "learning_rate": rate,
        "seed": seed,
        "num_steps": num_steps,
        "eval_accuracy": history["val_accuracy"][-1],
        "eval_loss": history["val_loss"][-1],
        "eval_f1": scoring.macro_f1(validation[1], predicted),
        "seconds": seconds,
        "history": history,
        "rates": _rates_of_trace(callbacks),
        "note": json.loads((folder / "notes.json").read_text())[task.data],
        "environment": environment(),
    }
    write_json(path, record)
    print(
        f"{label}: accuracy {record['eval_accuracy']:.4f}, {seconds:.0f} s",
        flush=True,
    )


def page(folder: pathlib.Path) -> str:
    """Markdown of all records: mean accuracy, loss and F1 of each row."""
    records = [json.loads(p.read_text()) for p in sorted(folder.glob("*.json"))]
    paragraphs = [PAGE_HEAD.strip()]
    for name, task in TASKS.items():
        made = [r for r in records if r["task"] == name]
        if made:
            paragraphs.append(f"## {task.title}")
        devices = [environment_text(r["environment"]) for r in made]
        for device in sorted(set(devices)):
            rows = [
                r for r, d in zip(made, devices, strict=True) if d == device
            ]
            paragraphs += [
                f"{rows[0]['num_steps']} steps of {task.batch_size}, {device} "
                f"({rows[0]['note']}).",
                "\n".join([*HEADS, *_lines(name, rows)]),
            ]
            marks = {r["controller"] for r in rows if r["method"] == "metalr"}
            if marks - {controller_mark("general", digits=8)}:
                paragraphs.append(OTHER_CONTROLLER)
    paragraphs += _all_of_sst2(folder / "all_of_sst2")
    return "\n\n".join([*paragraphs, PAGE_FOOT.strip()]) + "\n"


def _all_of_sst2(folder: pathlib.Path) -> list[str]:
    """The records of `scripts/train_sst2.py` in a folder, one row each."""
    runs = [RunResult.load(path) for path in sorted(folder.glob("*.json"))]
    if not runs:
        return []
    runs.sort(key=lambda run: run.config["steps"])
    heads = ("method", "rate", "seed", "steps", "tokens", "accuracy")
    rows = [
        (
            METHOD_NAMES[run.config["method"]],
            rate_text(run.config["learning_rate"]),
            run.config["seed"],
            f"{run.config['steps']:,}",
            _tokens(run.config["options"]),
            ", ".join(f"{a:.3f}" for a in _quarters(run)),
            f"{run.results['eval_loss']:.3f}",
            f"{run.results['eval_f1']:.3f}",
            environment_text(run.environment),
        )
        for run in runs
    ]
    config = runs[0].config
    return [
        ALL_OF_SST2.strip().format(
            encoder=config["options"]["encoder"],
            batch_size=config["batch_size"],
        ),
        markdown_table((*heads, "loss", "F1", "run on"), rows),
    ]


def _tokens(options: Mapping[str, Any]) -> str:
    by_length = ", batches by length" * bool(options.get("group_by_length"))
    return f"{options['sequence_length']}{by_length}"


def _quarters(run: RunResult) -> list[float]:
    """Validation accuracy after each quarter; their number is one of fours."""
    accuracy = run.history["val_accuracy"]
    every = len(accuracy) // 4
    return accuracy[every - 1 :: every]


def _lines(name: str, records: list[dict[str, Any]]) -> Iterator[str]:
    """A line for each method and rate that there are records of."""
    for method in METHODS:
        for rate in _rates(TASKS[name], method):
            rows = [
                r
                for r in records
                if (r["method"], r["learning_rate"]) == (method, rate)
            ]
            if rows:
                yield _line(name, method, rate, rows)


def _line(
    name: str, method: str, rate: float, rows: list[dict[str, Any]]
) -> str:
    def mean(key: str) -> float:
        return statistics.fmean(float(row[key]) for row in rows)

    tuned = f"warmup, then {TASKS[name].schedule}, from"
    what = {"static": "constant", "tuned": tuned, "metalr": "MetaLR, from"}
    lowest = min(row["eval_accuracy"] for row in rows)
    return (
        f"| {what[method]} | {rate:g} | {len(rows)} | "
        f"{mean('eval_accuracy'):.3f} | {lowest:.3f} | "
        f"{mean('eval_loss'):.3f} | {mean('eval_f1'):.3f} |"
    )


def _rates(task: Task, method: str) -> tuple[float, ...]:
    return {
        "static": task.static,
        "tuned": task.rates,
        "metalr": task.starts,
    }[method]


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
