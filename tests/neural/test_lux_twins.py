"""The Lux layers of the Julia package and the Equinox layers: the same weights give the same losses and derivatives."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pysciml as ps

pytestmark = pytest.mark.julia

TIMES = np.array([0.0, 0.4, 1.0])
#: The loss of a layer, and its derivatives by weights and initial states in the order that NumPy has them.
TWIN = """
function twin(adjoint, order, tolerance, y0, times, weights...)
    W1, b1, W2, b2 = map(Array{Float64}, weights)
    model = Lux.Chain(Lux.Dense(3 => 8, tanh), Lux.Dense(8 => 2))
    ps = (; model = (; layer_1 = (; weight = W1, bias = b1), layer_2 = (; weight = W2, bias = b2)))
    regularize = order == 0 ? () : (PySciML.TaylorDerivative(order, 0.1), PySciML.KineticEnergy(0.2))
    adjoint = isempty(adjoint) ? nothing : adjoint
    layer = PySciML.NeuralODE(model; with_time = true, rtol = tolerance, atol = tolerance, regularize, adjoint)
    st = Lux.initialstates(PySciML.Random.default_rng(), layer)
    value, (by_ps, by_y0) = Zygote.withgradient(ps, permutedims(Array{Float64}(y0))) do ps, y0
        out, _ = layer((y0, Vector{Float64}(times)), ps, st)
        sum(abs2, out.y) + out.regularization
    end
    m = by_ps.model
    return value, [vec(m.layer_1.weight'); m.layer_1.bias; vec(m.layer_2.weight'); m.layer_2.bias; vec(by_y0)]
end
"""


class Field(eqx.Module):
    W1: Any
    b1: Any
    W2: Any
    b2: Any

    def __call__(self, t, y):
        return self.W2 @ jnp.tanh(self.W1 @ jnp.append(y, t) + self.b1) + self.b2


def numbers():
    rng = np.random.default_rng(0)
    return [rng.normal(size=shape) for shape in ((8, 3), (8,), (2, 8), (2,), (5, 2))]


def on_jax(adjoint, order, tolerance):
    *weights, y0 = numbers()
    regularize = [ps.TaylorDerivative(order, 0.1), ps.KineticEnergy(0.2)] if order else None
    options = {"rtol": tolerance, "atol": tolerance, "regularize": regularize, "adjoint": adjoint or None}

    @jax.jit
    @jax.value_and_grad
    def loss(given):
        *weights, y0 = given
        out = ps.neural.NeuralODE(Field(*weights), **options)(y0, jnp.asarray(TIMES))
        return jnp.sum(out.y**2) + out.regularization

    with jax.enable_x64(True):
        value, slope = loss([jnp.asarray(part) for part in (*weights, y0)])
        return float(value), np.concatenate([np.ravel(part) for part in slope])


@pytest.fixture(scope="module")
def twin(julia_engine):
    from pysciml.engines.julia.bridge import julia

    julia()
    from juliacall import Main

    needed = ("Lux", "Zygote")
    if not Main.seval(f"all(name -> Base.find_package(name) !== nothing, {needed})".replace("'", '"')):
        pytest.skip(f"{' and '.join(needed)} are not in this Julia environment: Pkg.add them to it to test the layers")
    Main.seval("using PySciML: PySciML; using Lux: Lux; using Zygote: Zygote")
    function = Main.seval(TWIN)

    def on_julia(adjoint, order, tolerance):
        *weights, y0 = numbers()
        value, slope = function(adjoint, order, tolerance, y0, TIMES, *weights)
        return float(value), np.asarray(slope)

    return on_julia


@pytest.mark.parametrize("order", [0, 1, 2, 3, 4])
def test_losses_and_derivatives_are_those_of_the_equinox_layer(twin, order):
    value, slope = twin("", order, 1e-8)
    expected, exact = on_jax(None, order, 1e-8)
    assert value == pytest.approx(expected, rel=1e-9)
    assert slope == pytest.approx(exact, rel=1e-6, abs=1e-8 * np.abs(exact).max())


@pytest.mark.usefixtures("sensitivity")
@pytest.mark.parametrize("order", [0, 2])
def test_continuous_adjoints_of_both_come_to_the_same(twin, order):
    from juliacall import Main

    Main.seval("using SciMLSensitivity: SciMLSensitivity")
    value, slope = twin("BacksolveAdjoint", order, 1e-11)
    expected, exact = on_jax("BacksolveAdjoint", order, 1e-11)
    assert value == pytest.approx(expected, rel=1e-9)
    assert slope == pytest.approx(exact, rel=1e-6, abs=1e-8 * np.abs(exact).max())
