"""Learning-rate schedules that the user compiled in."""

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keras_metalr import Controller
from keras_metalr import MetaLR
from keras_metalr import schedule
from keras_metalr.decision import INITIAL
from tests.fit_checks import BATCH_SIZE
from tests.fit_checks import FIT
from tests.fit_checks import QUICK
from tests.fit_checks import all_finite
from tests.fit_checks import assert_clean
from tests.fit_checks import compiled
from tests.fit_checks import largest_difference
from tests.fit_checks import make_data
from tests.fit_checks import needs_optimizer
from tests.tensors import tensor
from tests.tensors import tensors

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


# -- Schedules that rise. ----------------------------------------------------


logs = st.floats(-60.0, 60.0, width=32, allow_subnormal=False)


@given(log_base=logs, before=logs, multiplier=logs, log_rate_max=logs)
def test_a_rise_takes_the_rate_no_higher_than_there_is_reason_for(
    log_base, before, multiplier, log_rate_max
):
    known = {
        "log_base": before,
        "log_multiplier": multiplier,
        "log_rate_max": log_rate_max,
        "best_log_multiplier": multiplier - 1.0,
        "log_ceiling": multiplier + 1.0,
    }
    new = schedule.follow(tensors({**INITIAL, **known}), tensor(log_base))
    new = {key: float(value) for key, value in new.items()}
    assert new["log_base"] == log_base
    given_back = multiplier - new["log_multiplier"]
    assert given_back >= 0.0
    if log_base <= before or multiplier == 0.0:
        assert given_back == 0.0
    else:
        log_rate = log_base + new["log_multiplier"]
        reason = max(before + multiplier, min(log_base, log_rate_max))
        assert log_rate <= reason + 1e-3
        # And no more is given back than for that.
        assert given_back == 0.0 or log_rate >= reason - 1e-3
    # What the guard would go back to, too.
    expected = multiplier - 1.0 - given_back
    assert new["best_log_multiplier"] == pytest.approx(expected, abs=1e-3)
    # And what it stays below since it went back.
    expected = multiplier + 1.0 - given_back
    assert new["log_ceiling"] == pytest.approx(expected, abs=1e-3)


def test_a_first_step_is_no_rise():
    known = {**INITIAL, "log_multiplier": 3.0}
    new = schedule.follow(tensors(known), tensor(-7.0))
    assert float(new["log_multiplier"]) == 3.0


def long_fit(optimizer, callbacks, num_steps=200):
    x, y = make_data(num_steps * BATCH_SIZE)
    model = compiled(optimizer, normalize=False, drop=False, **QUICK)
    return model.fit(x, y, callbacks=callbacks, **FIT).history["loss"][-1]


def test_a_restart_goes_no_higher_than_the_user_or_the_run():
    restarts = keras.optimizers.schedules.CosineDecayRestarts(1e-2, 50)
    metalr = MetaLR()
    assert long_fit(keras.optimizers.Adam(restarts), [metalr]) < 1.2
    rates = metalr.trace["learning_rate"]
    before, after = rates[49::50][:3], rates[50::50]
    highest = np.maximum.accumulate(rates)[49::50][:3]
    allowed = np.maximum(before * np.exp(0.5), np.minimum(highest, 1e-2))
    assert np.all(after <= allowed * (1 + 1e-3))
    # And it is one.
    assert after[0] > 2.0 * before[0]
    assert not (metalr.trace["event"].astype(int) & 2).any()


def test_a_long_warmup_is_that_of_the_safe_start():
    def first_rates(rate):
        metalr = MetaLR(Controller(), pretrained=True)
        long_fit(keras.optimizers.Adam(rate), [metalr])
        return metalr.trace["learning_rate"][1:40]

    warmup = CosineDecay(0.0, 1000, warmup_target=1e-4, warmup_steps=400)
    ratios = first_rates(warmup)[4:] / first_rates(1e-4)[5:-1].mean()
    assert np.all((ratios > 0.3) & (ratios < 3.0))


@pytest.mark.parametrize(
    ("boundaries", "values"), [([100], [0.0, 1e-3]), ([40, 100], [1e-3, 0, 1])]
)
def test_a_schedule_may_rest_at_zero(boundaries, values):
    rests = keras.optimizers.schedules.PiecewiseConstantDecay(
        boundaries, [float(value) for value in values]
    )
    metalr = MetaLR()
    assert long_fit(keras.optimizers.Adam(rests), [metalr]) < 1.2
    rates = metalr.trace["learning_rate"]
    assert np.all(rates[60:100] == 0.0) and rates[-10:].min() > 0.0
    assert rates.max() < 0.3


@needs_optimizer("MultiOptimizer")
@pytest.mark.parametrize("frozen", [False, True])
def test_a_part_that_begins_at_zero_does_not_lift_the_others(frozen):
    adam = keras.optimizers.Adam
    parts = keras.optimizers.OptimizerMap(
        adam(1e-3), {".*bias": adam(from_zero())}
    )
    model = compiled(
        keras.optimizers.MultiOptimizer(parts),
        normalize=False,
        drop=False,
        **QUICK,
    )
    if frozen:
        # A part without weights: no bias is trained.
        for layer in model.layers:
            if layer.weights:
                layer.bias.trainable = False
        model.compile(model.optimizer, loss=model.loss, **QUICK)
    x, y = make_data(NUM_STEPS * BATCH_SIZE)
    metalr = MetaLR(Controller())
    model.fit(x, y, callbacks=[metalr], **FIT)
    assert all_finite(model)
    assert metalr.trace["learning_rate"].max() < 0.1


@needs_optimizer("MultiOptimizer")
def test_a_part_without_weights_counts_no_batches():
    adam = keras.optimizers.Adam
    parts = keras.optimizers.OptimizerMap(
        adam(1e-3, gradient_accumulation_steps=4),
        {"nothing": adam(1e-3, gradient_accumulation_steps=4)},
    )
    metalr = MetaLR(Controller())
    long_fit(keras.optimizers.MultiOptimizer(parts), [metalr], num_steps=80)
    np.testing.assert_array_equal(metalr.trace["step"], np.arange(4, 81, 4))
    assert metalr.trace["learning_rate"].max() < 0.1


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


@pytest.mark.skipif(
    keras.backend.backend() != "torch",
    reason="Elsewhere it is called when a step is traced.",
)
@pytest.mark.parametrize("callbacks", [[], [MetaLR(Controller())]])
def test_a_rate_that_is_a_function_is_called_once_a_step(callbacks):
    calls = []
    fit(lambda: calls.append(None) or 1e-3, callbacks)
    assert len(calls) == NUM_STEPS


def test_a_rate_that_is_a_function_can_be_saved(tmp_path):
    save = keras.callbacks.ModelCheckpoint(str(tmp_path / "run.keras"))
    model = fit(_rate, [MetaLR(Controller()), save])
    assert model.optimizer._learning_rate is _rate
    assert (tmp_path / "run.keras").is_file()


@keras.saving.register_keras_serializable("keras_metalr_tests")
def _rate():
    return 1e-3
