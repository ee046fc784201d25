"""The small workloads: what they promise, and that they can be trained."""

import math

import keras
import numpy as np
import pytest

from keras_metalr.workloads import suite
from keras_metalr.workloads.suite import media
from keras_metalr.workloads.suite import media_models
from keras_metalr.workloads.suite import tabular
from keras_metalr.workloads.suite import tabular_models
from keras_metalr.workloads.suite.table import META_TRAINED

NEEDS_TFDS = ("fashion", "cifar10", "sst2")


@pytest.fixture(
    params=[
        pytest.param(
            name,
            marks=pytest.mark.large if name.startswith(NEEDS_TFDS) else (),
        )
        for name in suite.SUITE
    ]
)
def entry(request):
    if request.param.startswith(NEEDS_TFDS):
        request.getfixturevalue("tfds_dir")
        if keras.backend.backend() != "jax":
            pytest.skip(
                "Methods are compared on JAX; elsewhere tables are enough."
            )
    return suite.SUITE[request.param]


def test_a_short_run_lowers_the_loss(entry):
    workload = entry.workload()
    data = workload.load_data()
    keras.utils.set_random_seed(0)
    model = workload.compiled_model()
    arguments = {"batch_size": 64, "verbose": 0, "return_dict": True}
    before = model.evaluate(data.x_validation, data.y_validation, **arguments)
    # Texts take longer to be better than guessing.
    steps = 100 if entry.name.startswith("sst2") else 16
    fit_arguments = workload.fit_arguments(data, 2, steps_per_epoch=steps)
    history = model.fit(**fit_arguments(0)).history
    assert all(map(math.isfinite, history["loss"]))
    assert history["val_loss"][-1] < before["loss"]
    assert ("accuracy" in before) != entry.is_regression
    # Small enough for thousands of runs on a CPU.
    assert model.count_params() < 250_000
    steps = workload.epochs * data.steps_per_epoch(workload.batch_size)
    assert 100 <= steps <= 400


def test_enough_of_it_is_new():
    new = [name for name, entry in suite.SUITE.items() if entry.shares_nothing]
    assert len(suite.SUITE) >= 10 and len(new) >= 4
    assert suite.SUITE["digits_dense"].shared == "data, kind of net, optimizer"
    assert suite.SUITE["sst2_bag"].shared == "data"
    tables = ("wine", "cancer", "diabetes")
    assert new == [name for name in suite.SUITE if name.startswith(tables)]


def test_the_optimizers_are_those_of_meta_training():
    if keras.backend.backend() != "jax":
        pytest.skip("meta-training runs on JAX alone")
    from keras_metalr.meta_training.optimizers import KINDS

    assert tuple(KINDS) == META_TRAINED


def test_tabular_sets_are_standardized_by_their_training_part():
    data = tabular.load_diabetes_data()
    assert data.x_train.shape == (332, 10) and data.y_train.shape == (332, 1)
    assert data.num_validation == 110
    for values in (data.x_train, data.y_train):
        np.testing.assert_allclose(values.mean(0), 0.0, atol=1e-5)
        np.testing.assert_allclose(values.std(0), 1.0, atol=1e-3)
    assert tabular.load_wine_data().y_train.dtype == np.int32


def test_crossed_layers_multiply_by_the_inputs():
    model = tabular_models.build_cross(3, 2)
    layers = [x for x in model.layers if isinstance(x, keras.layers.Dense)]
    generator = np.random.default_rng(0)
    for variable in model.trainable_variables:
        variable.assign(generator.normal(size=variable.shape))
    x = generator.normal(size=(4, 3)).astype("float32")
    cross = [layer for layer in layers if layer.units == 3]
    (deep,) = (layer for layer in layers if layer.units == 16)
    # arXiv 2008.13535, equation 1.
    crossed = x
    for layer in cross:
        kernel, bias = layer.get_weights()
        crossed = x * (crossed @ kernel + bias) + crossed
    kernel, bias = deep.get_weights()
    beside = np.maximum(x @ kernel + bias, 0.0)
    kernel, bias = layers[-1].get_weights()
    expected = np.concatenate([crossed, beside], axis=1) @ kernel + bias
    np.testing.assert_allclose(
        keras.ops.convert_to_numpy(model(x)), expected, rtol=1e-4, atol=1e-4
    )


def test_radial_basis_functions_fall_with_the_distance():
    layer = tabular_models.RadialBasis(2)
    layer.build((None, 2))
    layer.centres.assign([[0.0, 0.0], [3.0, 0.0]])
    layer.log_width.assign([0.0, math.log(2.0)])
    found = keras.ops.convert_to_numpy(layer(np.array([[1.0, 1.0]], "f4")))
    # Mean squares of 1 and of 2.5.
    expected = [[math.exp(-1.0), math.exp(-2.0 * 2.5)]]
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_words_are_numbered_alike_everywhere():
    numbers = media.word_numbers(b"A film, a FILM")
    assert numbers.shape == (16,) and numbers.dtype == np.int32
    assert numbers[0] == numbers[2] and not numbers[4:].any()
    assert 0 < numbers[:4].min() and numbers.max() < media.NUM_WORDS


def test_fine_tuning_starts_from_one_body_and_another_head():
    first = media_models.pretrained_body()
    keras.utils.set_random_seed(1)
    a = media_models.build_pretrained().get_weights()
    keras.utils.set_random_seed(2)
    b = media_models.build_pretrained().get_weights()
    for body, *others in zip(first, a, b, strict=False):
        for other in others:
            np.testing.assert_array_equal(body, other)
    assert np.any(a[-2] != b[-2])
    again = media_models.pretrained_body.__wrapped__()
    np.testing.assert_allclose(again[0], first[0], atol=1e-6)


def test_fine_tuning_knows_nothing_of_the_new_classes():
    old, new = media.load_old_digits(), media.load_new_digits()
    assert set(old.y_train) == set(new.y_train) == set(range(5))
    assert old.num_train + new.num_train == 1437
