"""The demonstration, and the README's examples."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from pysciml import cli, demo

ROOT = Path(__file__).resolve().parents[1]


def test_the_data_are_those_of_the_source() -> None:
    data = demo.load_lynx_hare()
    assert data.sizes == {"t": 21}
    assert data["t"].values.tolist() == list(range(1900, 1921))
    assert data.hare.attrs["units"] == data.lynx.attrs["units"] == "thousand pelts"
    # The highest and lowest years (Elton and Nicholson 1942, as tabulated by Howard 2009).
    assert float(data.hare.sel(t=1903)) == 77.4
    assert float(data.lynx.sel(t=1904)) == 59.4
    assert float(data.lynx.sel(t=1900)) == 4.0
    assert "Journal of Animal Ecology" in data.attrs["source"]


def test_the_estimates_are_those_of_the_published_analysis() -> None:
    result = demo.fit_lynx_hare()
    assert result.success
    e = result.estimates.set_index(parameter="parameter")
    # Posterior means and standard deviations of Carpenter, Predator-Prey Population Dynamics
    # (Stan case study, 2018), which has the same errors and weak priors.
    published = {
        "alpha": (0.55, 0.06),
        "beta": (0.028, 0.004),
        "gamma": (0.80, 0.09),
        "delta": (0.024, 0.004),
        "hare": (33.96, 2.9),
        "lynx": (5.95, 0.5),
    }
    for name, (mean, spread) in published.items():
        one = e.sel(parameter=name)
        assert abs(float(one.estimate) - mean) < 0.5 * spread, name
        assert float(one.stderr) == pytest.approx(spread, rel=0.2), name
    spread = np.sqrt(result.loss / result.dof)
    assert float(spread) == pytest.approx(0.25, abs=0.04)


def test_the_demo_writes_its_results_and_prints_the_estimates(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new" / "folder"
    assert cli.main(["demo", "--out", str(out)]) == 0
    text = capsys.readouterr().out
    for word in ("alpha", "lynx (initial)", "95 % from", "converged", "Elton", "lynx_hare.nc", "lynx_hare.png"):
        assert word in text
    assert sorted(path.name for path in out.iterdir()) == ["lynx_hare.nc", "lynx_hare.png"]
    assert (out / "lynx_hare.png").read_bytes().startswith(b"\x89PNG")
    with xr.open_dataset(out / "lynx_hare.nc", engine="h5netcdf") as got:
        assert {"hare", "lynx", "hare_data", "hare_low", "lynx_high", "estimate", "covariance"} <= set(got.data_vars)
        assert bool((got.hare_low < got.hare).all())
        assert bool((got.hare < got.hare_high).all())
        np.testing.assert_array_equal(got.lynx_data, demo.load_lynx_hare().lynx)
        # The band is about as wide as the interval of the initial value, where both are known.
        first = got.isel(t=0)
        initial = got.set_index(parameter="parameter").sel(parameter="hare")
        assert float(first.hare_high - first.hare_low) == pytest.approx(
            float(initial.ci_high - initial.ci_low), rel=0.15
        )


def test_a_folder_that_cannot_be_made_is_a_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("in the way")
    assert cli.main(["demo", "--out", str(tmp_path / "file")]) == 1
    assert capsys.readouterr().err.startswith("pysciml: ")


def readme_blocks() -> list[str]:
    return re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)


def test_the_code_of_the_readme_runs_as_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = readme_blocks()
    assert len(blocks) >= 3
    names: dict[str, object] = {}
    for block in blocks:  # in order: later blocks use what earlier ones made
        exec(block, names)
    assert "sol" in names


def test_the_pictures_and_links_of_the_readme_exist() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", text) if "://" not in link]
    assert "docs/lynx_hare.png" in links
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_the_data_in_the_package_are_unchanged() -> None:
    content = (ROOT / "pysciml" / "data" / "lynx_hare.csv").read_text(encoding="utf-8")
    digest = hashlib.sha256("\n".join(content.split()).encode()).hexdigest()
    assert digest[:16] == "2cbef65195c9ab44"
