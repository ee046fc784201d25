"""Learning-rate schedules that the user compiled in."""

import keras
import numpy as np
import pytest

from keras_metalr import Controller
from keras_metalr import MetaLR
from tests.fit_checks import BATCH_SIZE
from tests.fit_checks import FIT
from tests.fit_checks import QUICK
from tests.fit_checks import all_finite
from tests.fit_checks import assert_clean
from tests.fit_checks import compiled
from tests.fit_checks import largest_difference
from tests.fit_checks import make_data

CosineDecay = keras.optimizers.schedules.CosineDecay
NUM_STEPS = 30


def from_zero():
    """Its first rate is 0, as that of most warmups is."""
    return CosineDecay(
        0.0, NUM_STEPS - 8, alpha=0.1, warmup_target=1e-2, warmup_steps=8
    )


def to_zero_and_back():
    """0 at every tenth step."""
    return keras.optimizers.schedules.PolynomialDecay(
        1e-2, 10, end_learning_rate=0.0, cycle=True
    )


def fit(schedule, callbacks):
    x, y = make_data(NUM_STEPS * BATCH_SIZE)
    optimizer = keras.optimizers.Adam(schedule)
    model = compiled(optimizer, normalize=False, drop=False, **QUICK)
    model.fit(x, y, callbacks=callbacks, **FIT)
    if callbacks:
        assert_clean(model, optimizer)
    return model


@pytest.mark.parametrize("make", [from_zero, to_zero_and_back])
def test_hands_off_it_is_the_users_schedule(make):
    metalr = MetaLR(Controller(), safe_start=False)
    model, plain = fit(make(), [metalr]), fit(make(), [])
    assert largest_difference(model.get_weights(), plain.get_weights()) < 1e-6
    rates = [float(make()(step)) for step in range(NUM_STEPS)]
    np.testing.assert_allclose(
        metalr.trace["learning_rate"], rates, rtol=1e-4, atol=1e-12
    )


@pytest.mark.parametrize("make", [from_zero, to_zero_and_back])
def test_the_safe_start_waits_for_a_rate(make):
    """A factor on 0 does nothing, and must not be there when it ends."""
    metalr = MetaLR(Controller())
    model = fit(make(), [metalr])
    rates = metalr.trace["learning_rate"]
    # With Adam, 3e-3 of the weights' length is about 1e-3.
    assert 1e-5 < rates[1] < 1e-2
    assert rates.max() < 0.1
    assert all_finite(model)
    assert not (metalr.trace["event"].astype(int) & 2).any()


def test_an_upper_limit_holds_and_a_lower_one_lets_it_end():
    limits = {"min_learning_rate": 1e-3, "max_learning_rate": 2e-3}
    metalr = MetaLR(Controller(), safe_start=False, **limits)
    fit(from_zero(), [metalr])
    rates = metalr.trace["learning_rate"]
    assert rates[0] == 0.0
    assert rates.max() <= np.float32(2e-3) * (1 + 1e-6)


def test_a_checkpoint_of_a_run_holds_the_users_own_schedule(tmp_path):
    path = str(tmp_path / "run.keras")
    save = keras.callbacks.ModelCheckpoint(path)
    model = fit(from_zero(), [MetaLR(Controller()), save])
    loaded = keras.models.load_model(path)
    schedule = loaded.optimizer._learning_rate
    assert type(schedule) is CosineDecay
    assert schedule.get_config() == from_zero().get_config()
    assert largest_difference(loaded.get_weights(), model.get_weights()) == 0.0


def test_a_rate_that_is_a_function_can_be_saved(tmp_path):
    save = keras.callbacks.ModelCheckpoint(str(tmp_path / "run.keras"))
    model = fit(_rate, [MetaLR(Controller()), save])
    assert model.optimizer._learning_rate is _rate
    assert (tmp_path / "run.keras").is_file()


@keras.saving.register_keras_serializable("keras_metalr_tests")
def _rate():
    return 1e-3
