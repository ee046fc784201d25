"""The nets that meta-training has not seen: their data, and what they learn."""

import collections

import keras
import numpy as np
import pytest

from keras_metalr.pretrained import is_pretrained
from keras_metalr.workloads.digits import load_digits_data
from keras_metalr.workloads.suite import media
from keras_metalr.workloads.tfds_source import is_prepared
from keras_metalr.workloads.unfamiliar import kind_nets
from keras_metalr.workloads.unfamiliar import kinds
from keras_metalr.workloads.unfamiliar import loss_nets
from keras_metalr.workloads.unfamiliar import losses

pytestmark = pytest.mark.backend_independent

NETS = {**kind_nets(), **loss_nets()}
needs_words = pytest.mark.skipif(
    not is_prepared("glue/sst2"),
    reason="SST-2 is not prepared: set TFDS_DATA_DIR to its folder.",
)


@pytest.mark.parametrize("title", NETS)
def test_nets_are_new_and_learn(title):
    if missing := [
        data
        for name, data in {
            "SST-2": "glue/sst2",
            "Fashion-MNIST": "fashion_mnist",
            "CIFAR-10": "cifar10",
        }.items()
        if title.endswith(name) and not is_prepared(data)
    ]:
        pytest.skip(f"{missing} not prepared: set TFDS_DATA_DIR.")
    workload = NETS[title]
    data = workload.load_data()
    keras.utils.set_random_seed(0)
    model = workload.compiled_model(1e-3)
    # It starts sooner.
    model.jit_compile = False
    assert not is_pretrained(model)
    x, y = data.x_train[:256], data.y_train[:256]
    figures = {"verbose": 0, "return_dict": True}
    before = model.evaluate(x, y, **figures)
    model.fit(x, y, batch_size=32, epochs=4, verbose=0)
    after = model.evaluate(x, y, **figures)
    assert after["loss"] < before["loss"]
    assert ("accuracy" in after) == (workload.metrics != ())


@needs_words
def test_words_are_followed_by_the_next_one():
    texts, *_ = kinds.phrases()
    data = kinds.load_following(3)
    assert data.x_train.shape[1:] == (3,) and data.y_train.ndim == 1
    assert data.x_train.min() > 0 and data.y_train.min() > 0
    (first,) = texts[(texts > 0).sum(1) > 3][:1]
    np.testing.assert_array_equal(data.x_train[0], first[:3])
    assert data.y_train[0] == first[3]
    lengths = (texts > 0).sum(1)
    assert len(data.x_train) == np.maximum(lengths - 3, 0).sum()


@needs_words
def test_neighbours_are_counted(monkeypatch):
    texts, _ = media.load_words("train[:9000]")
    monkeypatch.setattr(media, "load_words", lambda split: (texts, None))
    counts = collections.Counter()
    for text in texts:
        words = [word for word in text if word > 0]
        for place, word in enumerate(words):
            counts.update((word, other) for other in words[place + 1 :][:3])
    data = losses.load_neighbours()
    pairs = np.concatenate([data.x_train, data.x_validation])
    logs = np.concatenate([data.y_train, data.y_validation])
    assert len(pairs) == len(counts)
    expected = [np.log(counts[tuple(pair)]) for pair in pairs]
    np.testing.assert_allclose(logs[:, 0], expected, rtol=1e-6)


@needs_words
def test_letters_are_followed_by_the_next_ones():
    data = losses.load_letters()
    np.testing.assert_array_equal(data.x_train[:, 1:], data.y_train[:, :-1])
    text = bytes(data.x_train[0].astype("uint8") + 32)
    assert b" " in text and text.isascii() and text.lower() == text


def test_components_are_alike_in_size_and_independent():
    data = losses.load_components()
    covariance = data.x_train.T @ data.x_train / len(data.x_train)
    np.testing.assert_allclose(covariance, np.eye(8), atol=1e-4)
    assert data.x_validation.std() == pytest.approx(1.0, abs=0.1)


def test_noise_is_what_was_added_to_the_digits():
    data = losses.load_noisy_digits()
    x, angle, cosine = np.split(data.x_train, [64, 65], axis=1)
    np.testing.assert_allclose(cosine, np.cos(angle), atol=1e-6)
    clear = angle[:, 0] < 1.4
    digits = (x - np.sin(angle) * data.y_train)[clear] / cosine[clear]
    images = 2.0 * load_digits_data().x_train.reshape(-1, 64) - 1.0
    expected = np.repeat(images, 6, 0)[clear]
    np.testing.assert_allclose(digits, expected, atol=1e-4)


def test_a_flow_knows_how_it_stretches():
    """The log of its density is that of a normal one, by its Jacobian."""
    keras.utils.set_random_seed(0)
    model = losses.build_flow()
    for variable in model.trainable_variables:
        values = keras.random.normal(variable.shape, seed=1)
        variable.assign(0.3 * values)
    couplings = [
        layer for layer in model.layers if isinstance(layer, losses.Coupling)
    ]
    assert [layer.turned for layer in couplings] == [False, True, False, True]

    def moved(x):
        for layer in couplings:
            x, _ = layer(x)
        return keras.ops.convert_to_numpy(x).astype("float64")

    x = np.random.default_rng(0).normal(size=8).astype("float32")
    shift = 1e-2 * np.eye(8, dtype="float32")
    jacobian = (moved(x + shift) - moved(x - shift)) / 2e-2
    expected = (
        np.linalg.slogdet(jacobian)[1] - 0.5 * (moved(x[None]) ** 2).sum()
    )
    found = keras.ops.convert_to_numpy(model(x[None]))
    assert found.item() == pytest.approx(expected, abs=2e-2)


@pytest.mark.skipif(
    not is_prepared("fashion_mnist"),
    reason="Fashion-MNIST is not prepared: set TFDS_DATA_DIR to its folder.",
)
def test_couples_are_of_one_class_where_it_says_so():
    data = losses.load_couples()
    alone = losses.load_fashion_mnist(4_000, 1_000)
    classes = {
        image.tobytes(): label
        for image, label in zip(
            alone.x_validation, alone.y_validation, strict=True
        )
    }
    alike = [
        classes[left.tobytes()] == classes[right.tobytes()]
        for left, right in data.x_validation
    ]
    np.testing.assert_array_equal(data.y_validation[:, 0], alike)
    assert 0.4 < np.mean(alike) < 0.6


@pytest.mark.skipif(
    not is_prepared("fashion_mnist"),
    reason="Fashion-MNIST is not prepared: set TFDS_DATA_DIR to its folder.",
)
def test_rows_are_followed_by_the_next_one():
    data = losses.load_next_rows()
    assert data.x_train.shape == data.y_train.shape == (6_000, 27, 28)
    np.testing.assert_array_equal(data.x_train[:, 1:], data.y_train[:, :-1])
