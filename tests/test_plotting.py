"""Pictures: what is drawn, and what is refused."""

import math

import keras
import numpy as np
import pytest

from keras_metalr import Trace
from keras_metalr import plotting
from keras_metalr.benchmark.records import RunResult

pytestmark = pytest.mark.backend_independent

pyplot = pytest.importorskip("matplotlib.pyplot")


@pytest.fixture(autouse=True)
def close_figures():
    yield
    pyplot.close("all")


def _trace(num_decisions=100, rollback_at=None):
    columns = list(Trace.columns)
    rows = np.zeros((num_decisions, len(columns)), "float32")
    steps = 5.0 * np.arange(1, num_decisions + 1)
    rows[:, columns.index("step")] = steps
    rows[:, columns.index("loss")] = 2.0 * np.exp(-steps / 200) + 0.1
    rows[:, columns.index("learning_rate")] = 1e-3
    if rollback_at is not None:
        rows[rollback_at, columns.index("event")] = 3
    return Trace(rows)


def _run(losses, rate=0.1):
    steps = list(range(1, len(losses) + 1))
    return RunResult(
        config={},
        environment={},
        history={},
        curves={
            "loss": {"per": "step", "step": steps, "value": list(losses)},
            "learning_rate": {
                "per": "step",
                "step": [1, len(losses)],
                "value": [rate, rate],
            },
        },
        results={"eval_loss": losses[-1]},
    )


def test_plot_trace_draws_loss_and_rate_on_twin_axes():
    ax = plotting.plot_trace(_trace())
    rate_ax = next(other for other in ax.figure.axes if other is not ax)
    assert ax.get_ylabel() == "loss"
    assert rate_ax.get_ylabel() == "learning rate"
    assert rate_ax.get_yscale() == "log"
    np.testing.assert_allclose(rate_ax.lines[0].get_ydata(), 1e-3)


def test_losses_below_zero_are_drawn_whole():
    losses = np.linspace(1.0, -3.0, 150)
    rows = _trace(len(losses)).rows.copy()
    rows[:, list(Trace.columns).index("loss")] = losses
    ax = plotting.plot_trace(Trace(rows))
    smooth = ax.lines[-1].get_ydata()
    # A centred mean leaves a straight line where it is, but at the ends.
    np.testing.assert_allclose(smooth[10:-10], losses[10:-10], atol=1e-5)
    loss_ax = plotting.plot_comparison({"a": _run(losses)}).axes[0]
    assert loss_ax.get_yscale() == "linear"
    low, high = loss_ax.get_ylim()
    assert low <= -3.0 and high >= 1.0


def test_a_history_is_drawn_at_its_own_steps():
    def history(epochs, steps):
        run = keras.callbacks.History()
        run.epoch, run.params = epochs, {"steps": steps}
        count = len(epochs)
        run.history = {"loss": count * [0.5], "learning_rate": count * [0.1]}
        return run

    figure = plotting.plot_comparison({"resumed": history([8, 9], 10)})
    assert list(figure.axes[0].lines[0].get_xdata()) == [90.0, 100.0]
    with pytest.raises(ValueError, match=r"Pass `metalr\.trace`"):
        plotting.plot_comparison({"no length": history([0, 1], None)})


def test_a_plain_history_has_a_loss_and_no_rate():
    plain = keras.callbacks.History()
    plain.epoch, plain.params = [0, 1], {"steps": 5}
    plain.history = {"loss": [0.5, 0.4]}
    figure = plotting.plot_comparison({"plain": plain, "MetaLR": _trace()})
    loss_ax, rate_ax = figure.axes
    assert [line.get_label() for line in rate_ax.lines] == ["MetaLR"]
    assert not rate_ax.texts
    assert list(loss_ax.lines[0].get_ydata()) == [0.5, 0.4]
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend == ["plain", "MetaLR"]
    # Where none was logged, the panel says so.
    alone = plotting.plot_comparison({"plain": plain}).axes[1]
    assert [text.get_text() for text in alone.texts] == ["not logged"]


def test_plot_trace_draws_into_given_axes():
    _, given = pyplot.subplots()
    assert plotting.plot_trace(_trace(10), ax=given) is given
    assert _trace(10).plot(ax=given) is given


def test_plot_trace_marks_rollbacks():
    ax = plotting.plot_trace(_trace(rollback_at=40))
    labels = ax.get_legend_handles_labels()[1]
    assert "back to earlier weights" in labels
    assert ax.lines[-1].get_xdata()[0] == 205.0


def test_plot_trace_of_nothing():
    with pytest.raises(ValueError, match="after `fit`"):
        plotting.plot_trace(Trace())


def test_plot_comparison_of_columns(tmp_path):
    losses = np.linspace(2.0, 0.5, 80)
    figure = plotting.plot_comparison(
        {
            "static": {"from 0.1": _run(losses), "from 10": _run(losses, 10.0)},
            "MetaLR": {"from 0.1": _trace(), "from 10": _trace()},
        },
        title="Digits",
    )
    assert len(figure.axes) == 4
    assert [ax.get_title() for ax in figure.axes[:2]] == ["static", "MetaLR"]
    assert figure.axes[2].get_yscale() == "log"
    # One label, one colour, in every column.
    for label in ("from 0.1", "from 10"):
        colours = {
            line.get_color()
            for ax in figure.axes
            for line in ax.lines
            if line.get_label() == label
        }
        assert len(colours) == 1
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend == ["from 0.1", "from 10"]
    figure.savefig(tmp_path / "comparison.png")
    assert (tmp_path / "comparison.png").stat().st_size > 5000


def test_plot_comparison_of_a_flat_mapping():
    figure = plotting.plot_comparison({"a": _trace(), "b": _trace()})
    assert len(figure.axes) == 2


def test_plot_comparison_survives_divergence():
    exploded = [2.0, 1e9, 1e30, math.inf, math.nan, math.nan]
    figure = plotting.plot_comparison(
        {
            "a": _run(exploded),
            "b": _run([math.nan] * 6),
            "c": _run([2.0, 1.0, 0.9, 0.8, 0.7, 0.6]),
        }
    )
    loss_ax = figure.axes[0]
    low, high = loss_ax.get_ylim()
    assert 0 < low < 0.7 and high <= 20.0
    crosses = [line for line in loss_ax.lines if line.get_marker() == "X"]
    assert len(crosses) == 1
    assert low <= crosses[0].get_ydata()[0] <= high
    assert crosses[0].get_xdata()[0] == 3


def test_the_axis_of_a_run_that_is_ruined_at_once_is_upright():
    figure = plotting.plot_comparison({"a": _run([2.0] + 99 * [1e9])})
    low, high = figure.axes[0].get_ylim()
    assert low < 2.0 < high <= 20.0


def test_plot_comparison_with_no_finite_loss_at_all():
    figure = plotting.plot_comparison({"b": _run([math.nan] * 6)})
    figure.canvas.draw()


def test_plot_comparison_takes_what_fit_returns():
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(0.1), loss="mse")
    x = np.ones((8, 2), "float32")
    schedule = keras.callbacks.LearningRateScheduler(lambda epoch: 0.1)
    history = model.fit(
        x, x[:, :1], batch_size=4, epochs=3, verbose=0, callbacks=[schedule]
    )
    figure = plotting.plot_comparison({"run": history})
    np.testing.assert_array_equal(
        figure.axes[0].lines[0].get_xdata(), [2, 4, 6]
    )


def test_plot_comparison_refuses_the_unknown():
    with pytest.raises(TypeError, match="Received: int"):
        plotting.plot_comparison({"a": 3})
    with pytest.raises(ValueError, match="at least one run"):
        plotting.plot_comparison({})


def test_style_does_not_leak():
    before = dict(pyplot.rcParams)
    plotting.plot_trace(_trace())
    plotting.plot_comparison({"a": _trace()})
    assert dict(pyplot.rcParams) == before


def test_missing_matplotlib_says_what_to_install(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.delitem(sys.modules, "matplotlib.pyplot")
    with pytest.raises(ImportError, match="pip install matplotlib"):
        plotting.plot_trace(_trace())
