"""Methods that are optimizers of their own, through optax and JAX."""

from collections.abc import Callable
from typing import Any

from keras_metalr.benchmark.competitors import hypergradient
from keras_metalr.benchmark.competitors.averaging import optax_schedule_free
from keras_metalr.benchmark.competitors.optax_optimizer import OptaxOptimizer
from keras_metalr.benchmark.competitors.peer import Peer
from keras_metalr.benchmark.competitors.peer import Setting
from keras_metalr.benchmark.competitors.rate_rules import warmup_cosine
from keras_metalr.benchmark.competitors.rate_rules import warmup_steps
from keras_metalr.benchmark.competitors.steered_optimizer import (
    SteeredOptimizer,
)

# AlgoPerf's self-tuning baseline, which is one fixed setting:
# mlcommons/algorithmic-efficiency, self_tuning/jax_nadamw_full_budget.py.
NADAMW_RATE = 0.0017486387539278373
NADAMW_BETA_1 = 1.0 - 0.06733926164
NADAMW_BETA_2 = 0.9955159689799007
NADAMW_WEIGHT_DECAY = 0.08121616522670176
NADAMW_WARMUP = 0.02

_DISTANCE = "first guess of the distance to the solution"
_LARGEST_RATE = "upper limit of the rate"


def _make(
    transformation: Callable[[Any], Any], name: str, needs_loss: bool = False
) -> Callable[[Setting, float], Any]:
    def make_optimizer(setting: Setting, start: float) -> OptaxOptimizer:
        del setting
        return OptaxOptimizer(transformation, start, name, needs_loss)

    return make_optimizer


def _contrib() -> Any:
    from optax import contrib

    return contrib


def _nadamw(setting: Setting, start: float) -> SteeredOptimizer:
    def transformation(rate: Any) -> Any:
        import optax

        return optax.nadamw(
            rate,
            b1=NADAMW_BETA_1,
            b2=NADAMW_BETA_2,
            weight_decay=NADAMW_WEIGHT_DECAY,
        )

    inner = OptaxOptimizer(transformation, start, "nadamw")
    rule = warmup_cosine(setting.num_steps, NADAMW_WARMUP)
    return SteeredOptimizer(inner, rule, start)


def _mechanic(start: Any) -> Any:
    import optax

    return _contrib().mechanize(optax.adam(1.0), s_init=start)


def _prodigy_cosine(setting: Setting, start: float) -> OptaxOptimizer:
    def transformation(guess: Any) -> Any:
        import optax

        return _contrib().prodigy(
            # Without warmup, during which its estimate hardly grows.
            optax.cosine_decay_schedule(1.0, setting.num_steps),
            estim_lr0=guess,
        )

    return OptaxOptimizer(transformation, start, "prodigy_cosine")


def _schedule_free(setting: Setting, start: float) -> OptaxOptimizer:
    warmup = warmup_steps(setting.num_steps)
    return OptaxOptimizer(
        lambda rate: _contrib().schedule_free_adamw(rate, warmup),
        start,
        "schedule_free_adamw",
    )


ADAPTIVE = (
    Peer(
        name="nadamw_fixed",
        source="AlgoPerf's self-tuning baseline, arXiv 2306.07179",
        start="highest learning rate",
        make_optimizer=_nadamw,
        default_start=NADAMW_RATE,
        needs_jax=True,
        note="one fixed setting, of optax's NAdamW; warmup of 2 %, cosine",
    ),
    Peer(
        name="prodigy",
        source="arXiv 2306.06101",
        start=_DISTANCE,
        make_optimizer=_make(
            lambda guess: _contrib().prodigy(estim_lr0=guess), "prodigy"
        ),
        default_start=1e-6,
        needs_jax=True,
    ),
    Peer(
        name="prodigy_cosine",
        source="arXiv 2306.06101",
        start=_DISTANCE,
        make_optimizer=_prodigy_cosine,
        default_start=1e-6,
        needs_jax=True,
        note="with a cosine, as its authors advise",
    ),
    Peer(
        name="dadapt_adamw",
        source="arXiv 2301.07733",
        start=_DISTANCE,
        make_optimizer=_make(
            lambda guess: _contrib().dadapt_adamw(estim_lr0=guess),
            "dadapt_adamw",
        ),
        default_start=1e-6,
        needs_jax=True,
    ),
    Peer(
        name="mechanic",
        source="arXiv 2306.00144",
        start="first scale of the updates of Adam",
        make_optimizer=_make(_mechanic, "mechanic"),
        default_start=1e-6,
        needs_jax=True,
        note="of a constant rate",
    ),
    Peer(
        name="dog",
        source="arXiv 2302.12022",
        start="first step, relative to the weights",
        make_optimizer=_make(
            lambda guess: _contrib().dog(init_step=("heuristic", guess)), "dog"
        ),
        default_start=1e-6,
        needs_jax=True,
        note=(
            "without the average of weights that its authors advise; the same "
            "start with batch normalization, for which optax advises 1e-4"
        ),
    ),
    Peer(
        name="dowg",
        source="arXiv 2305.16284",
        start="first guess of the squared distance to the solution",
        make_optimizer=_make(
            lambda guess: _contrib().dowg(init_estim_sq_dist=guess), "dowg"
        ),
        default_start=1e-4,
        needs_jax=True,
    ),
    Peer(
        name="momo",
        source="arXiv 2305.07583",
        start=_LARGEST_RATE,
        make_optimizer=_make(
            lambda rate: _contrib().momo(rate), "momo", needs_loss=True
        ),
        default_start=1.0,
        needs_jax=True,
        note="reads the loss of the batch; takes 0 for its lower bound",
    ),
    Peer(
        name="momo_adam",
        source="arXiv 2305.07583",
        start=_LARGEST_RATE,
        make_optimizer=_make(
            lambda rate: _contrib().momo_adam(rate),
            "momo_adam",
            needs_loss=True,
        ),
        default_start=1e-2,
        needs_jax=True,
        note="reads the loss of the batch; takes 0 for its lower bound",
    ),
    Peer(
        name="cocob",
        source="arXiv 1705.07795",
        start="length of the first step of every weight, 1 / alpha",
        make_optimizer=_make(
            lambda length: _contrib().cocob(alpha=1.0 / length), "cocob"
        ),
        default_start=1e-2,
        needs_jax=True,
        note="its first step is at most 1/2, so that all longer starts are one",
    ),
    Peer(
        name="schedule_free",
        source="optax.contrib.schedule_free_adamw, arXiv 2405.15682",
        start="learning rate",
        make_optimizer=_schedule_free,
        is_tuned=True,
        evaluation_weights=optax_schedule_free,
        needs_jax=True,
        note="evaluated at its averaged weights",
    ),
    Peer(
        name="sgd_hd",
        source="arXiv 1703.04782",
        start="learning rate at the start",
        make_optimizer=_make(hypergradient.sgd_hd, "sgd_hd"),
        is_tuned=True,
        needs_jax=True,
        note=f"beta is {hypergradient.SGD_BETA:g} throughout",
    ),
    Peer(
        name="adam_hd",
        source="arXiv 1703.04782",
        start="learning rate at the start",
        make_optimizer=_make(hypergradient.adam_hd, "adam_hd"),
        is_tuned=True,
        needs_jax=True,
        note=f"beta is {hypergradient.ADAM_BETA:g} throughout",
    ),
)
