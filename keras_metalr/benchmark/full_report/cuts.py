"""What a budget leaves out of the report's own setup, in words."""

from keras_metalr import workloads
from keras_metalr.benchmark.full_report.budgets import Task
from keras_metalr.benchmark.text import count_text

_COUNTS = {"train_examples": "training", "validation_examples": "validation"}


def cuts(task: Task) -> list[str]:
    """Compare a task with the workload's own numbers, the report's.

    Args:
        task: `Task`.

    Returns:
        List of phrases; empty where nothing was cut.
    """
    own = workloads.get(task.workload)
    found = [
        f"{task.options[name]:,} {kind} examples"
        for name, kind in _COUNTS.items()
        if task.options.get(name) is not None
    ]
    length = task.options.get("sequence_length")
    if length is not None and length != own.options["sequence_length"]:
        found.append(
            f"{length} tokens a text in place of "
            f"{own.options['sequence_length']}"
        )
    if task.steps is not None:
        found.append(
            f"{count_text(task.steps, 'training step')} in place of "
            f"{own.epochs} epochs "
            f"({count_text(task.epochs or 1, 'validation')})"
        )
    elif task.epochs not in (None, own.epochs):
        found.append(
            f"{count_text(task.epochs or 1, 'epoch')} in place of {own.epochs}"
        )
    if task.batch_size not in (None, own.batch_size):
        found.append(
            f"batches of {task.batch_size} in place of {own.batch_size}"
        )
    if task.target_accuracy not in (None, own.target_accuracy):
        found.append(
            f"a target accuracy of {task.target_accuracy:.0%} in place of "
            f"{own.target_accuracy:.0%}"
        )
    return found
