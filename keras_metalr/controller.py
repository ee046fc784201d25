"""The controller: a small `keras.Model` from features to a rate increment."""

import contextlib
import hashlib
import json
import os
import pathlib
import random
import tempfile
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Sequence
from importlib import resources
from typing import Any

import keras
import numpy as np

from keras_metalr import backend
from keras_metalr.features import FEATURE_NAMES
from keras_metalr.features import FEATURE_VERSION
from keras_metalr.features import NUM_FEATURES
from keras_metalr.update_rule import RULE_VERSION

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "controller.weights.h5"
CARD_FILE = "CARD.md"
# What meta-training notes beside a controller that it made.
SCORES_FILE = "scores.json"


@keras.saving.register_keras_serializable("keras_metalr")
class Controller(keras.Model):
    """Features of a run -> how the log of the learning rate should move.

    `features -> Dense 64 ReLU -> Dense 32 ReLU -> Dense 1`. The output `o` is
    unbounded; the update rule turns it into `log rate += 0.5 tanh(o)`, within
    limits that trust sets (`keras_metalr.update_rule.increment`). An output of
    exactly 0 leaves the rate alone. The last layer starts at zero, so that a
    new controller changes nothing: the network it would drive trains as if it
    were not there.

    The controller always computes in float32, whatever the global dtype policy.

    Args:
        hidden_units: Sequence of integers (>= 1), widths of the hidden layers.
            Defaults to `(64, 32)`.
        name: String, the model's name. Defaults to `"controller"`.

    Input shape: `(batch, NUM_FEATURES)`, float32, each feature in [-4, 4] (see
    `keras_metalr.features.FEATURES`). Output shape: `(batch, 1)`, float32.

    Raises:
        ValueError: if `hidden_units` is not a sequence of positive integers.

    Example:

    >>> import numpy as np
    >>> controller = Controller()
    >>> controller.predict(np.zeros((2, 22)), verbose=0).shape
    (2, 1)
    """

    def __init__(
        self,
        hidden_units: Sequence[int] = (64, 32),
        *,
        name: str = "controller",
        **kwargs: Any,
    ) -> None:
        units = (
            tuple(hidden_units) if isinstance(hidden_units, Iterable) else ()
        )
        if not units or any(
            isinstance(u, bool) or not isinstance(u, (int, np.integer)) or u < 1
            for u in units
        ):
            raise ValueError(
                "`hidden_units` must be a sequence of positive integers. "
                f"Received: hidden_units={hidden_units}. "
                "Use (64, 32) for the shipped architecture."
            )
        kwargs["dtype"] = "float32"
        super().__init__(name=name, **kwargs)
        self.hidden_units = tuple(map(int, units))
        self.hidden = [
            keras.layers.Dense(
                width, activation="relu", dtype="float32", name=f"hidden_{i}"
            )
            for i, width in enumerate(self.hidden_units)
        ]
        self.head = keras.layers.Dense(
            1, kernel_initializer="zeros", dtype="float32", name="head"
        )
        self.build((None, NUM_FEATURES))

    def build(self, input_shape: Any) -> None:
        """Create the weights for inputs of shape `(batch, NUM_FEATURES)`."""
        if getattr(self, "built", False):
            return
        width = input_shape[-1]
        for layer in self.hidden:
            layer.build((None, width))
            width = layer.units
        self.head.build((None, width))
        self.built = True

    def call(self, features: Any) -> Any:
        """Map features `(batch, NUM_FEATURES)` to outputs `(batch, 1)`."""
        for layer in self.hidden:
            features = layer(features)
        return self.head(features)

    def compute_output_shape(self, input_shape: Any) -> tuple[Any, int]:
        """`(batch, 1)`."""
        return input_shape[0], 1

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments, as JSON can hold them."""
        return {"hidden_units": list(self.hidden_units), "name": self.name}

    def save_to_preset(
        self, folder: str | os.PathLike[str], card: str | None = None
    ) -> None:
        """Write the controller as a preset folder.

        The folder holds `config.json` (architecture, feature version and names,
        sha256 of the weights), `controller.weights.h5` and, where given,
        `CARD.md`; the card and the `scores.json` of a controller that was there
        before are removed. Nothing in it is code.

        Args:
            folder: String or path, created where it does not exist.
            card: String, Markdown for `CARD.md`. Defaults to `None`.

        Raises:
            ValueError: for the name of a shipped preset, which would be loaded
                in place of the folder.
        """
        if isinstance(folder, str) and folder in shipped_presets():
            raise ValueError(
                f"{folder!r} is the name of a preset that is shipped, and "
                "stands for that one. Use another folder, or write "
                f"{os.path.join('.', folder)!r} to save and to load it."
            )
        path = pathlib.Path(folder)
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path, prefix=".") as temporary:
            new = pathlib.Path(temporary)
            self._write_files(new, card)
            # All of it could be written: nothing is left to fail.
            for name in (CARD_FILE, SCORES_FILE):
                (path / name).unlink(missing_ok=True)
            for file in new.iterdir():
                file.replace(path / file.name)

    def _write_files(self, folder: pathlib.Path, card: str | None) -> None:
        # A copy that was never compiled: no optimizer in the file.
        with _apart():
            copy = type(self).from_config(self.get_config())
            copy.set_weights(self.get_weights())
            copy.save_weights(str(folder / WEIGHTS_FILE))
        config = {
            "class": "Controller",
            "config": self.get_config(),
            "feature_version": FEATURE_VERSION,
            "feature_names": list(FEATURE_NAMES),
            "weights_sha256": _sha256(folder / WEIGHTS_FILE),
        }
        text = json.dumps(config, indent=2) + "\n"
        (folder / CONFIG_FILE).write_text(text, encoding="utf-8")
        if card is not None:
            (folder / CARD_FILE).write_text(card, encoding="utf-8")

    @classmethod
    def from_preset(cls, preset: str | os.PathLike[str]) -> "Controller":
        """Load a controller that is shipped, or that `save_to_preset` wrote.

        Args:
            preset: String, a shipped preset's name (`"general"`) or the path of
                a preset folder.

        Returns:
            A new `Controller`.

        Raises:
            ValueError: if there is no such preset, if it is damaged, or if it
                was trained for another version of the features.

        Example:

        >>> Controller.from_preset("general").hidden_units
        (64, 32)
        """
        path = preset_path(preset)
        config = _read_config(path)
        if config["feature_version"] != FEATURE_VERSION:
            raise ValueError(
                f"Preset {str(preset)!r} was trained for version "
                f"{config['feature_version']} of the features; this "
                f"keras_metalr computes version {FEATURE_VERSION}. Use the "
                "keras_metalr it came with, or train the controller again."
            )
        weights = path / WEIGHTS_FILE
        if not weights.is_file():
            raise ValueError(
                f"Preset {str(path)!r} is damaged: it has no {WEIGHTS_FILE}. "
                "Install or save it again."
            )
        if _sha256(weights) != config["weights_sha256"]:
            raise ValueError(
                f"Preset {str(path)!r} is damaged: the sha256 of "
                f"{WEIGHTS_FILE} differs from {CONFIG_FILE}. "
                "Install or save it again."
            )
        try:
            with _apart():
                controller = cls.from_config(config["config"])
                controller.load_weights(str(weights))
        except (OSError, TypeError, ValueError) as error:
            raise ValueError(
                f"Preset {str(path)!r} is damaged: its {CONFIG_FILE} does not "
                f"describe its {WEIGHTS_FILE} ({error}). Install or save it "
                "again."
            ) from error
        return controller


@contextlib.contextmanager
def _apart() -> Iterator[None]:
    """What is made in it has nothing to do with the user's own models.

    New layers draw seeds from Python's generator, which must not change what
    the user draws after it; and a layout by which large kernels are split over
    devices may not fit small ones.
    """
    drawn = random.getstate()
    distribution = keras.distribution.distribution()
    keras.distribution.set_distribution(None)
    try:
        yield
    finally:
        keras.distribution.set_distribution(distribution)
        random.setstate(drawn)


def shipped_presets() -> list[str]:
    """Names of the presets inside the package, sorted."""
    root = pathlib.Path(str(resources.files("keras_metalr"))) / "presets"
    return sorted(path.parent.name for path in root.glob(f"*/{CONFIG_FILE}"))


def fingerprint(controller: keras.Model) -> str:
    """What tells runs of a controller from those of any other.

    What an output is shifted by says nothing about another controller's, nor
    about one whose outputs go through another rule.

    Args:
        controller: `keras.Model`, built.

    Returns:
        String: some of the sha256 of its weights, and the version of the rule.
    """
    digest = hashlib.sha256()
    for variable in controller.weights:
        weights = np.asarray(backend.eager_value(variable))
        digest.update(weights.tobytes())
    return f"{digest.hexdigest()[:16]}-rule{RULE_VERSION}"


def preset_path(preset: str | os.PathLike[str]) -> pathlib.Path:
    """The folder of a preset.

    Args:
        preset: String or path, a shipped preset's name or a folder.

    Raises:
        ValueError: if there is no such preset.
    """
    if not isinstance(preset, (str, os.PathLike)):
        raise ValueError(
            "`preset` must be a preset's name or the path of a preset folder. "
            f"Received: preset={preset!r} of type {type(preset).__name__}."
        )
    # A path is a folder's, whatever its name.
    if isinstance(preset, str) and preset in shipped_presets():
        root = pathlib.Path(str(resources.files("keras_metalr")))
        return root / "presets" / str(preset)
    path = pathlib.Path(preset)
    if not (path / CONFIG_FILE).is_file():
        raise ValueError(
            f"There is no preset {str(preset)!r}. Expected one of "
            f"{shipped_presets()} or the path of a folder with {CONFIG_FILE}."
        )
    return path


def _read_config(path: pathlib.Path) -> dict[str, Any]:
    try:
        config = json.loads((path / CONFIG_FILE).read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(
            f"Preset {str(path)!r} cannot be read ({error}). Install or save "
            "it again."
        ) from error
    except ValueError as error:
        raise ValueError(
            f"Preset {str(path)!r} is damaged: {CONFIG_FILE} is not JSON "
            f"({error}). Install or save it again."
        ) from error
    wanted = {"class", "config", "feature_version", "weights_sha256"}
    missing = wanted - set(config if isinstance(config, dict) else ())
    if missing:
        raise ValueError(
            f"Preset {str(path)!r} is not a Controller's: {CONFIG_FILE} lacks "
            f"{sorted(missing)}. Give the folder that "
            "`Controller.save_to_preset` wrote."
        )
    if config["class"] != "Controller":
        raise ValueError(
            f"Preset {str(path)!r} is not a Controller's: {CONFIG_FILE} names "
            f"another class, {config['class']!r}. Give the folder that "
            "`Controller.save_to_preset` wrote."
        )
    return config


def _sha256(path: pathlib.Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
