"""The controller: what it is, and how it is saved and loaded."""

import hashlib
import json
import random
import zipfile
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest

from keras_metalr import Controller
from keras_metalr import controller as controller_module
from keras_metalr.features import FEATURE_NAMES
from keras_metalr.features import FEATURE_VERSION
from keras_metalr.features import NUM_FEATURES


def inputs(count=5):
    generator = np.random.default_rng(0)
    return generator.uniform(-4, 4, (count, NUM_FEATURES)).astype("float32")


def outputs(controller, features=None):
    features = inputs() if features is None else features
    return keras.ops.convert_to_numpy(controller(features))


@pytest.fixture
def trained() -> Controller:
    """A controller whose weights are all its own."""
    generator = np.random.default_rng(1)
    controller = Controller()
    controller.set_weights(
        [
            generator.normal(size=w.shape).astype("float32")
            for w in controller.get_weights()
        ]
    )
    return controller


@pytest.fixture
def folder(trained, tmp_path) -> Path:
    trained.save_to_preset(tmp_path / "preset", card="# Card\n")
    return tmp_path / "preset"


# -- Architecture. ----------------------------------------------------------


def test_architecture():
    controller = Controller()
    shapes = [tuple(w.shape) for w in controller.weights]
    assert shapes == [(22, 64), (64,), (64, 32), (32,), (32, 1), (1,)]
    assert controller.count_params() == 3585
    assert controller.hidden_units == (64, 32)
    assert controller.built


def test_output_is_that_of_the_network(trained):
    w1, b1, w2, b2, w3, b3 = trained.get_weights()
    hidden = np.maximum(inputs() @ w1 + b1, 0.0)
    hidden = np.maximum(hidden @ w2 + b2, 0.0)
    np.testing.assert_allclose(
        outputs(trained), hidden @ w3 + b3, rtol=1e-4, atol=1e-3
    )


def test_new_controller_answers_zero():
    np.testing.assert_array_equal(outputs(Controller()), 0.0)
    assert np.any(Controller().get_weights()[0])


@pytest.mark.parametrize("units", [(8,), [4, 4, 4], np.array([8, 4])])
def test_other_widths(units):
    controller = Controller(units)
    assert controller.hidden_units == tuple(units)
    assert outputs(controller).shape == (5, 1)


@pytest.mark.parametrize(
    "units", [(), (0,), (-3, 4), (2.0,), (True,), ("8",), 8, None]
)
def test_bad_widths(units):
    with pytest.raises(ValueError, match="positive integers") as error:
        Controller(units)
    assert str(units) in str(error.value)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_float32_under_a_mixed_policy(trained, policy):
    keras.config.set_dtype_policy(policy)
    controller = Controller()
    controller.set_weights(trained.get_weights())
    assert controller.compute_dtype == "float32"
    assert {w.dtype for w in controller.weights} == {"float32"}
    result = controller(inputs())
    assert keras.backend.standardize_dtype(result.dtype) == "float32"
    np.testing.assert_array_equal(outputs(controller), outputs(trained))


# -- Serialization. ---------------------------------------------------------


def test_config_round_trip():
    controller = Controller((8, 4), name="mine")
    config = json.loads(json.dumps(controller.get_config()))
    again = Controller.from_config(config)
    assert again.hidden_units == (8, 4) and again.name == "mine"
    assert again.get_config() == controller.get_config()


def test_registered_name():
    name = keras.saving.get_registered_name(Controller)
    assert name == "keras_metalr>Controller"
    config = keras.saving.serialize_keras_object(Controller((8,)))
    again = keras.saving.deserialize_keras_object(config)
    assert isinstance(again, Controller) and again.hidden_units == (8,)


def test_keras_file_round_trip(trained, tmp_path):
    trained.save(tmp_path / "controller.keras")
    again = keras.models.load_model(tmp_path / "controller.keras")
    np.testing.assert_array_equal(outputs(again), outputs(trained))


def test_preset_round_trip(trained, folder):
    again = Controller.from_preset(str(folder))
    assert again.hidden_units == trained.hidden_units
    for old, new in zip(
        trained.get_weights(), again.get_weights(), strict=True
    ):
        np.testing.assert_array_equal(new, old)
    np.testing.assert_array_equal(
        outputs(Controller.from_preset(folder)), outputs(trained)
    )


def test_preset_round_trip_of_other_widths(tmp_path):
    Controller((8,)).save_to_preset(tmp_path / "a" / "b")
    again = Controller.from_preset(tmp_path / "a" / "b")
    assert again.hidden_units == (8,)


def test_preset_loads_in_float32_under_a_mixed_policy(trained, folder):
    keras.config.set_dtype_policy("mixed_float16")
    again = Controller.from_preset(folder)
    np.testing.assert_array_equal(outputs(again), outputs(trained))


def test_what_a_preset_holds(folder):
    names = sorted(path.name for path in folder.iterdir())
    assert names == ["CARD.md", "config.json", "controller.weights.h5"]
    config = json.loads((folder / "config.json").read_text())
    assert config["class"] == "Controller"
    assert config["feature_version"] == FEATURE_VERSION
    assert config["feature_names"] == list(FEATURE_NAMES)
    assert len(config["weights_sha256"]) == 64
    assert (folder / "CARD.md").read_text() == "# Card\n"


def test_preset_without_a_card(tmp_path):
    Controller().save_to_preset(tmp_path)
    assert not (tmp_path / "CARD.md").exists()
    Controller().save_to_preset(tmp_path, card="# Of this one\n")
    Controller().save_to_preset(tmp_path)
    assert not (tmp_path / "CARD.md").exists(), "it was another's"


def test_a_controller_does_not_inherit_the_scores_of_another(folder):
    (folder / "scores.json").write_text("{}")
    Controller().save_to_preset(folder)
    names = sorted(path.name for path in folder.iterdir())
    assert names == ["config.json", "controller.weights.h5"]


def test_a_preset_is_not_half_written_over(trained, folder, monkeypatch):
    (folder / "scores.json").write_text("{}")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def fail(_):
        raise OSError("disk full")

    with monkeypatch.context() as patch, pytest.raises(OSError):
        # The weights are written, and the rest is not.
        patch.setattr(controller_module, "_sha256", fail)
        Controller().save_to_preset(folder, card="# Another\n")
    after = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert after == before
    np.testing.assert_array_equal(
        outputs(Controller.from_preset(folder)), outputs(trained)
    )


def test_saving_a_preset_draws_nothing(trained, tmp_path):
    random.seed(0)
    expected = random.random()
    random.seed(0)
    trained.save_to_preset(tmp_path)
    assert random.random() == expected


def test_nothing_in_a_preset_is_code(trained, folder, tmp_path):
    trained.save(tmp_path / "controller.keras")
    with zipfile.ZipFile(tmp_path / "controller.keras") as archive:
        for name in archive.namelist():
            assert name.endswith((".json", ".h5")), name
    files = {path: path.read_bytes() for path in folder.iterdir()}
    for path, content in files.items():
        # A pickle begins with this byte and ends with a full stop.
        assert not (content[:1] == b"\x80" and content[-1:] == b"."), path
    with h5py.File(folder / "controller.weights.h5") as file:
        kinds = []
        file.visititems(
            lambda _, item: kinds.append(getattr(item, "dtype", None))
        )
    assert {kind.kind for kind in kinds if kind is not None} == {"f"}


# -- Damage. ----------------------------------------------------------------


def change_config(folder, **changes):
    path = folder / "config.json"
    config = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps(config))


def test_other_version_names_both(folder):
    change_config(folder, feature_version=987)
    with pytest.raises(ValueError) as error:
        Controller.from_preset(folder)
    assert "version 987 of the features" in str(error.value)
    assert f"computes version {FEATURE_VERSION}" in str(error.value)
    assert str(folder) in str(error.value)


def test_version_is_read_before_the_weights(folder):
    change_config(folder, feature_version=987)
    (folder / "controller.weights.h5").unlink()
    with pytest.raises(ValueError, match="987"):
        Controller.from_preset(folder)


def test_one_flipped_bit_is_damage(folder):
    path = folder / "controller.weights.h5"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"damaged.*sha256"):
        Controller.from_preset(folder)


def test_other_weights_under_the_same_config(folder, tmp_path):
    Controller().save_to_preset(tmp_path / "other")
    weights = (tmp_path / "other" / "controller.weights.h5").read_bytes()
    (folder / "controller.weights.h5").write_bytes(weights)
    with pytest.raises(ValueError, match=r"damaged.*sha256"):
        Controller.from_preset(folder)


def test_weights_that_are_not_hdf5(folder):
    weights = folder / "controller.weights.h5"
    weights.write_text("text")
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    change_config(folder, weights_sha256=digest)
    with pytest.raises(ValueError, match=r"damaged.*does not describe"):
        Controller.from_preset(folder)


@pytest.mark.parametrize("text", ["", "{", "\x80\x04K."])
def test_config_that_is_not_json(folder, text):
    (folder / "config.json").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match="not JSON"):
        Controller.from_preset(folder)


def test_config_that_is_not_text(folder):
    (folder / "config.json").write_bytes(b"\x80\x04\xff.")
    with pytest.raises(ValueError, match="not JSON"):
        Controller.from_preset(folder)


@pytest.mark.parametrize("text", ["[]", "1", "{}", '{"class": "Controller"}'])
def test_config_that_lacks_something(folder, text):
    (folder / "config.json").write_text(text)
    with pytest.raises(ValueError, match=r"lacks.*weights_sha256"):
        Controller.from_preset(folder)


def test_config_of_another_class(folder):
    change_config(folder, **{"class": "Dense"})
    with pytest.raises(ValueError, match="another class"):
        Controller.from_preset(folder)


def test_missing_weights(folder):
    (folder / "controller.weights.h5").unlink()
    with pytest.raises(ValueError, match=r"has no controller\.weights\.h5"):
        Controller.from_preset(folder)


def test_missing_folder(tmp_path):
    with pytest.raises(ValueError, match="no preset") as error:
        Controller.from_preset(str(tmp_path / "nowhere"))
    assert "nowhere" in str(error.value)
    assert "config.json" in str(error.value)


def test_a_folder_with_a_shipped_name(trained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"preset that is .*'\./general' to"):
        trained.save_to_preset("general")
    trained.save_to_preset("./general")
    for own in ("./general", Path("general")):
        loaded = Controller.from_preset(own)
        np.testing.assert_array_equal(outputs(loaded), outputs(trained))
    shipped = outputs(Controller.from_preset("general"))
    assert np.any(shipped != outputs(trained))


@pytest.mark.parametrize("preset", [None, 3, ["general"]])
def test_preset_that_is_no_name(preset):
    with pytest.raises(ValueError, match="name or the path") as error:
        Controller.from_preset(preset)
    assert repr(preset) in str(error.value)


def test_every_shipped_preset_loads():
    for name in controller_module.shipped_presets():
        result = outputs(Controller.from_preset(name))
        assert np.all(np.isfinite(result))


def test_loading_a_preset_draws_nothing():
    random.seed(0)
    expected = random.random()
    random.seed(0)
    Controller.from_preset("general")
    with pytest.raises(ValueError, match="no preset"):
        Controller.from_preset("none")
    assert random.random() == expected
