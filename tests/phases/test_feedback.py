"""The feedback loop: run after run, and on where it was interrupted."""

import warnings

import numpy as np
import pytest

from keras_metalr import Controller
from keras_metalr import Trace
from keras_metalr import experience
from keras_metalr.controller import fingerprint
from keras_metalr.phases import gather_experience
from tests.phases.test_collect import fit_arguments
from tests.phases.test_collect import make_model


@pytest.mark.large
def test_runs_follow_one_another_and_an_interrupted_loop_goes_on(tmp_path):
    seeds = []

    def arguments(seed):
        seeds.append(seed)
        return fit_arguments(seed)

    def loop(folder, num_runs):
        return gather_experience(
            make_model,
            arguments,
            folder,
            num_runs=num_runs,
            first_seed=7,
            controller="supervised",
        )

    whole = loop(tmp_path / "whole", 3)
    assert seeds == [7, 8, 9]
    loop(tmp_path / "parts", 1)
    parts = loop(tmp_path / "parts", 3)
    assert seeds[3:] == [7, 8, 9]
    expected = [run.outcome for run in whole]
    assert [run.outcome for run in parts] == pytest.approx(expected, rel=1e-5)
    assert len(experience.load(tmp_path / "parts")) == 3


def test_of_runs_that_are_all_there_as_many_as_were_asked_for(tmp_path):
    controller = Controller()
    trace = Trace(np.zeros((4, len(Trace.columns)), "float32"))
    for outcome in (3.0, 2.0, 1.0):
        run = (outcome, "val_loss", 0.0, trace, fingerprint(controller))
        experience.save(tmp_path, experience.Experience(*run))

    def no_model():
        raise AssertionError("trained")

    runs = gather_experience(
        no_model, fit_arguments, tmp_path, num_runs=2, controller=controller
    )
    assert [run.outcome for run in runs] == [3.0, 2.0]


def test_a_run_that_leaves_nothing_ends_the_loop(tmp_path):
    def one_step(seed):
        return {**fit_arguments(seed), "epochs": 1, "steps_per_epoch": 1}

    # The message that no decision was made, if so short a run makes none.
    with (
        warnings.catch_warnings(),
        pytest.raises(ValueError, match=r"must be 1 runs in .* with seed 7\."),
    ):
        warnings.simplefilter("ignore", UserWarning)
        gather_experience(
            make_model, one_step, tmp_path, num_runs=2, first_seed=7
        )


@pytest.mark.parametrize("num_runs", [0, -1, True, 2.5, "3", None])
def test_bad_number_of_runs(tmp_path, num_runs):
    with pytest.raises(ValueError, match="num_runs"):
        gather_experience(
            make_model, fit_arguments, tmp_path, num_runs=num_runs
        )
