"""The data of `benchmarks.regularization`: made here, or read from files that are given.

Images are scikit-learn's digits or MNIST, series are spirals or the intensive care records of the PhysioNet Challenge
of 2012. Files are data and nothing else: what they lack, or have too much, is an error that names file and line.
"""

from __future__ import annotations

import gzip
from dataclasses import dataclass
from pathlib import Path

import numpy as np

# -- images -------------------------------------------------------------------------------------------

#: MNIST's four files as their authors publish them, each also with the ending .gz.
IMAGE_FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)


def load_images(given: str | None) -> tuple[np.ndarray, ...]:
    """Training and test images (flat, from 0 to 1) and their labels.

    Parameters
    ----------
    given : str, optional
        Without it scikit-learn's digits, 8×8. Else MNIST: the word ``mnist`` (from OpenML, which scikit-learn downloads
        once and keeps), the folder with its four files, or an ``.npz`` with ``x_train y_train x_test y_test``.

    Raises
    ------
    ValueError
        Naming what is missing or malformed, or why a download failed.
    """
    if given is None:
        try:
            from sklearn.datasets import load_digits
        except ImportError as error:
            raise ValueError('the digits come with scikit-learn: pip install "pysciml[bench]"') from error

        x, y = load_digits(return_X_y=True)
        order = np.random.default_rng(0).permutation(len(x))
        x, y = x[order] / 16.0, y[order]
        return x[:1400], y[:1400], x[1400:], y[1400:]
    if given == "mnist":
        x, y, x_test, y_test = _download_mnist()
    elif Path(given).is_dir():
        x, y, x_test, y_test = (_read_idx(Path(given), name) for name in IMAGE_FILES)
    elif Path(given).is_file():
        x, y, x_test, y_test = _read_npz(given)
    else:
        raise ValueError(f"images: there is no file or folder {given}")
    for name, images, labels in (("training", x, y), ("test", x_test, y_test)):
        if images.ndim < 2 or labels.ndim != 1 or len(images) != len(labels) or not len(images):
            raise ValueError(
                f"images: {given} has {name} images of shape {images.shape} and labels of shape {labels.shape}"
            )
    return x.reshape(len(x), -1) / 255.0, y.astype(int), x_test.reshape(len(x_test), -1) / 255.0, y_test.astype(int)


def _download_mnist() -> tuple[np.ndarray, ...]:
    from sklearn.datasets import fetch_openml

    try:
        x, y = fetch_openml("mnist_784", version=1, as_frame=False, return_X_y=True)
    except OSError as error:  # what cannot be reached, and what comes damaged
        raise ValueError(
            f"images: MNIST could not be downloaded ({error}); give the folder with its files instead"
        ) from error
    return x[:60000], y[:60000], x[60000:], y[60000:]


def _read_npz(path: str) -> list[np.ndarray]:
    names = ("x_train", "y_train", "x_test", "y_test")
    with np.load(path) as file:
        missing = [name for name in names if name not in file]
        if missing:
            raise ValueError(f"images: {path} has no array {missing[0]}; it needs {', '.join(names)}")
        return [file[name] for name in names]


def _read_idx(folder: Path, name: str) -> np.ndarray:
    """One of MNIST's files: two zero bytes, the type (8: bytes), the number of dimensions, these, the values."""
    plain, packed = folder / name, folder / f"{name}.gz"
    if not plain.exists() and not packed.exists():
        raise ValueError(f"images: {folder} has neither {plain.name} nor {packed.name}")
    path = plain if plain.exists() else packed
    data = path.read_bytes()
    if path == packed:
        try:
            data = gzip.decompress(data)
        except (OSError, EOFError) as error:
            raise ValueError(f"images: {path} is not a whole gzip file ({error})") from error
    rank = int(name[name.index("idx") + 3])
    if data[:4] != bytes((0, 0, 8, rank)) or len(data) < 4 + 4 * rank:
        raise ValueError(f"images: {path} does not begin as an IDX file of bytes in {rank} dimensions")
    shape = np.frombuffer(data, ">i4", rank, 4)
    values = np.frombuffer(data, np.uint8, offset=4 + 4 * rank)
    if values.size != np.prod(shape, dtype=np.int64):
        raise ValueError(f"images: {path} promises {' x '.join(map(str, shape))} bytes and has {values.size}")
    return values.reshape(shape)


# -- series -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Series:
    """Irregular series on common times.

    Attributes
    ----------
    times : array, shape (n_t,)
        From 0 to 1.
    x, mask : arrays, shape (n, n_t, n_observed)
        Values, and 1 where there is one; 0 elsewhere.
    """

    times: np.ndarray
    x: np.ndarray
    mask: np.ndarray


def make_spirals(n: int, rng: np.random.Generator) -> tuple[Series, np.ndarray]:
    """Pieces of spirals that turn left or right, each seen with noise at half of 25 times, and whole without noise."""
    times = np.linspace(0.0, 1.0, 25)
    x = np.empty((n, times.size, 2))
    for k in range(n):
        angle = rng.uniform(1.0, 4.0) + 5.0 * times
        radius = 0.2 + 0.12 * angle
        turn = 1.0 if rng.random() < 0.5 else -1.0
        x[k] = np.stack([radius * np.cos(angle), turn * radius * np.sin(angle)], axis=1)
    seen = (rng.random((n, times.size, 1)) < 0.5) | (np.arange(times.size)[None, :, None] == 0)
    mask = np.broadcast_to(seen, x.shape).astype(float)
    return Series(times, (x + 0.03 * rng.normal(size=x.shape)) * mask, mask), x


#: What a record of the PhysioNet Challenge of 2012 says of the patient once.
DESCRIPTORS = ("RecordID", "Age", "Gender", "Height", "ICUType")
#: What it has as series.
# fmt: off
VARIABLES = (
    "Weight", "Albumin", "ALP", "ALT", "AST", "Bilirubin", "BUN", "Cholesterol", "Creatinine", "DiasABP",
    "FiO2", "GCS", "Glucose", "HCO3", "HCT", "HR", "K", "Lactate", "Mg", "MAP", "MechVent", "Na", "NIDiasABP",
    "NIMAP", "NISysABP", "PaCO2", "PaO2", "pH", "Platelets", "RespRate", "SaO2", "SysABP", "Temp", "TroponinI",
    "TroponinT", "Urine", "WBC",
)
# fmt: on
_COLUMN = {name: k for k, name in enumerate(VARIABLES)}
#: The first two days of a stay.
HOURS = 48


def read_record(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """One record of the PhysioNet Challenge of 2012: values at each full hour, and masks, shape (49, 37) both.

    A text file with the first line ``Time,Parameter,Value``, then one observation a line, such as ``07:42,HR,83``:
    hours and minutes since the admission, at most 48:00. The value -1 means that it is not known. Times are rounded
    to hours and several observations in one averaged, as Pal et al. (2021, 2023) took these data. Lines without a
    parameter's name, of which the published sets have some, say nothing.

    Raises
    ------
    ValueError
        Naming the file and the line.
    """
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    if not lines or lines[0].strip() != "Time,Parameter,Value":
        raise ValueError(f"{path}: the first line must be Time,Parameter,Value, as in the PhysioNet Challenge of 2012")
    total, count = np.zeros((2, HOURS + 1, len(VARIABLES)))
    for number, line in enumerate(lines[1:], 2):
        fields = line.strip().split(",")
        if fields == [""]:
            continue
        if len(fields) != 3:
            raise ValueError(f"{path}, line {number}: {line!r} is not time, parameter, value")
        time, name, text = fields
        hours, colon, minutes = time.partition(":")
        if not (colon and hours.isdecimal() and minutes.isdecimal()) or int(minutes) > 59:
            raise ValueError(f"{path}, line {number}: {time!r} is not a time such as 07:42")
        hour = int(hours) + int(minutes) / 60
        if hour > HOURS:
            raise ValueError(f"{path}, line {number}: {time} is after the {HOURS} hours of a record")
        try:
            value = float(text)
        except ValueError:
            value = np.nan
        if not np.isfinite(value):
            raise ValueError(f"{path}, line {number}: {text!r} is not a number")
        if name in DESCRIPTORS or not name or value == -1:
            continue
        if name not in _COLUMN:
            raise ValueError(f"{path}, line {number}: {name!r} is no parameter of the PhysioNet Challenge of 2012")
        place = int(np.floor(hour + 0.5)), _COLUMN[name]
        total[place] += value
        count[place] += 1
    return total / np.maximum(count, 1), (count > 0).astype(float)


def load_physionet(folder: str) -> Series:
    """The records of the PhysioNet Challenge of 2012 in a folder and those below it (``set-a``, ``set-b``), in order.

    Each variable is scaled to 0 to 1 by its least and its largest value in all records, those without any observation
    are left out, and so are files that are not named by a number, such as ``Outcomes-a.txt``.

    Raises
    ------
    ValueError
        Naming the folder without records, or the file and line that is malformed.
    """
    root = Path(folder)
    if not root.is_dir():
        raise ValueError(f"series: there is no folder {folder}")
    paths = sorted(path for path in root.rglob("*.txt") if path.stem.isdecimal())
    if not paths:
        raise ValueError(
            f"series: {folder} has no records of the PhysioNet Challenge of 2012 (such as set-a/132539.txt)"
        )
    parts = [read_record(path) for path in paths]
    x, mask = np.stack([part[0] for part in parts]), np.stack([part[1] for part in parts])
    some = mask.any(axis=(1, 2))
    if not some.any():
        raise ValueError(f"series: the records in {folder} have no observations")
    x, mask = x[some], mask[some]
    seen = mask > 0
    least = np.where(seen, x, np.inf).min(axis=(0, 1))
    span = np.where(seen, x, -np.inf).max(axis=(0, 1)) - least
    span = np.where(np.isfinite(span) & (span > 0), span, 1.0)
    scaled = np.where(seen, (x - np.where(np.isfinite(least), least, 0.0)) / span, 0.0)
    return Series(np.linspace(0.0, 1.0, HOURS + 1), scaled, mask)
