"""The data of the papers' experiments: files in the formats of their publishers, and what is said of malformed ones."""

from __future__ import annotations

import gzip
import struct

import equinox as eqx
import jax
import numpy as np
import pytest

from benchmarks import datasets, experiments

RECORD = """\
Time,Parameter,Value
00:00,RecordID,132539
00:00,Age,54
00:00,Gender,0
00:00,Height,-1
00:00,ICUType,4
00:00,Weight,-1
00:07,GCS,15
00:07,HR,73
00:37,HR,77
01:29,HR,80
01:30,HR,60
02:10,HR,66
02:11,,-1
47:30,pH,7.38
48:00,Urine,0
"""


def column(name):
    return datasets.VARIABLES.index(name)


def write(path, text=RECORD):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def test_a_record_of_the_challenge_becomes_hourly_means_and_masks(tmp_path):
    x, mask = datasets.read_record(write(tmp_path / "132539.txt"))
    assert x.shape == mask.shape == (49, 37)
    rates = column("HR")
    assert mask[:4, rates].tolist() == [1, 1, 1, 0]
    # 00:37 and 01:29 are nearest to one o'clock; 01:30 and 02:10 to two.
    assert x[:3, rates].tolist() == [73, (77 + 80) / 2, (60 + 66) / 2]
    assert (x[48, column("pH")], x[48, column("Urine")], mask[48, column("Urine")]) == (7.38, 0, 1)
    assert not mask[:, column("Weight")].any()
    assert mask.sum() == 6
    assert not x[mask == 0].any()


def test_the_records_of_a_folder_are_scaled_variable_by_variable(tmp_path):
    write(tmp_path / "set-a" / "132540.txt", RECORD.replace(",HR,60", ",HR,160"))
    write(tmp_path / "set-a" / "132539.txt")
    write(tmp_path / "set-a" / "140501.txt", "\n".join(RECORD.splitlines()[:7]))
    write(tmp_path / "Outcomes-a.txt", "RecordID,SAPS-I,SOFA,Length_of_stay,Survival,In-hospital_death\n")
    found = datasets.load_physionet(str(tmp_path))
    assert found.times.tolist() == pytest.approx(np.arange(49) / 48)
    assert found.x.shape == (2, 49, 37)  # the record without observations is left out
    rates = found.x[:, :3, column("HR")]
    low, high = 63, (160 + 66) / 2
    assert rates[0] == pytest.approx((np.array([73, 78.5, 63]) - low) / (high - low))
    assert rates[1] == pytest.approx((np.array([73, 78.5, high]) - low) / (high - low))
    assert found.x.min() == 0
    assert found.x.max() == 1
    assert np.array_equal(found.mask[0], found.mask[1])


def test_the_latent_equation_takes_the_records_of_a_folder(tmp_path):
    write(tmp_path / "132540.txt")
    with pytest.raises(ValueError, match=r"has one record with observations"):
        experiments.latent(None, str(tmp_path))
    for k in range(5):
        write(tmp_path / f"13254{k}.txt", RECORD.replace(",HR,60", f",HR,{60 + k}"))
    with jax.enable_x64(True):
        experiment = experiments.latent(None, str(tmp_path))
        arrays, test = experiment.data(3)
        assert [part.shape for part in (*arrays, *test)] == 2 * [(4, 49, 37)] + 4 * [(1, 49, 37)]
        seen = np.sort(np.concatenate([arrays[0], test[0]])[:, 2, column("HR")])
        assert seen == pytest.approx((np.arange(63, 65.5, 0.5) - 63) / (78.5 - 63))
        model = eqx.filter_jit(experiment.model)(None, jax.random.key(0))
        key = jax.random.key(1)
        predicted, evaluations = eqx.filter_jit(experiment.predict)(model, test, key)
        assert predicted.shape == (1, 49, 37)
        assert int(evaluations) > 6
        miss = (np.asarray(predicted) - test[0])[test[1] > 0]
        assert float(experiment.score(model, test, predicted, key)) == pytest.approx(1000 * np.mean(miss**2))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("02:11,HR", r"line 17: '02:11,HR' is not time, parameter, value"),
        ("2.5,HR,70", r"line 17: '2\.5' is not a time such as 07:42"),
        ("02:60,HR,70", r"line 17: '02:60' is not a time"),
        ("48:01,HR,70", r"line 17: 48:01 is after the 48 hours"),
        ("02:11,HR,fast", r"line 17: 'fast' is not a number"),
        ("02:11,HR,nan", r"line 17: 'nan' is not a number"),
        ("02:11,Pulse,70", r"line 17: 'Pulse' is no parameter"),
    ],
)
def test_a_malformed_line_of_a_record_is_named(tmp_path, line, message):
    path = write(tmp_path / "set-a" / "132539.txt", RECORD + line + "\n")
    with pytest.raises(ValueError, match=rf"132539\.txt, {message}"):
        datasets.load_physionet(str(tmp_path))
    write(path, RECORD.replace("Time,Parameter,Value", "time;parameter;value"))
    with pytest.raises(ValueError, match=r"132539\.txt: the first line must be Time,Parameter,Value"):
        datasets.load_physionet(str(tmp_path))


def test_a_folder_without_records_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"there is no folder .*absent"):
        datasets.load_physionet(str(tmp_path / "absent"))
    write(tmp_path / "Outcomes-a.txt")
    with pytest.raises(ValueError, match="has no records of the PhysioNet Challenge"):
        datasets.load_physionet(str(tmp_path))
    write(tmp_path / "140501.txt", "Time,Parameter,Value\n00:00,RecordID,140501\n")
    with pytest.raises(ValueError, match="have no observations"):
        datasets.load_physionet(str(tmp_path))


def idx(values):
    """In the format of MNIST's files."""
    values = np.asarray(values, np.uint8)
    return struct.pack(f">4B{values.ndim}i", 0, 0, 8, values.ndim, *values.shape) + values.tobytes()


@pytest.fixture
def mnist(tmp_path):
    rng = np.random.default_rng(0)
    arrays = [rng.integers(0, 256, (n, 28, 28)) if k == 0 else rng.integers(0, 10, n) for n in (5, 3) for k in (0, 1)]
    for name, values in zip(datasets.IMAGE_FILES, arrays, strict=True):
        if name.startswith("train"):
            (tmp_path / name).write_bytes(idx(values))
        else:
            (tmp_path / f"{name}.gz").write_bytes(gzip.compress(idx(values)))
    return tmp_path, arrays


def test_images_come_from_mnists_files_and_from_its_arrays(mnist):
    folder, arrays = mnist
    names = ("x_train", "y_train", "x_test", "y_test")
    np.savez(folder / "mnist.npz", **dict(zip(names, arrays, strict=True)))
    for given in (folder, folder / "mnist.npz"):
        x, y, x_test, y_test = datasets.load_images(str(given))
        assert np.array_equal(x, arrays[0].reshape(5, 784) / 255)
        assert np.array_equal(x_test, arrays[2].reshape(3, 784) / 255)
        assert (y.tolist(), y_test.tolist()) == (arrays[1].tolist(), arrays[3].tolist())
    np.savez(folder / "half.npz", x_train=arrays[0], y_train=arrays[1])
    with pytest.raises(ValueError, match=r"half\.npz has no array x_test"):
        datasets.load_images(str(folder / "half.npz"))
    np.savez(folder / "odd.npz", **dict(zip(names, [arrays[0][:4], *arrays[1:]], strict=True)))
    with pytest.raises(ValueError, match=r"training images of shape \(4, 28, 28\) and labels of shape \(5,\)"):
        datasets.load_images(str(folder / "odd.npz"))


def test_missing_and_damaged_files_of_images_are_named(mnist):
    folder, arrays = mnist
    with pytest.raises(ValueError, match=r"there is no file or folder .*absent"):
        datasets.load_images(str(folder / "absent"))
    images, labels = folder / "train-images-idx3-ubyte", folder / "t10k-labels-idx1-ubyte.gz"
    images.write_bytes(idx(arrays[0])[:-1])
    with pytest.raises(ValueError, match=r"train-images-idx3-ubyte promises 5 x 28 x 28 bytes and has 3919"):
        datasets.load_images(str(folder))
    images.write_bytes(idx(arrays[1]))
    with pytest.raises(ValueError, match="does not begin as an IDX file of bytes in 3 dimensions"):
        datasets.load_images(str(folder))
    images.write_bytes(idx(arrays[0]))
    labels.write_bytes(labels.read_bytes()[:-9])
    with pytest.raises(ValueError, match=r"t10k-labels-idx1-ubyte\.gz is not a whole gzip file"):
        datasets.load_images(str(folder))
    labels.unlink()
    with pytest.raises(ValueError, match=r"has neither t10k-labels-idx1-ubyte nor t10k-labels-idx1-ubyte\.gz"):
        datasets.load_images(str(folder))
