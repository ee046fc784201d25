"""Families left out of training: who is trained on what, and the page."""

import json
import pathlib

import numpy as np
import pytest

from keras_metalr.meta_training.arenas import HELD_OUT_SEED
from keras_metalr.meta_training.arenas import TRAINING_SEED
from keras_metalr.meta_training.arenas import stage_arena
from keras_metalr.meta_training.configs import EvolutionConfig
from keras_metalr.meta_training.configs import Stage
from keras_metalr.meta_training.evaluation import evaluate
from keras_metalr.meta_training.evaluation import summarize
from keras_metalr.meta_training.evolution import evolve
from keras_metalr.meta_training.leave_out import leave_out
from keras_metalr.meta_training.leave_out import make_page
from tests.fit_checks import random_controller

ROOT = pathlib.Path(__file__).parents[2]
STAGES = [Stage(family, 12, 1, 4, 3) for family in ("dense", "regression")]


@pytest.mark.large
def test_a_family_is_judged_by_who_has_not_seen_it(data, tmp_path):
    config = EvolutionConfig(num_generations=2, num_pairs=2)
    start, lines = random_controller(), []
    arguments = (STAGES, ["dense"], start, config, data, ["digits"], tmp_path)
    table = leave_out(*arguments, lines.append)
    assert list(table) == ["dense"]
    assert sum("generation 2/2" in line for line in lines) == 2
    dense, regression = (
        [
            stage_arena(stage, data, ["digits"], tmp_path, seed, print)
            for seed in (TRAINING_SEED, HELD_OUT_SEED)
        ]
        for stage in STAGES
    )
    for name, controller in (
        ("start", start),
        ("all", evolve([dense[0], regression[0]], start, config)),
        ("others", evolve([regression[0]], start, config)),
    ):
        expected = summarize(evaluate(dense[1], controller)["regret"])
        assert table["dense"][name] == pytest.approx(expected, abs=2e-4)
    # All three differ, or the columns would say nothing.
    assert len({row["mean"] for row in table["dense"].values()}) == 3
    # What was evolved is kept.
    lines.clear()
    assert leave_out(*arguments, lines.append) == table
    assert not any("generation" in line for line in lines)


@pytest.mark.parametrize("stages", [STAGES[:1], STAGES])
def test_a_family_must_have_a_stage_and_company(stages, data, tmp_path):
    families = ["dense"] if len(stages) == 1 else ["dense", "conv"]
    with pytest.raises(ValueError, match="two or more that have a stage"):
        leave_out(
            stages,
            families,
            random_controller(),
            EvolutionConfig(),
            data,
            ["digits"],
            tmp_path,
        )
    assert not list(tmp_path.iterdir())


def test_the_published_page_says_what_the_record_says():
    results = ROOT / "benchmarks" / "results" / "leave_out.json"
    page = (ROOT / "docs" / "leave_out.md").read_text()
    assert page == make_page(json.loads(results.read_text()))


def test_the_page_has_a_row_for_each_family_and_their_mean():
    def scores(mean):
        numbers = np.array([mean, mean - 0.01, mean + 0.01])
        return {**summarize(numbers), "mean": mean}

    table = {
        "dense": {
            "start": scores(0.3),
            "all": scores(0.1),
            "others": scores(0.2),
        },
        "conv": {
            "start": scores(0.5),
            "all": scores(0.2),
            "others": scores(0.25),
        },
    }
    record = {
        "table": table,
        "evolution": EvolutionConfig(7, 5)._asdict(),
        "num_steps": 200,
        "num_tasks": 64,
        "num_held_out": 32,
        "data": ["digits", "sst2"],
        "data_notes": {"digits": "a copy"},
        "rule_version": 3,
        "device": "a card",
        "command": "the command",
    }
    json.dumps(record)
    text = make_page(record)
    assert "| dense | 0.300 [" in text and "] | 0.200 | 0.21 |" in text
    assert "| mean | 0.400 | | | 0.150 | | | 0.225 | | |" in text
    assert "7 generations of 5 antithetic pairs" in text
    assert "Data: digits (a copy), sst2.\nVersion 3 of the update" in text
    assert "`the command`" in text
