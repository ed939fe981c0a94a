"""From the `--data` flag to a data set: the embedded default, class folders, a table of paths, arrays, a hub's name."""

from __future__ import annotations

from pathlib import Path

from hybridnas.data.arrays import npz_source
from hybridnas.data.dataset import Dataset
from hybridnas.data.hubs import hf_source, torchvision_source
from hybridnas.data.loading import Loading, Source
from hybridnas.data.pictures import csv_source, folder_source
from hybridnas.data.synthetic import NUM_CLASSES, NUM_TRAIN, synthetic_dataset
from hybridnas.errors import DataError

SYNTHETIC = "synthetic"
#: What stands before the colon, and what reads the name behind it.
SCHEMES = {"torchvision": torchvision_source, "hf": hf_source}
FILES = {".npz": npz_source, ".csv": csv_source}


def _synthetic(loading: Loading) -> Dataset:
    num_train = max(NUM_CLASSES, min(NUM_TRAIN, loading.max_train))  # one of each class at least, as of other data
    return synthetic_dataset(loading.image_size, seed=loading.seed, num_train=num_train)


def open_source(spec: str) -> Source:
    """Find what the `--data` flag names.

    Args:
        spec: 'synthetic', a folder of class folders, a .csv of path and label, an .npz file, 'torchvision:NAME' or
            'hf:NAME'.

    Raises:
        DataError: it does not exist, cannot be read, or holds no classes.
    """
    if spec == SYNTHETIC:
        return Source(SYNTHETIC, None, _synthetic)
    scheme, colon, name = spec.partition(":")
    if colon and scheme in SCHEMES:
        return SCHEMES[scheme](name)
    path = Path(spec)
    if path.is_dir():
        return folder_source(path)
    if path.is_file() and path.suffix in FILES:
        return FILES[path.suffix](path)
    problem = f"is neither {' nor '.join(FILES)}" if path.is_file() else "does not exist"
    raise DataError(
        f"--data {spec} {problem}; give a folder of class folders, a .csv or .npz file, torchvision:NAME, hf:NAME, or "
        "nothing for the embedded data."
    )
