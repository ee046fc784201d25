"""Facts about the software and the device that a run was made on.

Enough to tell two records apart, and nothing that identifies a machine: no
host name, no user name, no path.
"""

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import keras

_PACKAGES = (
    "keras_metalr",
    "keras",
    "keras-hub",
    "tensorflow",
    "jax",
    "optax",
    "torch",
    "numpy",
)


def environment() -> dict[str, Any]:
    """Return versions and the device, as plain JSON values.

    Returns:
        Dict with `python`, `backend`, `versions` (dict from package to
        version, those that are installed), `accelerator` (name of the first
        GPU or TPU, or `None`), `processor` and `num_cores`.
    """
    return {
        "python": platform.python_version(),
        "backend": keras.backend.backend(),
        "versions": _versions(),
        "accelerator": accelerator_name(),
        "processor": platform.machine(),
        "num_cores": os.cpu_count(),
    }


def accelerator_name() -> str | None:
    """Return the name of the first GPU or TPU the backend sees, or `None`."""
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        devices = tf.config.list_physical_devices("GPU")
        if devices:
            details = tf.config.experimental.get_device_details(devices[0])
            return str(details.get("device_name", "GPU"))
    elif backend == "jax":
        import jax

        device = jax.devices()[0]
        if device.platform != "cpu":
            return str(device.device_kind)
    elif backend == "torch":
        import torch

        if torch.cuda.is_available():
            return str(torch.cuda.get_device_name(0))
    return None


def git_revision() -> str | None:
    """Return the commit of this checkout, or `None` outside of one.

    Ends in `"+"` when a tracked file of the package was changed since.
    """
    folder = Path(__file__).parent

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", *arguments],
            cwd=folder,
            capture_output=True,
            check=True,
            text=True,
        ).stdout.strip()

    try:
        revision = git("rev-parse", "HEAD")
        # A package that is installed may lie in some other checkout.
        git("ls-files", "--error-unmatch", Path(__file__).name)
        changes = git("status", "--porcelain", "--untracked-files=no", "..")
    except (OSError, subprocess.CalledProcessError):
        return None
    return f"{revision}+" if changes else revision


def _versions() -> dict[str, str]:
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return versions
