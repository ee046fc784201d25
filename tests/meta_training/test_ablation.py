"""The ablation: every part is taken away, and the page says what was found."""

import json
import pathlib

import numpy as np
import pytest

from keras_metalr.features import FEATURE_NAMES
from keras_metalr.meta_training import ablation
from keras_metalr.meta_training.ablation import Part
from keras_metalr.update_rule import Evidence
from tests.fit_checks import random_controller

ROOT = pathlib.Path(__file__).parents[2]


def test_the_page_says_what_the_record_says():
    results = ROOT / "benchmarks" / "results" / "ablation.json"
    record = json.loads(results.read_text())
    page = (ROOT / "docs" / "ablation.md").read_text()
    assert page == ablation.make_page(record)
    # The unroll masks what is not finite, whatever the settings: a row's name
    # says what is taken away.
    assert "| no rollbacks |" in page and "guard" not in page
    names = [ablation.RENAMED.get(name, name) for name in record["table"]]
    assert names == [part.name for part in ablation.parts()]


def test_every_feature_is_in_one_group():
    names = [name for group in ablation.GROUPS.values() for name in group]
    assert sorted(names) == sorted(FEATURE_NAMES)


@pytest.mark.large
def test_every_part_changes_the_runs(data, monkeypatch):
    # Less of everything, and one row of each kind.
    monkeypatch.setattr(ablation, "NUM_STEPS", 40)
    rows = [
        Part("as shipped", 20),
        Part("phase 2 alone", 20, start=True),
        Part("without time", 20, without=ablation.GROUPS["time"]),
        Part("another rule", 20, rule=lambda output, *_: 0.1 * output),
        Part("40 decisions", 40),
        Part(
            "safe start off",
            20,
            settings=ablation.Settings(safe_start=False),
            first_rate=1e-6,
        ),
    ]
    monkeypatch.setattr(ablation, "parts", lambda: rows)
    lines = []
    table = ablation.ablate(
        random_controller(0),
        random_controller(1),
        data,
        families=("dense",),
        num_tasks=3,
        say=lines.append,
    )
    assert list(table) == [row.name for row in rows]
    means = [row["dense"]["mean"] for row in table.values()]
    assert np.all(np.isfinite(means)) and len(set(means)) == len(rows)
    record = {
        "table": table,
        "command": "the command",
        "controller": "abc-rule7",
        "num_tasks": 3,
        "data": ["digits", "cifar10"],
        "data_notes": {"cifar10": "lossy copy"},
    }
    json.dumps(record)
    text = ablation.make_page(record)
    for name, row in table.items():
        assert f"| {name} | {row['dense']['mean']:.3f} |" in text
    assert "Data: digits, cifar10 (lossy copy)." in text
    assert "`the command`\nwith abc-rule7." in text and len(lines) == len(rows)
    shipped = table["as shipped"]["dense"]
    interval = f"{shipped['low']:.3f} to {shipped['high']:.3f} (dense)"
    assert f"the 95 % interval is {interval}." in text


def evidence(trust, pretrained, cosine=0.0):
    """Of a run of which the rest says nothing."""
    size = len(trust)
    return Evidence(
        trust=np.asarray(trust, "float32"),
        cosine=np.full(size, cosine, "float32"),
        loss_share=np.full(size, 0.3, "float32"),
        progress=np.full(size, 0.5, "float32"),
        num_decisions=np.full(size, 200.0, "float32"),
        interval=np.full(size, 1.0, "float32"),
        num_examples=np.full(size, 64.0, "float32"),
        num_passes=np.full(size, 10.0, "float32"),
        sparsity=np.zeros(size, "float32"),
        validation_gap=np.full(size, 10.0, "float32"),
        lost_again=np.zeros(size, "float32"),
        training_lead=np.zeros(size, "float32"),
        measured=np.ones(size, "float32"),
        pretrained=np.full(size, pretrained, "float32"),
    )


def test_cap_on_growth_alone():
    outputs = np.array([2.0, 2.0, 2.0, -2.0], "float32")
    known = evidence([1.0, 0.9, 0.5, 0.5], pretrained=1.0)
    growth = np.asarray(ablation._growth_only(outputs, known))
    full = np.asarray(ablation.increment(outputs, known))
    np.testing.assert_allclose(growth[:2], full[:2])
    # Where trust is low it holds the rate, and leaves a fall as it was.
    np.testing.assert_allclose(growth[2:], [0.0, 0.5 * np.tanh(-2.0)])
    np.testing.assert_allclose(full[2:], -0.5)


def test_one_floor_for_all():
    outputs = np.array([2.0, 2.0], "float32")
    trust = [0.9, 0.7]
    new, old = evidence(trust, 0.0), evidence(trust, 1.0)
    alike = np.asarray(ablation._as_pretrained(outputs, new))
    expected = np.asarray(ablation.increment(outputs, old))
    np.testing.assert_array_equal(alike, expected)
    shipped = np.asarray(ablation.increment(outputs, new))
    assert alike[1] < 0.0 < shipped[1]


def test_without_the_least_change():
    outputs = np.array([-1.0, 1.0, 0.0], "float32")
    straight = evidence([1.0] * 3, 1.0, cosine=0.9)
    lifted = np.asarray(ablation.increment(outputs, straight))
    np.testing.assert_allclose(lifted, [0.5, 0.5, 0.0])
    left = np.asarray(ablation._never_lifted(outputs, straight))
    np.testing.assert_allclose(left, 0.5 * np.tanh(outputs), rtol=1e-6)


def test_a_net_that_overfits_is_let_be():
    outputs = np.array([2.0, -2.0], "float32")
    told = np.ones(2, "float32")
    known = evidence([1.0, 1.0], 0.0)
    overfits = known._replace(lost_again=told, training_lead=told)
    falls = np.asarray(ablation.increment(outputs, overfits))
    np.testing.assert_allclose(falls[0], -0.2, rtol=1e-6)
    left = np.asarray(ablation._overfitting_let_be(outputs, overfits))
    expected = np.asarray(ablation.increment(outputs, known))
    np.testing.assert_array_equal(left, expected)
