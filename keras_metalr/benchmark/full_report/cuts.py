"""What a budget leaves out of the report's own setup, in words."""

from keras_metalr import workloads
from keras_metalr.benchmark.full_report.tasks import Task
from keras_metalr.benchmark.text import count_text
from keras_metalr.workloads.workload import Workload

_COUNTS = {"train_examples": "training", "validation_examples": "validation"}


def cuts(task: Task, workload: Workload) -> list[str]:
    """Compare a task with the workload's own numbers, the report's.

    Args:
        task: `Task`.
        workload: `Workload`, the one that the task is run with.

    Returns:
        List of phrases; empty where nothing was cut.
    """
    own = workloads.get(task.workload)
    own_epochs = task.report_epochs or own.epochs
    found = []
    encoder, own_encoder = (w.options.get("encoder") for w in (workload, own))
    if encoder != own_encoder:
        found.append(f"{encoder} in place of {own_encoder}")
    found += [
        f"{task.options[name]:,} {kind} examples"
        for name, kind in _COUNTS.items()
        if task.options.get(name) is not None
    ]
    size = task.options.get("image_size")
    if size is not None:
        own_size = own.options["image_size"]
        found.append(f"images of {size} pixels a side in place of {own_size}")
    length = task.options.get("sequence_length")
    if length is not None:
        own_length = own.options["sequence_length"]
        found.append(f"{length} tokens a text in place of {own_length}")
    if task.steps is not None:
        found.append(
            f"{count_text(task.steps, 'training step')} in place of "
            f"{count_text(own_epochs, 'epoch')} "
            f"({count_text(task.epochs or 1, 'validation')})"
        )
    elif task.epochs not in (None, own_epochs):
        epochs = count_text(task.epochs or 1, "epoch")
        found.append(f"{epochs} in place of {own_epochs}")
    if task.batch_size is not None:
        found.append(
            f"batches of {task.batch_size} in place of {own.batch_size}"
        )
    if task.target_accuracy is not None:
        found.append(
            f"a target accuracy of {task.target_accuracy:.0%} in place of "
            f"{own.target_accuracy:.0%}"
        )
    return found
