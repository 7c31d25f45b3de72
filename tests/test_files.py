"""Model files: what was saved is what is loaded, names, events and noise included, as data."""

from __future__ import annotations

import json
import os
import stat
import sys

import numpy as np
import pytest
import sympy as sp

import pysciml as ps
from pysciml import D, Eq, Event, System

x, y = ps.variables("x y")
a, b = ps.parameters("a b")
w, v = ps.brownian("w v")
ψ, q_1 = ps.variables("ψ q_1")
κ = ps.parameters("κ")
height = ps.variables("h", units="m", long_name="Höhe")
mass = ps.parameters("m", units="kg")
s = sp.Symbol("s")
u = sp.Function("u")(s)

MODELS = {
    "an ode": System([Eq(D(x), a * x - b * x * y), Eq(D(y), sp.exp(-y / 3) + ps.t)], name="lotka volterra"),
    "a higher order": System([Eq(D(x, 3), -a * D(x) + y), Eq(D(y), x**2)]),
    "a dae": System([Eq(D(x), -y), Eq(y**3 + y, x)]),
    "a derivative as an unknown": System([Eq(D(x) ** 2, x)]),
    "an sde": System([Eq(D(x), -x + a * x * w + v), Eq(D(y), b * v)]),
    "a dde": System([Eq(D(x), -a * x.subs(ps.t, ps.t - b))]),
    "events": System(
        [Eq(D(x, 2), -a), Eq(D(y), 1)],
        events=[
            Event(x, {D(x): -b * D(x), y: 0}, direction="down"),
            Event(y - ps.t**2, terminal=True, direction="up"),
        ],
    ),
    "observed": System([Eq(D(x), -x)], observed={"twice": 2 * x, "rate": D(x), y: a}),
    "unicode": System([Eq(D(ψ), -κ * q_1), Eq(D(q_1), ψ)], name="Schwingung ψ"),
    "units": System([Eq(mass * D(height, 2), -9.81 * mass)], observed={mass * 0 + sp.Symbol("e"): height}),
    "another time": System([sp.Eq(u.diff(s), -u * sp.sin(s))]),
    "marked terms": System([Eq(D(x), ps.implicit(-a * (x - sp.cos(ps.t))) + y), Eq(D(y), -x * y + b * ps.implicit(x))]),
    "functions": System(
        [
            Eq(D(x), sp.Piecewise((sp.sqrt(x), sp.And(x > 0, x < a)), (sp.Max(x, y, 1), True))),
            Eq(D(y), sp.erf(x) + sp.Heaviside(y) + sp.Mod(x, 3) + sp.besselj(1, x) + sp.polygamma(1, 2 + x**2)),
        ],
        parameters=[b, a],
    ),
}  # fmt: skip


@pytest.fixture(params=MODELS)
def model(request):
    return MODELS[request.param]


def values(system, name):
    rng = np.random.default_rng(3)
    u = rng.uniform(0.2, 1.5, (len(system.states), 6))
    p = rng.uniform(0.2, 1.5, (len(system.parameters), 1))
    return system.graph.evaluate(name, u, p, 0.3, lambda state, time: np.asarray(time) * (state + 1))


def test_what_is_loaded_is_what_was_saved(model, tmp_path):
    model.save(tmp_path / "model.json")
    loaded = ps.load(tmp_path / "model.json")
    assert loaded.model.hash == model.model.hash
    assert loaded.graph == model.graph
    for name in ("name", "kind", "noise_type", "states", "attrs", "time"):
        assert getattr(loaded, name) == getattr(model, name), name
    for name in ("states", "parameters", "observed", "events", "noise", "noise_type"):
        assert getattr(loaded.model, name) == getattr(model.model, name), name
    assert [p.name for p in loaded.parameters] == [p.name for p in model.parameters]
    for name in model.graph.outputs:
        np.testing.assert_array_equal(values(loaded, name), values(model, name))


def test_the_loaded_equations_are_a_system_again(model, tmp_path):
    model.save(tmp_path / "model.json")
    loaded = ps.load(tmp_path / "model.json")
    again = System(
        loaded.equations, loaded.parameters, observed=loaded.observed, events=loaded.events, name=loaded.name
    )
    assert again.kind == model.kind
    assert again.noise_type == model.noise_type
    if again.model.states == model.model.states:  # equal up to rounding and the sign of residuals
        for name in model.graph.outputs:
            np.testing.assert_allclose(abs(values(again, name)), abs(values(model, name)), rtol=1e-12)
    else:
        assert set(again.model.states) == set(model.model.states)
    assert repr(loaded).splitlines()[0] == repr(model).splitlines()[0]
    assert loaded._repr_latex_().startswith("$")


def test_saving_twice_gives_the_same_file(model, tmp_path):
    model.save(tmp_path / "one.json")
    ps.load(tmp_path / "one.json").save(str(tmp_path / "two.json"))
    assert (tmp_path / "one.json").read_bytes() == (tmp_path / "two.json").read_bytes()


def test_a_file_is_plain_json_without_code(model, tmp_path):
    model.save(tmp_path / "model.json")
    document = json.loads((tmp_path / "model.json").read_text(encoding="utf-8"))
    assert document["format"] == "pysciml-model"

    def texts(value):
        if isinstance(value, str):
            yield value
        elif isinstance(value, dict):
            for key, inner in value.items():
                yield key
                yield from texts(inner)
        elif isinstance(value, list):
            for inner in value:
                yield from texts(inner)

    assert not any(sign in text for text in texts(document) for sign in "()=*;")


def test_a_problem_of_a_loaded_model(tmp_path):
    MODELS["events"].save(tmp_path / "model.json")
    loaded = ps.load(tmp_path / "model.json")
    problem = ps.Problem(loaded, {x: 1, D(x): 0, "y": 2}, (0, 1), {"a": 9.81, b: 0.5})
    assert problem.u0.tolist() == [{"x": 1.0, "x_t": 0.0, "y": 2.0}[name] for name in loaded.model.states]


def test_units_survive(tmp_path):
    MODELS["units"].save(tmp_path / "model.json")
    loaded = ps.load(tmp_path / "model.json")
    assert loaded.states[0] == height
    assert loaded.parameters == (mass,)


def test_a_failed_save_keeps_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "model.json"
    MODELS["an ode"].save(path)
    before = path.read_bytes()

    def fail(*args, **kwargs):
        raise OSError("disk full")

    monkeypatch.setattr("pathlib.Path.replace", fail)
    with pytest.raises(OSError, match="disk full"):
        MODELS["a dae"].save(path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["model.json"]


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError):
        MODELS["an ode"].save(tmp_path / "nowhere" / "model.json")


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such permissions")
def test_a_file_has_the_permissions_of_any_new_file(tmp_path):
    old = os.umask(0o022)
    try:
        MODELS["an ode"].save(tmp_path / "model.json")
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "model.json").stat().st_mode) == 0o644
