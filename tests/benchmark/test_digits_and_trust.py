"""What the scripts of the digits and of trust work out themselves."""

import math
import os
from argparse import Namespace

import numpy as np
import pytest

from keras_metalr.workloads import sklearn_source
from tests import benchmark_scripts

pytestmark = pytest.mark.backend_independent

digits = benchmark_scripts.load("digits")
trust = benchmark_scripts.load("trust")


def test_constant_rates_are_even_on_a_log_scale():
    rates = digits.constant_rates()
    assert len(rates) == 12
    assert (rates[0], rates[-1]) == (1e-5, 3.0)
    # To three digits.
    np.testing.assert_allclose(np.diff(np.log(rates)), np.log(3e5) / 11, 0.01)
    assert digits.constant_rates(3) == [1e-5, 0.00548, 3.0]


@pytest.mark.parametrize(
    ("main", "flags", "message"),
    [
        (digits.main, "--epochs 1", "without --epochs: name --output"),
        (digits.main, "--seeds 1 --rates 2", "without --seeds and --rates"),
        (trust.main, "--preset a --steps 2", "without --steps: name --output"),
    ],
)
def test_other_runs_do_not_lie_among_those_that_are_published(
    main, flags, message, capsys
):
    with pytest.raises(SystemExit):
        main(flags.split())
    assert message in capsys.readouterr().err


def test_the_published_folder_is_known_by_any_name(capsys):
    folder = os.path.relpath(digits.RESULTS / "digits")
    for flags, message in (
        ("--epochs 2", "without --epochs: name --output"),
        ("--optimizer sgd", "digits is of another optimizer"),
    ):
        with pytest.raises(SystemExit):
            digits.main([*flags.split(), "--output", folder])
        assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--rates 0", "--rates must be 2 or more"),
        ("--rates -1", "--rates must be 2 or more"),
        ("--seeds 0", "--seeds must be 1 or more"),
        ("--epochs 0", "--epochs must be 1 or more"),
    ],
)
def test_digits_refuse_what_makes_no_comparison(
    flags, message, tmp_path, capsys
):
    output = tmp_path / "runs"
    with pytest.raises(SystemExit):
        digits.main([*flags.split(), "--output", str(output)])
    assert message in capsys.readouterr().err
    assert not output.exists()


def test_no_folder_is_claimed_without_data(tmp_path, monkeypatch, capsys):
    def refuse():
        raise ImportError("no scikit-learn")

    monkeypatch.setattr(sklearn_source, "datasets", refuse)
    output = tmp_path / "runs"
    assert digits.main(["--output", str(output)]) == 2
    assert capsys.readouterr().err == "error: no scikit-learn\n"
    assert not output.exists()


def test_trust_finds_first_that_its_record_cannot_be_written(tmp_path, capsys):
    runs = tmp_path / "runs"
    flags = ["--preset", "none", "--runs", str(runs)]
    assert trust.main([*flags, "--output", str(tmp_path)]) == 2
    assert "is a folder" in capsys.readouterr().err
    assert not runs.exists()


def test_trust_is_the_mean_of_the_second_half():
    ratios = np.array([9.0, 9.0, 0.25, 0.5])
    assert trust._mean_of_second_half(ratios) == 0.375
    # The middle one of an odd number is in it; what is not known is not.
    ratios = np.array([9.0, 0.25, np.nan])
    assert trust._mean_of_second_half(ratios) == 0.25
    assert trust._mean_of_second_half(np.array([1.0, 1 / 3])) == 0.3333
    assert math.isnan(trust._mean_of_second_half(np.array([1.0, np.nan])))


@pytest.mark.parametrize("flag", ["--steps", "--rates"])
def test_trust_refuses_what_makes_no_run(flag, capsys):
    with pytest.raises(SystemExit):
        trust.main(["--preset", "none", flag, "0"])
    assert "must be 1 or more" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("steps", "rates", "more"),
    [(trust.NUM_STEPS, None, ""), (4, 1, " --steps 4 --rates 1")],
)
def test_a_record_of_trust_names_no_folder(steps, rates, more):
    arguments = Namespace(preset="somewhere", steps=steps, rates=rates)
    expected = f"python benchmarks/trust.py --preset FOLDER{more}"
    assert trust._command(arguments) == expected
