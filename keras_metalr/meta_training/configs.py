"""What a call of meta-training does: stages, their order, the evolution."""

from typing import Any
from typing import NamedTuple

from keras_metalr.meta_training.evolution import EvolutionConfig


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
            Stage("dense", 200, 1, 256, 64),
            Stage("dense_batchnorm", 200, 1, 128, 16),
            Stage("autoencoder", 200, 1, 128, 16),
            Stage("regression", 200, 1, 128, 16),
            Stage("residual", 200, 1, 128, 16),
            Stage("conv", 200, 1, 96, 16),
            Stage("conv_batchnorm", 200, 1, 64, 16),
            Stage("recurrent", 200, 1, 96, 16),
            Stage("transformer", 200, 1, 64, 16),
            Stage("dense", 50, 1, 128, 64),
            Stage("dense", 200, 3, 96, 16),
            Stage("dense", 200, 5, 0, 64),
            Stage("conv", 200, 5, 0, 16),
        ),
        # The larger nets cost ten times the dense ones, and come less often.
        order=(
            "dense-200",
            "conv-200",
            "residual-200",
            "dense-600",
            "autoencoder-200",
            "dense_batchnorm-200",
            "transformer-200",
            "dense-200",
            "regression-200",
            "conv_batchnorm-200",
            "dense-50",
            "residual-200",
            "dense-600",
            "autoencoder-200",
            "recurrent-200",
            "dense_batchnorm-200",
        ),
        evolution=EvolutionConfig(num_generations=800, num_pairs=64),
    ),
    "smoke": MetaConfig(
        stages=(Stage("dense", 20, 1, 4, 4),),
        order=("dense-20",),
        evolution=EvolutionConfig(num_generations=2, num_pairs=2),
    ),
}
