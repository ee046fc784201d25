"""What a call of meta-training does: stages, their order, the evolution."""

from typing import Any
from typing import NamedTuple


class Stage(NamedTuple):
    """A family at a horizon: how many tasks to train on, and to hold out."""

    family: str
    num_decisions: int
    interval: int
    num_tasks: int
    num_held_out: int

    @property
    def name(self) -> str:
        """Family and steps, such as `"dense-200"`."""
        return f"{self.family}-{self.num_decisions * self.interval}"


class EvolutionConfig(NamedTuple):
    """Hyperparameters of the evolution.

    `sigma` and `learning_rate` fall over the run, linearly and by a cosine.
    """

    num_generations: int = 800
    num_pairs: int = 128
    sigma: float = 0.05
    final_sigma: float = 0.03
    learning_rate: float = 1e-2
    seed: int = 0


class MetaConfig(NamedTuple):
    """What a call of the script does.

    `order` says which stages the generations go through, by name, over and
    over; the others are only tested on.
    """

    stages: tuple[Stage, ...]
    order: tuple[str, ...]
    evolution: EvolutionConfig


def config_from_record(values: dict[str, Any]) -> MetaConfig:
    """The configuration that a preset's `scores.json` was written with.

    Args:
        values: Dict, its entry `config`: named tuples as JSON has them.
    """
    return MetaConfig(
        stages=tuple(Stage(*stage) for stage in values["stages"]),
        order=tuple(values["order"]),
        evolution=EvolutionConfig(*values["evolution"]),
    )


CONFIGS = {
    "general": MetaConfig(
        stages=(
            Stage("dense", 200, 1, 512, 64),
            Stage("dense_batchnorm", 200, 1, 256, 16),
            Stage("autoencoder", 200, 1, 256, 16),
            Stage("regression", 200, 1, 256, 16),
            Stage("residual", 200, 1, 256, 16),
            Stage("conv", 200, 1, 192, 16),
            Stage("conv_batchnorm", 200, 1, 128, 16),
            Stage("recurrent", 200, 1, 192, 16),
            Stage("transformer", 200, 1, 128, 16),
            Stage("dense", 50, 1, 256, 64),
            Stage("dense", 200, 3, 192, 16),
            Stage("dense", 200, 5, 192, 64),
            Stage("conv", 200, 5, 96, 16),
            Stage("autoencoder", 200, 5, 96, 0),
            Stage("residual", 200, 5, 96, 0),
            Stage("transformer", 200, 5, 64, 0),
            Stage("dense", 200, 20, 0, 64),
        ),
        # Some stages have runs of several steps a decision, as nearly all runs
        # of a user have.
        order=(
            "dense-200",
            "conv-200",
            "dense-1000",
            "residual-200",
            "autoencoder-200",
            "transformer-1000",
            "dense_batchnorm-200",
            "regression-200",
            "conv-1000",
            "dense-50",
            "recurrent-200",
            "autoencoder-1000",
            "transformer-200",
            "dense-600",
            "conv_batchnorm-200",
            "residual-1000",
        ),
        evolution=EvolutionConfig(num_generations=624, num_pairs=1024),
    ),
    "smoke": MetaConfig(
        stages=(Stage("dense", 20, 1, 4, 4),),
        order=("dense-20",),
        evolution=EvolutionConfig(num_generations=2, num_pairs=2),
    ),
}
