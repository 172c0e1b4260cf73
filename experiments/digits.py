"""scikit-learn's handwritten digits as a file that autopv takes, for the experiments that train on them."""

import os
from pathlib import Path

import numpy as np


def digits_file(folder: Path) -> Path:
    """folder/digits.npz, written if it is not there (whole or not at all): 1,797 images of 8 px, levels 0 to 255."""
    path = folder / "digits.npz"
    if not path.exists():
        from sklearn.datasets import load_digits

        digits = load_digits()
        part = path.with_suffix(f".{os.getpid()}.part")
        with part.open("wb") as file:
            np.savez(file, images=(digits.images * (255 / 16)).round().astype(np.uint8), labels=digits.target)
        part.replace(path)
    return path
