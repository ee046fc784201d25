"""The guard's rule, and whole runs of losses through it."""

import math

import numpy as np
import pytest
from keras import ops

from keras_metalr import guard as rule
from keras_metalr.decision import INITIAL
from keras_metalr.decision import count_step
from keras_metalr.features import SUMMARY_INITIAL
from keras_metalr.features import update_summary
from keras_metalr.guard import GUARD_INITIAL
from tests.jit import jit
from tests.tensors import MEASURED
from tests.tensors import tensor
from tests.tensors import tensors

LOG_MULTIPLIER = math.log(1e-2)
UNUSED = (
    "log_gradient_norm",
    "cosine",
    "log_update_ratio",
    "promised_drop",
    "shortfall",
)


@jit
def _step(books, finite):
    size = finite.shape[0]
    measured = tensors(dict.fromkeys(MEASURED, 1.0), size)
    scalars = {**tensors(INITIAL, size), **books}
    counted = count_step(scalars, measured, finite, finite, 1.0 - finite)
    return {key: counted[key] for key in GUARD_INITIAL}


@jit
def _assess(books, summary, log_multiplier):
    books, back, log_multiplier = rule.assess(books, summary, log_multiplier)
    forgiven = rule.forgive({**summary, **books})
    summary = {key: forgiven[key] for key in summary}
    return books, summary, back, log_multiplier


@jit
def _decide(books, summary, log_multiplier, loss):
    books = _step(books, ops.ones_like(loss))
    # What has no say in this is zero.
    interval = tensors(dict.fromkeys(UNUSED, 0.0), loss.shape[0])
    interval = {**interval, "loss": loss, "log_rate": log_multiplier}
    return _assess(books, update_summary(summary, interval), log_multiplier)


class Simulation:
    """Runs side by side, of which the guard sees the losses alone."""

    def __init__(self, num_runs=1):
        self.num_runs = num_runs
        self.books = tensors(GUARD_INITIAL, num_runs)
        self.summary = tensors(SUMMARY_INITIAL, num_runs)
        self.log_multiplier = np.full(num_runs, LOG_MULTIPLIER)

    def step(self, finite=1.0):
        finite = tensor(np.full(self.num_runs, finite))
        self.books = _step(self.books, finite)

    def decide(self, loss=None):
        """One decision; returns which of the runs went back."""
        state = self.books, self.summary, tensor(self.log_multiplier)
        if loss is None:
            result = _assess(*state)
        else:
            loss = np.broadcast_to(loss, (self.num_runs,))
            result = _decide(*state, tensor(loss))
        self.books, self.summary, back, log_multiplier = result
        self.log_multiplier = np.minimum(
            ops.convert_to_numpy(log_multiplier), self["log_ceiling"]
        )
        back = ops.convert_to_numpy(back)
        assert set(back.tolist()) <= {0.0, 1.0}
        return back > 0.5

    def run(self, losses):
        """Decisions after which some run went back, counted from 0."""
        return [i for i, loss in enumerate(losses) if self.decide(loss).any()]

    def __getitem__(self, name):
        return ops.convert_to_numpy(self.books[name])


def falling(count=40):
    return 0.5 + 1.8 * 0.9 ** np.arange(count)


# -- What is no reason to go back. ------------------------------------------


def test_noise_is_never_rolled_back():
    # 500 runs of 200 decisions each that fall, and then only jitter.
    generator = np.random.default_rng(3)
    simulation = Simulation(500)
    noise = np.exp(0.3 * generator.normal(size=(200, 500)))
    assert simulation.run(falling(200)[:, None] * noise) == []
    assert np.all(simulation["rollbacks"] == 0.0)


def test_loss_that_rises_slowly_by_noise_is_never_rolled_back():
    # A run that has converged and overfits a little: the loss wanders, and
    # rises by a third of what was gained (half of it would be ruin).
    generator = np.random.default_rng(10)
    simulation = Simulation(500)
    wander = 0.02 * np.cumsum(generator.normal(size=(200, 500)), axis=0)
    rise = np.linspace(0.0, 0.4, 200)[:, None]
    jitter = 0.15 * generator.normal(size=(200, 500))
    losses = falling(200)[:, None] + np.clip(wander, -0.2, 0.2) + rise + jitter
    assert simulation.run(losses) == []


def test_run_without_progress_is_never_rolled_back():
    generator = np.random.default_rng(4)
    losses = 2.3 + 0.02 * generator.normal(size=(200, 500))
    assert Simulation(500).run(losses) == []


@pytest.mark.parametrize("spread", [0.5, 1.0])
def test_heavy_tailed_noise_is_hardly_ever_rolled_back(spread):
    # Losses of small batches near convergence: most of them small, some very
    # large. The first one, by which others are judged, may be a lucky one.
    generator = np.random.default_rng(6)
    losses = np.exp(spread * generator.normal(size=(200, 200)))
    simulation = Simulation(200)
    simulation.run(losses)
    # Going back once costs a run little; it must be the exception.
    assert np.mean(simulation["rollbacks"] > 0.0) <= 0.02
    assert np.max(simulation["rollbacks"]) <= 1.0


@pytest.mark.parametrize("height", [5.0, 1e4])
def test_one_spike_is_no_reason(height):
    losses = falling(60)
    losses[30] *= height
    assert Simulation().run(losses) == []


def test_constant_loss_is_no_reason():
    assert Simulation().run(np.ones(100)) == []
    assert Simulation().run(np.zeros(100)) == []


def test_negative_losses_that_fall():
    assert Simulation().run(-np.linspace(1.0, 50.0, 100)) == []


def test_negative_losses_that_rise_by_less_than_half_of_the_gain():
    losses = [*-np.linspace(1.0, 50.0, 60), *[-50.0] * 150, *[-35.0] * 40]
    assert Simulation().run(losses) == []


# -- Ruined. ----------------------------------------------------------------


def test_ruined_run_goes_back():
    simulation = Simulation()
    losses = [*falling(40), *[2.3] * 25]
    back = simulation.run(losses)
    # 6 decisions in a row, after those that the running mean takes to rise.
    # The jump itself must not pass for noise.
    assert back and 40 + 5 <= back[0] <= 40 + 20


def test_ruined_run_takes_six_decisions_in_a_row():
    simulation = Simulation()
    simulation.run(falling(40))
    high = []
    for _ in range(20):
        back = simulation.decide(2.3)
        high.append(float(simulation["high_decisions"][0]))
        if back:
            break
    # The last one is set to 0 again by the rollback.
    counted = [value for value in high if value]
    assert counted == [1.0, 2.0, 3.0, 4.0, 5.0] and high[-1] == 0.0


def test_noise_is_known_from_before_the_loss_rose():
    simulation = Simulation()
    simulation.run(falling(40))
    while simulation["high_decisions"] < 1.0:
        simulation.decide(2.3)
    before = simulation["calm_deviation"][0]
    for loss in (2.4, 2.9, 2.5):
        assert not simulation.decide(loss)
        assert simulation["calm_deviation"][0] == before


def test_a_loss_is_not_judged_again_where_nothing_was_to_move():
    simulation = Simulation()
    simulation.run(falling(40))
    while simulation["high_decisions"] < 1.0:
        simulation.decide(2.3)
    books, summary = simulation.books, simulation.summary
    for _ in range(8):
        new, back, _ = rule.assess(
            books, summary, tensor([-3.0]), has_updates=tensor([0.0]) > 0.5
        )
        assert float(back[0]) == 0.0
        for name in ("high_decisions", "calm_deviation"):
            assert float(new[name][0]) == float(books[name][0])
        books = new


def test_count_of_high_decisions_starts_anew_when_the_loss_comes_back():
    simulation = Simulation()
    simulation.run(falling(40))
    while simulation["high_decisions"] < 4.0:
        assert not simulation.decide(2.3)
    assert not simulation.decide(0.0)
    assert simulation["high_decisions"] == 0.0


def test_ruin_is_not_called_in_the_first_ten_decisions():
    simulation = Simulation()
    losses = [1.0, 0.9, 0.8, *[1.5] * 6]
    assert simulation.run(losses) == []
    assert simulation["high_decisions"] == 0.0


@pytest.mark.parametrize(
    ("decisions", "loss", "high"),
    [
        # Of the gain more than half is lost: from the eleventh decision on.
        (10.0, 2.0, 0.0),
        (11.0, 2.0, 1.0),
        # An explosion: before that, a hundred times the size of the loss.
        (10.0, 2.3 * 50.0, 0.0),
        (10.0, 2.3 * 150.0, 2.0),
        (11.0, 2.3 * 3.0, 2.0),
    ],
)
def test_what_counts_as_high(decisions, loss, high):
    books = tensors({**GUARD_INITIAL, "best_loss": 0.5})
    losses = dict.fromkeys(("loss", "loss_fast", "loss_slow"), loss)
    known = {"decisions": decisions, "loss_first": 2.3, **losses}
    summary = tensors({**SUMMARY_INITIAL, **known})
    new, _, _ = rule.assess(books, summary, tensor(-3.0))
    assert float(new["high_decisions"]) == high


def test_rise_by_less_than_half_of_the_gain_is_not_ruin():
    # Slowly enough that the deviation has no part in it.
    def last(fraction):
        gain = falling(60)[0] - falling(60)[-1]
        rise = np.linspace(0.0, fraction * gain, 60)
        simulation = Simulation()
        simulation.run([*falling(60), *(falling(60)[-1] + rise)])
        return simulation.run([falling(60)[-1] + rise[-1]] * 60)

    assert last(0.45) == []
    assert len(last(0.8)) >= 1


def test_ruined_rate_is_cut_and_kept_below():
    simulation = Simulation()
    simulation.run(falling(40))
    # The loss was at its best with the first rate; the harm came with a
    # larger one.
    simulation.log_multiplier += math.log(30.0)
    harmful = simulation.log_multiplier.copy()
    while not simulation.decide(2.3):
        pass
    np.testing.assert_allclose(
        simulation.log_multiplier, LOG_MULTIPLIER + math.log(0.2), rtol=1e-5
    )
    ceiling = harmful + math.log(0.5)
    np.testing.assert_allclose(simulation["log_ceiling"], ceiling, rtol=1e-5)
    # It may come back to the harmful rate, by 2 % a decision.
    for _ in range(10):
        simulation.decide(0.5)
    np.testing.assert_allclose(
        simulation["log_ceiling"], ceiling + 0.2, rtol=1e-4
    )


def test_rate_smaller_than_the_best_is_cut_from_where_it_is():
    simulation = Simulation()
    simulation.run(falling(40))
    simulation.log_multiplier -= 2.0
    while not simulation.decide(2.3):
        pass
    np.testing.assert_allclose(
        simulation.log_multiplier,
        LOG_MULTIPLIER - 2.0 + math.log(0.2),
        rtol=1e-5,
    )


def test_nothing_is_judged_until_the_weights_have_gone_back():
    books = tensors({**GUARD_INITIAL, "high_decisions": 6.0})
    books["best_loss"] = tensor(0.1)
    summary = tensors({**SUMMARY_INITIAL, "decisions": 50.0, "loss_fast": 9.0})
    summary["loss_slow"] = summary["loss"] = tensor(9.0)
    log_multiplier, backs = tensor(-3.0), []
    for _ in range(30):
        books, back, log_multiplier = rule.assess(
            books, summary, log_multiplier, 16.0
        )
        backs.append(float(back))
    # 16 decisions until they have, 4 to settle, 3 for an exploded loss.
    assert np.flatnonzero(backs).tolist() == [0, 23]


@pytest.mark.parametrize(
    ("interval", "steps_per_execution", "decisions"),
    [
        # Two looks, one at every eighth step or decision.
        (1, 1, 16),
        (3, 1, 6),
        (8, 1, 2),
        (20, 1, 2),
        # Every 32 steps at the most, and at most 7 after they were due.
        (1, 32, 78),
        (20, 8, 3),
    ],
)
def test_decisions_until_the_weights_have_gone_back(
    interval, steps_per_execution, decisions
):
    found = rule.decisions_until_restored(tensor(interval), steps_per_execution)
    assert float(found) == decisions


def test_ceiling_never_rises_by_a_rollback():
    books = tensors(
        {**GUARD_INITIAL, "high_decisions": 6.0, "log_ceiling": -8.0}
    )
    books["best_loss"] = tensor(0.1)
    summary = tensors({**SUMMARY_INITIAL, "decisions": 50.0, "loss_fast": 9.0})
    summary["loss_slow"] = summary["loss"] = tensor(9.0)
    new, back, _ = rule.assess(books, summary, tensor(-3.0))
    assert float(back) == 1.0
    assert float(new["log_ceiling"]) == -8.0


def test_means_of_the_loss_stand_at_the_best_after_a_rollback():
    simulation = Simulation()
    simulation.run(falling(40))
    best = float(simulation["best_loss"][0])
    while not simulation.decide(2.3):
        pass
    for name in ("loss", "loss_fast", "loss_slow"):
        assert float(simulation.summary[name][0]) == pytest.approx(best)


def test_losses_do_not_count_until_the_weights_have_gone_back():
    summary = tensors({**SUMMARY_INITIAL, "decisions": 50.0})
    for name in ("loss", "loss_fast", "loss_slow"):
        summary[name] = tensor(9.0)
    books = tensors({**GUARD_INITIAL, "high_decisions": 6.0, "best_loss": 0.1})
    forgiven = []
    for _ in range(12):
        books, _, _ = rule.assess(books, summary, tensor(-3.0), 6.0)
        means = rule.forgive({**summary, **books})
        forgiven.append(float(means["loss_slow"]) < 1.0)
    # The one to go back, and those until that is done.
    assert forgiven == [True] * 7 + [False] * 5


# -- Exploded. --------------------------------------------------------------


def test_losses_that_begin_at_0_do_not_explode():
    noise = 0.02 * np.random.default_rng(5).normal(size=(200, 300))
    noise[0] = 0.0
    simulation = Simulation(300)
    simulation.run(noise)
    assert np.mean(simulation["rollbacks"] > 0.0) <= 0.02


def test_exploded_run_goes_back_in_half_the_time():
    simulation = Simulation()
    back = simulation.run([*falling(40), *[1e6] * 10])
    assert back[0] == 42


def test_explosion_counts_in_the_first_decisions_too():
    assert 5 <= Simulation().run([2.3, 2.2, 2.1, *[1e5] * 9])[0] < 12


def test_infinite_mean_is_an_explosion():
    simulation = Simulation()
    simulation.run(falling(20))
    assert 2 <= simulation.run([3e38] * 10)[0] <= 5


# -- Broken. ----------------------------------------------------------------


def broken(simulation, num_steps):
    for _ in range(num_steps):
        simulation.step(finite=0.0)
    return bool(simulation.decide()[0])


def test_broken_run_goes_back_after_five_steps():
    for num_steps, expected in [(4, False), (5, True), (6, True)]:
        simulation = Simulation()
        simulation.run(falling(3))
        assert broken(simulation, num_steps) is expected


def test_bad_steps_must_be_in_a_row():
    simulation = Simulation()
    simulation.run(falling(3))
    for _ in range(4):
        simulation.step(finite=0.0)
    simulation.step()
    assert simulation["consecutive_bad"] == 0.0
    assert not broken(simulation, 4)
    assert simulation["skipped_steps"] == 8.0
    assert simulation["good_steps"] == 4.0


def test_broken_rate_is_cut_to_a_hundredth():
    simulation = Simulation()
    simulation.run(falling(3))
    assert broken(simulation, 5)
    np.testing.assert_allclose(
        simulation.log_multiplier, LOG_MULTIPLIER + math.log(0.01), rtol=1e-5
    )


def test_bad_steps_that_go_on_are_the_fault_of_the_data():
    simulation = Simulation()
    simulation.run(falling(3))
    assert broken(simulation, 5)
    for _ in range(20):
        assert not broken(simulation, 5)
    # A good step shows that it was not.
    simulation.step()
    assert broken(simulation, 5)


# -- How often. -------------------------------------------------------------


def test_run_settles_after_it_went_back():
    simulation = Simulation()
    simulation.run(falling(40))
    back = simulation.run([1e6] * 12)
    # 3 decisions until the first, 4 to settle, and 3 again.
    assert back == [2, 9]


def test_best_loss_is_not_moved_while_the_run_settles():
    simulation = Simulation()
    simulation.run(falling(40))
    best = simulation["best_loss"].copy()
    simulation.run([1e6] * 3)
    for _ in range(int(rule.COOLDOWN_DECISIONS)):
        simulation.decide(1e-3)
        np.testing.assert_array_equal(simulation["best_loss"], best)
    simulation.decide(1e-3)
    assert simulation["best_loss"] < best


def test_a_run_goes_back_eight_times_at_the_most():
    simulation = Simulation()
    simulation.run(falling(40))
    assert len(simulation.run([1e6] * 200)) == rule.MAX_ROLLBACKS == 8.0


def test_nothing_changes_where_nothing_is_wrong():
    simulation = Simulation()
    simulation.run(falling(40))
    assert simulation.log_multiplier == pytest.approx(LOG_MULTIPLIER)
    assert simulation["log_ceiling"] == 1e9
    assert simulation["best_log_multiplier"] == pytest.approx(LOG_MULTIPLIER)
    expected = float(simulation.summary["loss_slow"][0])
    assert simulation["best_loss"] == pytest.approx(expected)
