"""Single precision and devices: what is asked for is what is computed with, or is refused by name."""

import numpy as np
import pytest

import pysciml as ps

D = ps.D
x, v = ps.variables("x v")
(k,) = ps.parameters("k,")
(W,) = ps.brownian("W,")


@pytest.fixture(autouse=True)
def _cache(monkeypatch):
    monkeypatch.setenv("PYSCIML_CACHE_DIR", "")


@pytest.fixture(scope="module")
def problem():
    system = ps.System([ps.Eq(D(x), v), ps.Eq(D(v), -k * x)], observed={"energy": v**2 + k * x**2}, name="oscillator")
    return ps.Problem(system, {x: 1.0, v: 0.0}, (0, 5), {k: 4.0})


@pytest.fixture(scope="module")
def noisy():
    return ps.Problem(ps.System([ps.Eq(D(x), 0.1 * x + k * x * W)], name="gbm"), {x: 1.0}, (0, 1), {k: 0.2})


@pytest.mark.parametrize(("alg", "error"), [("Tsit5", 5e-6), ("KenCarp4", 5e-5)])
def test_single_precision_has_its_accuracy_and_its_type(problem, alg, error):
    sol = ps.solve(problem, alg, precision="float32", saveat=0.1, engine="jax")
    assert sol.x.dtype == sol.energy.dtype == np.float32
    assert sol.t.dtype == np.float64
    assert 0 < float(abs(sol.x - np.cos(2 * sol.t)).max()) < error
    assert sol.attrs["precision"] == "float32"
    double = ps.solve(problem, alg, saveat=0.1, engine="jax")
    assert double.x.dtype == np.float64
    assert "precision" not in double.attrs


def test_automatic_choice_takes_an_engine_with_that_precision(problem):
    assert ps.solve(problem, precision="float32").attrs["engine"] == "jax"


def test_many_small_steps_do_not_stall_in_single_precision(noisy):
    """The grid of a fixed step is counted exactly although times are rounded; the path is the same one."""
    options = {"dt": 1e-4, "saveat": 0.1, "seed": 3, "engine": "jax"}
    single, double = (ps.solve(noisy, "EM", precision=p, **options) for p in ("float32", "float64"))
    assert single.attrs["n_steps"] == double.attrs["n_steps"] == 10_000
    np.testing.assert_allclose(single.x, double.x, rtol=2e-4)


def test_ensembles_in_single_precision(noisy):
    options = {"dt": 0.01, "trajectories": 70, "seed": 3, "engine": "jax"}
    single, double = (ps.solve_ensemble(noisy, "EM", precision=p, **options) for p in ("float32", "float64"))
    assert single.x.dtype == np.float32
    np.testing.assert_allclose(single.x, double.x, rtol=1e-5)


def test_a_gpu_that_is_not_there_is_said_with_the_command_that_mends_it(problem, monkeypatch):
    import jax

    from pysciml.engines.jax import compiling

    def nothing(name):
        if name == "cuda":
            raise RuntimeError("Unknown backend cuda")
        raise AssertionError(name)

    with monkeypatch.context() as patch:
        compiling.find_device.cache_clear()
        found = jax.devices()
        patch.setattr(jax, "devices", lambda name=None: found if name is None else nothing(name))
        with pytest.raises(ps.EngineUnavailableError, match=r"device='cuda': .*pip install \"pysciml\[cuda\]\""):
            ps.solve(problem, engine="jax", device="cuda")
        with pytest.raises(ps.UnsupportedError, match=r"(?s)native engine has no device 'cuda'.*jax: device='cuda'"):
            ps.solve(problem, device="cuda")
    compiling.find_device.cache_clear()


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"engine": "native", "precision": "float32"}, ps.UnsupportedError, "engine='jax' has it"),
        ({"engine": "native", "device": "cuda"}, ps.UnsupportedError, "only 'cpu'; engine='jax' has it$"),
        ({"engine": "jax", "device": "abacus"}, ps.UnsupportedError, "no registered engine has it"),
        ({"device": 3}, ps.ProblemError, "device must be a name"),
        ({"precision": "half"}, ps.ProblemError, "precision must be"),
        ({"precision": "float32", "rtol": 1e-9}, ps.ProblemError, "finer than float32"),
        ({"precision": "float32", "alg": "Euler", "dt": 1e-5, "engine": "jax"}, ps.ProblemError, "tell apart"),
    ],
)
def test_what_does_not_go_together_is_refused(problem, options, kind, message):
    with pytest.raises(kind, match=message):
        ps.solve(problem, **options)


def test_who_has_a_gpu_depends_on_what_is_solved(problem):
    with pytest.raises(ps.UnsupportedError, match=r"engine='jax' or engine='julia' has it$"):
        ps.solve_ensemble(problem, over={"x": [1.0, 2.0]}, engine="native", device="cuda")


def test_adaptive_steps_on_a_path_want_double_precision(noisy):
    with pytest.raises(ps.UnsupportedError, match="SPaRK with steps of its own needs precision='float64'"):
        ps.solve(noisy, "SPaRK", precision="float32", engine="jax")
