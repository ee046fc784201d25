"""Meta-training: what it measures, and a search that can be resumed."""

import json
import os
import pathlib
import platform

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from keras_metalr.controller import Controller
from keras_metalr.meta_training import arenas
from keras_metalr.meta_training import bank as banks
from keras_metalr.meta_training import data as data_module
from keras_metalr.meta_training import evolution
from keras_metalr.meta_training import tasks as tasks_module
from keras_metalr.meta_training import train
from keras_metalr.meta_training.arenas import Arena
from keras_metalr.meta_training.card import make_card
from keras_metalr.meta_training.checkpoint import load_tree
from keras_metalr.meta_training.checkpoint import save_tree
from keras_metalr.meta_training.configs import CONFIGS
from keras_metalr.meta_training.configs import EvolutionConfig
from keras_metalr.meta_training.configs import Stage
from keras_metalr.meta_training.configs import config_from_record
from keras_metalr.meta_training.data import load_data
from keras_metalr.meta_training.evaluation import evaluate
from keras_metalr.meta_training.evolution import evolve
from keras_metalr.meta_training.families import FAMILIES
from keras_metalr.meta_training.schedules import scheduled
from keras_metalr.meta_training.train import meta_train
from keras_metalr.meta_training.train import score_again
from keras_metalr.meta_training.unroll import Result
from keras_metalr.meta_training.unroll import Unroll
from keras_metalr.workloads.digits import load_digits_data
from keras_metalr.workloads.tfds_source import is_prepared
from keras_metalr.workloads.workload import DataNotAvailableError
from tests.fit_checks import random_controller

# -- The data. --------------------------------------------------------------


def test_digits_that_workloads_validate_on_are_not_trained_on(data):
    def ranks(images):
        """Of the pixels: the same, however the images are scaled."""
        flat = np.asarray(images).reshape(-1, 64)
        return {
            np.unique(row, return_inverse=True)[1].tobytes() for row in flat
        }

    digits = load_digits_data()
    drawn = ranks(data.x[0]) | ranks(data.x_validation[0])
    assert len(drawn & ranks(digits.x_train)) > 1400
    # But for the few that are there twice.
    assert len(drawn & ranks(digits.x_validation)) < 5


def test_a_data_set_that_is_missing_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(data_module, "is_prepared", lambda name: "sst2" in name)
    message = r"\['fashion_mnist', 'cifar10'\].*`--data digits`"
    with pytest.raises(DataNotAvailableError, match=message):
        load_data()
    # What a folder keeps stays what it is.
    _, names = arenas.kept_data(tmp_path, ["digits"])
    assert names == arenas.kept_data(tmp_path)[1] == ["digits"]
    assert arenas.kept_notes(tmp_path) == {}
    with pytest.raises(ValueError, match=r"keeps the data sets \['digits'\]"):
        arenas.kept_data(tmp_path, ["digits", "sst2"])


def test_texts_are_numbers_of_their_words():
    if not is_prepared("glue/sst2"):
        pytest.skip("SST-2 is not prepared: set TFDS_DATA_DIR to its folder.")
    data, names = load_data(("digits", "sst2"))
    assert names == ["digits", "sst2"]
    assert data.x.shape[2] == data.x_validation.shape[2] == 64
    assert int(data.count[1]) == data.x.shape[1]
    for x, y in ((data.x, data.y), (data.x_validation, data.y_validation)):
        assert np.all(np.isfinite(x[1]))
        assert set(np.unique(y[1])) == {0, 1}
        # Neither class is rare.
        assert 0.4 < np.mean(y[1]) < 0.7
    assert np.std(data.x[1]) == pytest.approx(1.0, abs=0.05)
    # Held back is held back, but for texts that are there twice.
    words = {row.tobytes() for row in np.asarray(data.x[1])}
    held = [row.tobytes() in words for row in np.asarray(data.x_validation[1])]
    assert np.mean(held) < 0.1


# -- The measure. -----------------------------------------------------------


def test_regret():
    value = banks.regret(
        jnp.asarray([1.0, 2.0, 0.9, np.nan, 1e9, -5.0]),
        jnp.full(6, 1.0),
        jnp.full(6, 2.0),
    )
    np.testing.assert_allclose(value, [0, 1, -0.1, 5, 5, -0.15], atol=1e-6)


def test_a_bank_holds_the_best_of_the_grid(data):
    unroll = Unroll(FAMILIES["dense"], data, 20, 1)
    bank = banks.make_bank(unroll, 2, 5)
    task = jax.tree.map(lambda value: value[1], bank.tasks)
    run = jax.jit(lambda rate, way: scheduled(unroll, rate, way, task))
    finals = [
        float(run(rate, way).final_loss)
        for rate in banks.GRID_RATES
        for way in range(3)
    ]
    assert float(bank.best_loss[1]) == pytest.approx(
        np.nanmin(finals), rel=1e-4
    )
    assert float(bank.best_loss[1]) < float(bank.initial_loss[1])


def test_stages_share_no_tasks(data):
    def seeds(family, num_decisions, interval, seed):
        unroll = Unroll(FAMILIES[family], data, num_decisions, interval)
        tasks, _ = tasks_module.draw_numbers(
            data, 4, banks.stage_seed(unroll, seed)
        )
        return np.asarray(tasks.seed).tolist()

    drawn = [
        seeds("dense", 4, 1, 0),
        seeds("dense", 4, 2, 0),
        seeds("regression", 4, 1, 0),
        seeds("dense", 4, 1, 1),
    ]
    assert len({seed for stage in drawn for seed in stage}) == 16
    assert seeds("dense", 4, 1, 0) == drawn[0]


def test_what_was_tuned_on_other_batches_is_judged_on_the_tasks_own(data):
    unroll = Unroll(FAMILIES["dense"], data, 10, 1)
    tasks = tasks_module.draw_tasks(FAMILIES["dense"], data, 2, 5)
    found = banks.tuned_on_other_batches(unroll, tasks)
    task = jax.tree.map(lambda value: value[1], tasks)
    other = task._replace(seed=task.seed + banks.OTHER_BATCHES)
    run = jax.jit(lambda t, r, s: scheduled(unroll, r, s, t).final_loss)
    choices = [(r, s) for r in banks.GRID_RATES for s in range(3)]
    elsewhere = [float(run(other, *choice)) for choice in choices]
    best = choices[np.nanargmin(elsewhere)]
    assert float(found[1]) == pytest.approx(float(run(task, *best)), rel=1e-4)
    assert float(run(other, *best)) != pytest.approx(float(found[1]), rel=1e-3)


@pytest.mark.parametrize(
    "family",
    [
        "conv",
        "transformer",
        *(
            pytest.param(name, marks=pytest.mark.large)
            for name in sorted(FAMILIES)
            if name not in ("conv", "dense", "transformer")
        ),
    ],
)
def test_every_family_learns(data, family):
    unroll = Unroll(FAMILIES[family], data, 60, 1)
    bank = banks.make_bank(unroll, 3, 7)
    assert np.all(np.isfinite(bank.best_loss))
    gain = bank.initial_loss - bank.best_loss
    assert np.all(gain > 0.05 * bank.initial_loss)


def test_a_pretrained_task_starts_ahead(data):
    family = FAMILIES["dense"]
    bank = banks.make_bank(Unroll(family, data, 30, 1), 12, 2)
    pretrained = np.asarray(bank.tasks.pretrained) > 0.5
    reached = np.asarray(bank.best_loss / bank.tasks.loss_scale)
    assert np.median(reached[pretrained]) < np.median(reached[~pretrained])


def test_a_meta_training_trains_on_stages_that_it_has():
    for config in CONFIGS.values():
        stages = {stage.name: stage for stage in config.stages}
        assert len(stages) == len(config.stages)
        for stage in config.stages:
            assert stage.family in FAMILIES
            assert (stage.num_tasks > 0) == (stage.name in config.order)
            assert stage.num_tasks + stage.num_held_out > 0
        # Every family is scored on members that it was not trained on.
        held_out = {s.family for s in config.stages if s.num_held_out > 0}
        assert held_out == {stage.family for stage in config.stages}


# -- The search. ------------------------------------------------------------


@pytest.fixture(scope="module")
def arena(data):
    unroll = Unroll(FAMILIES["dense"], data, 12, 1)
    return Arena("dense-12", unroll, banks.make_bank(unroll, 6, 1))


def test_evolution_goes_on_where_it_was_interrupted(
    arena, tmp_path, monkeypatch
):
    monkeypatch.setattr(evolution, "SAVE_EVERY", 1)
    config = EvolutionConfig(num_generations=4, num_pairs=3)
    whole = evolve([arena], random_controller(), config)
    path = tmp_path / "evolution.npz"

    def interrupt(generation, *_):
        if generation == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evolve([arena], random_controller(), config, path, interrupt)
    seen = []
    resumed = evolve(
        [arena],
        random_controller(),
        config,
        path,
        report=lambda generation, *_: seen.append(generation),
    )
    assert seen == [2, 3]
    for a, b in zip(whole.get_weights(), resumed.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)
    start = random_controller().get_weights()
    assert np.abs(start[0] - whole.get_weights()[0]).max() > 1e-4


def test_a_pair_plays_the_same_task_with_the_same_batches(arena):
    def drawn(seed):
        return evolution._draw(arena.bank, jax.random.key(seed), 8)

    bank = drawn(0)
    for leaf in jax.tree.leaves(bank):
        np.testing.assert_array_equal(leaf[:8], leaf[8:])
    # Tasks of the bank as they are, but for the batches.
    known = np.asarray(arena.bank.best_loss).tolist()
    index = [known.index(value) for value in np.asarray(bank.best_loss)]
    expected = banks.choose(arena.bank, jnp.asarray(index))
    seeds = bank.tasks.seed
    same = bank._replace(tasks=bank.tasks._replace(seed=expected.tasks.seed))
    jax.tree.map(np.testing.assert_array_equal, same, expected)
    assert len(set(index)) > 1 and len(set(seeds.tolist())) == 8
    assert not set(seeds.tolist()) & set(arena.bank.tasks.seed.tolist())
    # Another generation draws others.
    other = drawn(1)
    assert not set(seeds.tolist()) & set(other.tasks.seed.tolist())
    assert np.any(other.best_loss != bank.best_loss)


@pytest.fixture(scope="module")
def finished(arena, tmp_path_factory):
    """A search that has come to its end: its checkpoint and what it found."""
    path = tmp_path_factory.mktemp("finished") / "evolution.npz"
    config = EvolutionConfig(num_generations=1, num_pairs=2)
    evolved = evolve([arena], random_controller(), config, path)
    return path, config, evolved


def test_a_finished_evolution_is_not_run_again(arena, finished):
    path, config, evolved = finished
    again = evolve([arena], random_controller(), config, path)
    for a, b in zip(evolved.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    "other", ["configuration", "start", "arenas", "tasks", "losses", "interval"]
)
def test_evolution_refuses_the_checkpoint_of_another(arena, finished, other):
    path, config, _ = finished
    before = path.read_bytes()
    start, arenas = random_controller(), [arena]
    if other == "configuration":
        config = config._replace(num_generations=2)
    elif other == "start":
        start = random_controller(seed=1)
    elif other == "arenas":
        arenas = [arena, arena]
    else:
        arenas = [of_the_same_name(arena, other)]
    with pytest.raises(ValueError, match="another configuration") as error:
        evolve(arenas, start, config, path)
    assert str(path) in str(error.value)
    assert path.read_bytes() == before


def of_the_same_name(arena, other):
    """The arena, but for one thing that its name does not tell."""
    bank, unroll = arena.bank, arena.unroll
    if other == "tasks":
        tasks = bank.tasks._replace(seed=bank.tasks.seed + 1)
        return arena._replace(bank=bank._replace(tasks=tasks))
    if other == "losses":
        return arena._replace(bank=bank._replace(best_loss=bank.best_mean))
    same = Unroll(unroll.family, unroll.data, 4, 3)
    assert same.num_steps == unroll.num_steps
    return arena._replace(unroll=same)


def test_a_tree_comes_back_to_its_origin_alone(tmp_path):
    tree = (jnp.arange(3.0), {"a": jnp.asarray(7), "b": jnp.ones((2, 2))})
    like = jax.tree.map(lambda _: 0, tree)
    path = tmp_path / "folder" / "tree.npz"
    save_tree(path, tree, "dense, seed 1")
    loaded = load_tree(path, like, "dense, seed 1")
    assert jax.tree.structure(loaded) == jax.tree.structure(tree)
    for a, b in zip(
        jax.tree.leaves(loaded), jax.tree.leaves(tree), strict=True
    ):
        np.testing.assert_array_equal(a, b)
    with pytest.raises(ValueError, match="another configuration") as error:
        load_tree(path, like, "dense, seed 2")
    # What is there, what was wanted and where.
    for part in ("dense, seed 1", "dense, seed 2", str(path)):
        assert part in str(error.value)
    # A file without a word about it is nobody's.
    np.savez(path, *jax.tree.leaves(tree))
    with pytest.raises(ValueError, match="another configuration"):
        load_tree(path, like, "dense, seed 1")


def test_the_score_is_that_of_the_end_and_a_little_of_the_way():
    two, one, nothing = jnp.full((1,), 2.0), jnp.ones((1,)), None
    bank = banks.Bank(nothing, two, one, best_mean=1.2 * one)
    # Regrets of 0.5 at the end, and of 0.25 on the way.
    result = Result(two, 1.5 * one, 1.4 * one, nothing)
    expected = np.log(0.5 + 0.2) + 0.25 * np.log(0.25 + 0.2)
    assert float(banks.score(result, bank)[0]) == pytest.approx(
        expected, rel=1e-5
    )


def test_evolution_finds_a_lower_score(arena):
    start = Controller()
    config = EvolutionConfig(num_generations=8, num_pairs=12, learning_rate=0.1)
    evolved = evolve([arena], start, config)
    before, after = evaluate(arena, start), evaluate(arena, evolved)
    assert after["score"].mean() < before["score"].mean() - 0.05
    # Which is what it is for.
    assert after["regret"].mean() < before["regret"].mean()


@pytest.mark.large
def test_meta_training_writes_a_preset_with_its_card(tmp_path, monkeypatch):
    output = tmp_path / "tiny"
    lines = []
    # An hour was spent in this folder before, by a call that was interrupted.
    clock = tmp_path / "work" / "seconds.json"
    clock.parent.mkdir()
    clock.write_text('{"a GPU": 3600.0}')
    start = str(tmp_path / "start")
    random_controller().save_to_preset(start)
    # It was evolved itself.
    before = {
        "earlier": [],
        "start": "supervised",
        "feature_version": 2,
        "rule_version": 1,
        "seconds": {"4 CPU cores": 7200.0},
        "command": "the command before",
        "config": {"evolution": EvolutionConfig(5, 3)},
    }
    (tmp_path / "start" / "scores.json").write_text(json.dumps(before))
    arenas.kept_data(tmp_path / "work", ["digits"])
    record = meta_train(
        "tiny",
        CONFIGS["smoke"],
        start,
        tmp_path / "work",
        output,
        "the command",
        say=lines.append,
    )
    loaded = Controller.from_preset(str(output))
    assert loaded.hidden_units == (64, 32)
    card = (output / "CARD.md").read_text()
    score = record["scores"]["dense-20"]["evolved"]
    assert f"| {score['mean']:.3f} [{score['low']:.3f}, " in card
    tuned = record["scores"]["dense-20"]["tuned"]
    assert f"| {tuned['mean']:.3f} [{tuned['low']:.3f}, " in card
    assert "the command" in card
    assert f"`{start}`" in card
    assert json.loads((output / "scores.json").read_text()) == record
    assert any("generation 2/2" in line for line in lines)
    assert record["origin"] == "supervised"
    assert (
        "| earlier evolutions | 5 generations of 3 pairs from `supervised` "
        "(2.00 hours on 4 CPU cores; features 2, rule 1; `the command before`)"
    ) in card
    seconds = json.loads(clock.read_text())
    assert seconds == record["seconds"]
    here = f"{os.cpu_count()} CPU cores ({platform.machine()})"
    assert seconds["a GPU"] == 3600.0 and 1.0 < seconds[here] < 3600.0
    assert "| time | 1.00 hours on a GPU, 0.0" in card
    # Scored again, it is what it was; the data come from the folder.
    monkeypatch.setattr(arenas, "load_data", lambda *_: pytest.fail("read"))
    arguments = (output, tmp_path / "work", CONFIGS["smoke"], lines.append)
    assert score_again(*arguments) == record
    assert lines[-1] == "dense-20: scored before"
    assert (output / "CARD.md").read_text() == card
    # Scores of another rule do not count.
    old = {**record["scored_with"], "rule_version": 1}
    made_up = {"dense-20": {**record["scores"]["dense-20"], "tuned": None}}
    other = {**record, "scored_with": old, "scores": made_up}
    (output / "scores.json").write_text(json.dumps(other))
    assert score_again(*arguments) == record
    # Stages that are new are scored beside what was there, each for good.
    first, last = Stage("dense", 10, 1, 0, 2), Stage("dense", 5, 1, 0, 2)
    config = CONFIGS["smoke"]
    config = config._replace(stages=(first, *config.stages, last))
    arguments = (output, tmp_path / "work", config)

    def interrupt(line):
        if line.startswith("tuning 2 tasks of dense-5"):
            raise KeyboardInterrupt
        lines.append(line)

    with pytest.raises(KeyboardInterrupt):
        score_again(*arguments, interrupt)
    assert "| dense-10 | 2 | " in (output / "CARD.md").read_text()
    more = score_again(*arguments, lines.append)
    assert lines.count("dense-10: scored before") == 1
    assert list(more["scores"]) == ["dense-10", "dense-20", "dense-5"]
    assert more["scores"].pop("dense-10")["evolved"]["tasks"] == 2
    del more["scores"]["dense-5"]
    assert more == record
    card = (output / "CARD.md").read_text()
    assert "| dense-10 | 2 | " in card and "| dense-5 | 2 | " in card


def test_a_preset_that_was_not_evolved_is_not_scored_again(tmp_path):
    Controller().save_to_preset(tmp_path / "fit")
    with pytest.raises(ValueError, match=r"no scores\.json: it was not"):
        score_again(tmp_path / "fit", tmp_path, CONFIGS["smoke"])


def test_an_origin_that_is_gone_is_found_missing_at_once(tmp_path):
    start = tmp_path / "start"
    Controller().save_to_preset(start)
    record = {
        "earlier": [],
        "start": str(tmp_path / "gone"),
        "feature_version": 4,
        "rule_version": 4,
        "seconds": {},
        "command": "the command before",
        "config": {"evolution": EvolutionConfig(5, 3)},
    }
    (start / "scores.json").write_text(json.dumps(record))
    work = tmp_path / "work"
    with pytest.raises(ValueError, match=r"no preset .*gone"):
        meta_train(
            *("tiny", CONFIGS["smoke"], str(start), work, tmp_path / "tiny"),
            "the command",
        )
    assert not work.exists()


@pytest.mark.large
def test_a_start_that_is_written_over_stays_until_the_end(
    tmp_path, monkeypatch
):
    preset = tmp_path / "tiny"
    random_controller().save_to_preset(str(preset))
    (preset / "scores.json").write_text(
        json.dumps(
            {
                "earlier": [],
                "start": "supervised",
                "feature_version": 4,
                "rule_version": 4,
                "seconds": {},
                "command": "the command before",
                "config": {"evolution": EvolutionConfig(5, 3)},
            }
        )
    )
    before = {path.name: path.read_bytes() for path in preset.iterdir()}
    arguments = (
        *("tiny", CONFIGS["smoke"], str(preset), tmp_path / "work", preset),
        *("the command", lambda line: None),
    )

    arenas.kept_data(tmp_path / "work", ["digits"])

    def interrupt(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(train, "evaluate", interrupt)
        meta_train(*arguments)
    after = {path.name: path.read_bytes() for path in preset.iterdir()}
    assert after == before
    record = meta_train(*arguments)
    assert [line["command"] for line in record["earlier"]] == [
        "the command before"
    ]
    weights = "controller.weights.h5"
    assert (preset / weights).read_bytes() != before[weights]


def test_the_shipped_card_says_what_its_scores_say():
    preset = pathlib.Path(train.__file__).parents[1] / "presets" / "general"
    record = json.loads((preset / "scores.json").read_text())
    config = config_from_record(record["config"])
    card = (preset / "CARD.md").read_text()
    assert card == make_card("general", config, record, preset)


def test_scores_of_other_weights_or_other_stages_do_not_count():
    preset = pathlib.Path(train.__file__).parents[1] / "presets" / "general"
    record = json.loads((preset / "scores.json").read_text())
    held_out = [s for s in CONFIGS["general"].stages if s.num_held_out]
    counted = train._present_scores(record, held_out, preset)
    assert counted == record["scores"]
    # One that has only the name of the first stage.
    first, *others = held_out
    for changes in ({"num_decisions": 100, "interval": 2}, {"num_held_out": 8}):
        stages = [first._replace(**changes), *others]
        assert stages[0].name == first.name
        left = train._present_scores(record, stages, preset)
        assert [*left] == [stage.name for stage in others]
    for told in ({"weights_sha256": "another"}, {"rule_version": 1}):
        scored_with = {**record["scored_with"], **told}
        other = {**record, "scored_with": scored_with}
        assert train._present_scores(other, held_out, preset) == {}


def test_a_card_says_what_is_there(tmp_path):
    preset = pathlib.Path(train.__file__).parents[1] / "presets" / "general"
    record = json.loads((preset / "scores.json").read_text())
    config = config_from_record(record["config"])
    Controller((8, 4, 2)).save_to_preset(tmp_path)
    record["data"] = ["digits", "cifar10"]
    card = make_card("other", config, record, tmp_path)
    assert "| features -> 8 ReLU -> 4 ReLU -> 2 ReLU -> 1 |" in card
    assert "training splits, images 8x8 grey |" in card
