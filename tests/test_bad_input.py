"""What is wrong is refused before anything is computed, in words that name the culprit."""

from __future__ import annotations

import datetime as dt
import json
import math

import numpy as np
import pytest
import sympy as sp
import xarray as xr

import pysciml as ps
from pysciml import D, Eq, Event, ModelError, Problem, ProblemError, System, UnsupportedError
from tests.fake_engine import FakeEngine, only

x, y, z = ps.variables("x y z")
a, b, k = ps.parameters("a b k")
t = ps.t
w = ps.brownian("w")
s, X = sp.symbols("s X")
u = sp.Function("u")
f = sp.Function("f")

decay = System([Eq(D(x), -a * x)], name="decay")
pair = System([Eq(D(x), a * x - b * y), Eq(D(y), -y)], name="pair")
spring = System([Eq(D(x, 2), -x)])
circuit = System([Eq(D(x), -y), Eq(y, x)])
problem = Problem(decay, {x: 1}, (0, 1), {a: 2})


def system(*equations, **options):
    return System(list(equations), **options)


def observing(**observed):
    return System([Eq(D(x), -a * x)], observed=observed)


def on_event(*args, **options):
    return System([Eq(D(x), -a * x)], events=[Event(*args, **options)])


MODELS = {
    # -- the list of equations
    "text for an equation": (lambda: system("D(x) = x"), ["equation 1", "str", "D(x) = x"]),
    "text for all equations": (lambda: System("D(x) = x"), ["equations", "str"]),
    "no equations at all": (lambda: System([]), ["at least one equation"]),
    "nothing for equations": (lambda: System(None), ["equations", "NoneType"]),
    "a mapping for equations": (lambda: System({x: -x}), ["equations", "dict"]),
    "a set of equations, which has no order": (lambda: System({Eq(D(x), 1)}), ["equations", "set"]),
    "a number for an equation": (lambda: system(3), ["equation 1", "int", "3"]),
    "an array for an equation": (lambda: system(np.zeros(2)), ["equation 1", "ndarray"]),
    "nested lists": (lambda: System([[Eq(D(x), 1)]]), ["equation 1", "list"]),
    "an inequality": (lambda: system(Eq(D(x), 1), sp.Gt(x, 1)), ["equation 2", "StrictGreaterThan", "x(t) > 1"]),
    "True for an equation": (lambda: system(True), ["equation 1", "decided to be True"]),
    "an equation SymPy found to be true": (lambda: system(Eq(D(x), 1), sp.Eq(x, x)), ["equation 2", "True"]),
    "an equation SymPy found to be false": (lambda: system(sp.Eq(sp.S(1), 2)), ["equation 1", "decided to be False"]),
    "matrices of different shapes": (
        lambda: system(Eq(D(x), 1), Eq(sp.Matrix([D(x), D(y)]), sp.Matrix([[x, y]]))),
        ["equation 2", "2x1 on the left", "1x2 on the right"],
    ),
    "a matrix on one side": (
        lambda: system(sp.Eq(sp.MatrixSymbol("A", 1, 1), sp.Matrix([x]), evaluate=False)),
        ["equation 1", "matrix without entries"],
    ),
    "a matrix that is no derivative's": (lambda: Eq(sp.Matrix([D(x)]), x), ["left side", "Matrix"]),
    "a matrix symbol": (
        lambda: system(sp.Eq(sp.MatrixSymbol("A", 2, 2), sp.MatrixSymbol("B", 2, 2))),
        ["equation 1", "matrix"],
    ),
    "an entry of a matrix symbol": (
        lambda: system(Eq(D(x), sp.MatrixSymbol("A", 2, 2)[0, 1] * x)),
        ["equation 1", "A[0, 1]", "one symbol per entry"],
    ),
    "an indexed quantity": (lambda: system(Eq(D(x), sp.IndexedBase("A")[0] * x)), ["equation 1", "A[0]"]),
    # -- counting
    "too few equations": (
        lambda: system(Eq(D(x), y + z), Eq(D(y), x)),
        ["2 equations for 3 unknowns (x, y, z)", "determine z"],
    ),
    "a state without an equation": (lambda: system(Eq(D(x), -x + D(y))), ["1 equation for 2 unknowns", "x, y"]),
    "too many equations": (
        lambda: system(Eq(D(x), y), Eq(D(y), x), Eq(D(y), 2 * x)),
        ["3 equations for 2 unknowns (x, y)", "equation 3, D(y) = 2*x"],
    ),
    "the same equation twice": (
        lambda: system(Eq(D(x), a), Eq(D(x), a)),
        ["equation 2, D(x) = a", "same as equation 1"],
    ),
    "the same equation turned round": (lambda: system(Eq(D(x), a), Eq(a, D(x))), ["equation 2", "same as equation 1"]),
    "structurally singular equations": (
        lambda: system(Eq(D(x), a * x), Eq(x, sp.sin(t)), Eq(D(y) + z, 0)),
        ["equation 2, x = sin(t)", "determines z"],
    ),
    "dependent equations": (
        lambda: system(Eq(D(x) + D(y), a), Eq(2 * D(x) + 2 * D(y), 2 * a)),
        ["equation 2", "determines nothing"],
    ),
    "contradicting equations": (
        lambda: system(Eq(D(x), D(y)), Eq(D(y), D(x) + 1)),
        ["equation 2, D(y) = D(x) + 1", "contradicts"],
    ),
    "an equation that says nothing": (
        lambda: system(Eq(D(x), D(x)), Eq(D(y), 1)),
        ["equation 1, D(x) = D(x)", "always true"],
    ),
    "an equation without an unknown": (
        lambda: system(Eq(D(x), 1), Eq(a, b), Eq(D(y), 1)),
        ["equation 2, a = b", "no unknown"],
    ),
    "no unknown anywhere": (lambda: system(Eq(a, b)), ["no unknowns", "pysciml.variables"]),
    # -- names
    "a symbol that is not declared": (
        lambda: system(Eq(D(x), a * b * x), parameters=[a]),
        ["equation 1", "undefined symbol b"],
    ),
    "one name for a variable and a parameter": (
        lambda: system(Eq(D(x), sp.Symbol("x") * x)),
        ["equation 1", "'x'", "the function x(t)", "the symbol x"],
    ),
    "one name with two assumptions": (
        lambda: system(Eq(D(x), a * sp.Symbol("a", positive=True))),
        ["equation 1", "'a'", "positive"],
    ),
    "one variable with and without units": (
        lambda: system(Eq(D(x), 1), Eq(D(ps.variables("x", units="m")), 1)),
        ["equation 2", "'x'", "units"],
    ),
    "two dummies of one name": (lambda: system(Eq(D(x), sp.Dummy("k") * x + sp.Dummy("k"))), ["equation 1", "'k'"]),
    "a name with a space": (lambda: system(Eq(D(x), sp.Symbol("my rate") * x)), ["equation 1", "'my rate'"]),
    "a name that starts with a digit": (lambda: system(Eq(D(x), sp.Symbol("2a") * x)), ["equation 1", "'2a'"]),
    "a name of LaTeX": (lambda: system(Eq(D(x), sp.Symbol(r"k_{1}") * x)), ["equation 1", "'k_{1}'"]),
    "an empty name": (lambda: system(Eq(D(x), sp.Symbol("") * x)), ["equation 1", "''"]),
    "a variable with no valid name": (lambda: system(Eq(D(u(t)) + sp.Function("v-1")(t), 0)), ["equation 1", "'v-1'"]),
    "a variable called like the time": (
        lambda: system(Eq(D(sp.Function("t")(t)), 1)),
        ["equation 1", "'t'", "time coordinate"],
    ),
    "a variable called like an ensemble's dimension": (
        lambda: system(Eq(D(sp.Function("trajectory")(t)), 1)),
        ["'trajectory'", "ensemble dimension"],
    ),
    "a name a derivative needs": (lambda: system(Eq(D(x, 2), -sp.Symbol("x_t") * x)), ["'x_t'", "derivative", "x(t)"]),
    "a system without a name": (lambda: system(Eq(D(x), 1), name=""), ["name"]),
    "a name that is no text": (lambda: system(Eq(D(x), 1), name=None), ["name", "None"]),
    # -- time
    "time with other assumptions": (
        lambda: system(Eq(D(x), sp.Symbol("t", positive=True) * x)),
        ["equation 1", "symbol t", "other assumptions"],
    ),
    "a parameter called like the time of results": (
        lambda: system(Eq(u(s).diff(s), -t * u(s))),
        ["equation 1", "'t'", "time coordinate"],
    ),
    "time among the parameters": (lambda: system(Eq(D(x), a * x), parameters=[a, t]), ["t is the time"]),
    "two independent variables": (
        lambda: system(Eq(D(x), -x), Eq(u(s).diff(s), x)),
        ["equation 2", "by s", "by t"],
    ),
    "functions of different times": (lambda: system(Eq(D(x), u(s)), Eq(D(y), 1)), ["equation 1", "u(s)", "time", "t"]),
    # -- parameters=
    "text for parameters": (lambda: system(Eq(D(x), a * x), parameters="a"), ["parameters", "'a'"]),
    "names for parameters": (lambda: system(Eq(D(x), a * x), parameters=["a"]), ["parameters", "'a'", "not a symbol"]),
    "a number for parameters": (lambda: system(Eq(D(x), a * x), parameters=3), ["parameters", "3"]),
    "a parameter twice": (lambda: system(Eq(D(x), a * x), parameters=[a, a]), ["parameters", "a is given twice"]),
    "a variable among the parameters": (
        lambda: system(Eq(D(x), a * x), parameters=[x]),
        ["parameters", "x(t)", "not a symbol"],
    ),
    "a Brownian motion among the parameters": (
        lambda: system(Eq(D(x), a * x + w), parameters=[a, w]),
        ["parameters", "w is a Brownian motion"],
    ),
    "a parameter that is declared imaginary": (
        lambda: system(Eq(D(x), sp.Symbol("q", imaginary=True) * x)),
        ["equation 1", "q", "real"],
    ),
    "a parameter that does not commute": (
        lambda: system(Eq(D(x), sp.Symbol("q", commutative=False) * x)),
        ["equation 1", "q"],
    ),
    # -- numbers in equations
    "an infinite constant": (lambda: system(Eq(D(x), sp.oo * x)), ["equation 1", "oo is not a finite number"]),
    "an infinite float": (lambda: system(Eq(D(x), math.inf)), ["equation 1", "oo"]),
    "a constant that is no number": (lambda: system(Eq(D(x), math.nan)), ["equation 1", "nan"]),
    "a division by zero": (lambda: system(Eq(D(x), x / sp.S(0))), ["equation 1", "zoo is not a finite number"]),
    "a number beyond every float": (
        lambda: system(Eq(D(x), 10**400 * x)),
        ["equation 1", "1000", "not a finite"],
    ),
    "an overflow while folding": (lambda: system(Eq(D(x), sp.exp(1000) * x)), ["equation 1", "exp(1000)"]),
    "the imaginary unit": (lambda: system(Eq(D(x), sp.I * x)), ["equation 1", "imaginary unit"]),
    "a complex constant": (lambda: system(Eq(D(x), (1 + 2j) * x)), ["equation 1", "imaginary unit"]),
    "a root that is not real": (lambda: system(Eq(D(x), sp.cbrt(-2) * x)), ["equation 1", "(-2)**(1/3)", "real"]),
    "an arcsine that is not real": (lambda: system(Eq(D(x), sp.asin(2) * x)), ["equation 1", "asin(2)", "real"]),
    # -- functions
    "an unknown function of a state": (lambda: system(Eq(D(x), f(x))), ["f(x(t))", "unknown f", "write it out"]),
    "a special function no engine has": (lambda: system(Eq(D(x), sp.zeta(x))), ["equation 1", "zeta is not a known"]),
    "a hypergeometric function": (lambda: system(Eq(D(x), sp.hyper([1], [2], x))), ["equation 1", "hyper"]),
    "a limit": (lambda: system(Eq(D(x), sp.Limit(x / X, X, 0))), ["equation 1", "Limit"]),
    "an order of magnitude": (lambda: system(Eq(D(x), x + sp.O(x))), ["equation 1", "Order"]),
    "an integral without closed form": (
        lambda: system(Eq(D(x), sp.Integral(x, t))),
        ["equation 1", "Integral(x(t), t)", "finite expression"],
    ),
    "a Piecewise without a default": (
        lambda: system(Eq(D(x), sp.Piecewise((1, x > 0)))),
        ["equation 1", "Piecewise", "(value, True)"],
    ),
    # -- derivatives
    "text to differentiate": (lambda: D("x"), ["D('x')"]),
    "code as text to differentiate": (lambda: D("__import__('os').getcwd()"), ["getcwd", "not an expression"]),
    "nothing to differentiate": (lambda: D(None), ["D(None)"]),
    "a list to differentiate": (lambda: D([x]), ["D([x(t)])"]),
    "a matrix symbol to differentiate": (lambda: D(sp.MatrixSymbol("A", 1, 1)), ["A", "not an expression"]),
    "an order of zero": (lambda: D(x, 0), ["D(x(t), 0)", "positive integer"]),
    "a broken order": (lambda: D(x, 1.5), ["1.5", "positive integer"]),
    "an order that is a symbol": (
        lambda: system(Eq(sp.Derivative(x, (t, sp.Symbol("n"))), x)),
        ["equation 1", "order", "number"],
    ),
    "an absurd order": (lambda: system(Eq(D(x, 100_000), x)), ["equation 1", "x(t)", "order 99"]),
    "the derivative of a parameter": (
        lambda: system(Eq(D(x), -a), Eq(D(a), x)),
        ["equation 2", "derivative of a parameter", "pysciml.variables('a')"],
    ),
    "a derivative by a parameter": (lambda: system(Eq(D(x), sp.Derivative(a * x, a))), ["equation 1", "by a"]),
    "a derivative by a state": (lambda: system(Eq(D(x), sp.Derivative(x**2, x))), ["equation 1", "by x(t)"]),
    "a partial differential equation": (
        lambda: system(Eq(D(u(t, X)), u(t, X).diff(X, 2))),
        ["equation 1", "u(t, X)", "2 variables", "PDESystem"],
    ),
    "a function of two variables": (lambda: system(Eq(D(x), u(t, X))), ["equation 1", "u(t, X)", "2 variables"]),
    # -- delays
    "an initial value in an equation": (
        lambda: system(Eq(D(x), x.subs(t, 0))),
        ["equation 1", "x(0)", "initial value", "u0"],
    ),
    "a value at a time that is a parameter": (lambda: system(Eq(D(x), x.subs(t, a))), ["equation 1", "x(a)", "u0"]),
    "a value from the future": (lambda: system(Eq(D(x), x.subs(t, t + 1))), ["equation 1", "x(t + 1)", "future"]),
    "a value from the future by a positive symbol": (
        lambda: system(Eq(D(x), x.subs(t, t + sp.Symbol("lead", positive=True)))),
        ["equation 1", "lead", "future"],
    ),
    "a derivative in the past": (
        lambda: system(Eq(D(x), D(x.subs(t, t - 1)))),
        ["equation 1", "x(t - 1)", "neutral"],
    ),
    "a derivative in the past, substituted": (
        lambda: system(Eq(D(x), D(x).subs(t, t - 1))),
        ["equation 1", "Subs", "delayed derivatives"],
    ),
    "an algebraic unknown in the past": (
        lambda: system(Eq(D(x), -y), Eq(y, y.subs(t, t - 1) + x)),
        ["y(t) is delayed", "algebraic"],
    ),
    # -- noise
    "noise squared": (lambda: system(Eq(D(x), w**2)), ["equation for x", "w", "linearly"]),
    "noise in a function": (lambda: system(Eq(D(x), sp.sin(w))), ["equation for x", "w", "linearly"]),
    "noise in a sign": (lambda: system(Eq(D(x), a * x), Eq(D(y), sp.sign(w))), ["equation for y", "w", "linearly"]),
    "noise in a condition": (
        lambda: system(Eq(D(x), sp.Piecewise((1, w > 0), (0, True)))),
        ["equation for x", "w", "linearly"],
    ),
    "noise rounded": (lambda: system(Eq(D(x), x + sp.Mod(w, 1))), ["equation for x", "w", "linearly"]),
    "noise in a denominator": (lambda: system(Eq(w * D(x), -x)), ["equation for x", "w", "linearly"]),
    "noise times noise": (lambda: system(Eq(D(x), w * ps.brownian("v"))), ["equation for x", "linearly"]),
    "noise in an observed quantity": (
        lambda: system(Eq(D(x), -x + w), observed={"o": x + w}),
        ["w", "observed quantity"],
    ),
    "noise in an event's condition": (
        lambda: system(Eq(D(x), -x + w), events=[Event(x - w, {x: 1})]),
        ["w", "event 1"],
    ),
    "noise in an event's value": (
        lambda: system(Eq(D(x), -x + w), events=[Event(x, {x: 2}), Event(x - 1, {x: w})]),
        ["w", "event 2"],
    ),
    # -- observed
    "an observed quantity called like a state": (lambda: observing(x=x**2), ["'x'", "the function x(t)"]),
    "an observed quantity called like the time": (lambda: observing(t=x**2), ["t", "observed"]),
    "an observed quantity that is a declared parameter": (
        lambda: system(Eq(D(x), a), parameters=[a], observed={a: x**2}),
        ["symbol a", "observed"],
    ),
    "an observed Brownian motion": (
        lambda: system(Eq(D(x), w), observed={w: x**2}),
        ["Brownian motion w", "observed"],
    ),
    "an observed name that is none": (lambda: observing(**{"x+1": x}), ["'x+1'", "observed"]),
    "an observed key that is no name": (lambda: system(Eq(D(x), 1), observed={1: x}), ["observed", "1"]),
    "an observed function of a state": (lambda: system(Eq(D(x), 1), observed={f(x): x}), ["f(x(t))", "function of t"]),
    "text for an observed quantity": (lambda: observing(o="x"), ["observed quantity o", "'x'"]),
    "a matrix for an observed quantity": (lambda: observing(o=sp.Matrix([x])), ["observed quantity o", "Matrix"]),
    "a condition for an observed quantity": (lambda: observing(o=x > 1), ["observed quantity o", "x(t) > 1"]),
    "an expression without a name": (lambda: system(Eq(D(x), 1), observed=[x]), ["observed", "x(t)"]),
    "a number for observed": (lambda: system(Eq(D(x), 1), observed=3), ["observed", "3"]),
    "an observed quantity twice": (
        lambda: system(Eq(D(x), 1), observed={"o": x, sp.Symbol("o"): x}),
        ["observed quantity o", "twice"],
    ),
    "observed quantities in a circle": (
        lambda: observing(o=sp.Symbol("q"), q=sp.Symbol("o")),
        ["observed quantities", "o, q"],
    ),
    "an observed unknown nobody determines": (lambda: observing(o=x + y), ["observed quantity o", "y appears in no"]),
    "an observed derivative of higher order": (lambda: observing(o=D(x, 2)), ["observed quantity o", "D(x, 2)"]),
    "the derivative of an observed quantity": (
        lambda: system(Eq(D(x), 1 + D(y)), observed={y: 2 * x}),
        ["equation 1", "observed quantity y(t)"],
    ),
    "an observed quantity in the past": (
        lambda: system(Eq(D(x), y.subs(t, t - 1)), observed={y: 2 * x}),
        ["equation 1", "y(t - 1)", "observed quantity"],
    ),
    # -- events
    "an event without an expression": (lambda: Event(None), ["Event", "at=", "neither"]),
    "an event at a number": (lambda: Event(3, {x: 1}), ["Event", "3"]),
    "an event at text": (lambda: Event("x - 1", {x: 1}), ["Event", "'x - 1'"]),
    "an event that does nothing": (lambda: Event(x - 1), ["Event", "nothing"]),
    "an event with a list": (lambda: Event(x - 1, [x]), ["Event", "[x(t)]"]),
    "an event that sets a name": (lambda: Event(x - 1, {"x": 1}), ["Event", "'x'"]),
    "an event that sets a parameter": (lambda: Event(x - 1, {a: 1}), ["Event", "a is not a state"]),
    "an event that sets text": (lambda: Event(x - 1, {x: "1"}), ["Event", "x(t)", "'1'"]),
    "an event that sets nothing": (lambda: Event(x - 1, {x: None}), ["Event", "x(t)", "None"]),
    "an event that sets a truth": (lambda: Event(x - 1, {x: True}), ["Event", "x(t)", "True"]),
    "an event that sets a complex number": (lambda: Event(x - 1, {x: 1j}), ["Event", "x(t)", "1j"]),
    "an event that sets an infinite value": (lambda: on_event(x - 1, {x: math.inf}), ["event 1", "oo"]),
    "an event in an unknown direction": (lambda: Event(x, {x: 1}, direction="sideways"), ["direction", "'sideways'"]),
    "an event that is somewhat terminal": (lambda: Event(x, terminal=1), ["terminal", "1"]),
    "an event on a quantity that is no state": (lambda: on_event(x - 1, {y: 1}), ["event 1 (x - 1)", "sets y", "(x)"]),
    "an event on a highest derivative": (lambda: on_event(x - 1, {D(x): 1}), ["event 1", "sets D(x)"]),
    "an event on an algebraic unknown": (
        lambda: system(Eq(D(x), y), Eq(y, x), events=[Event(x - 1, {y: 1})]),
        ["event 1", "sets y", "algebraic"],
    ),
    "an event with an unknown parameter": (
        lambda: system(Eq(D(x), -a * x), parameters=[a], events=[Event(x - k, {x: 1})]),
        ["event 1 (-k + x)", "undefined symbol k"],
    ),
    "an event with an unknown variable": (lambda: on_event(y - 1, {x: 1}), ["event 1 (y - 1)", "y(t)"]),
    "an event with a higher derivative": (lambda: on_event(D(x, 3), {x: 1}), ["event 1", "D(x, 3)"]),
    "an event in the past": (lambda: on_event(x.subs(t, t - 1), {x: 1}), ["event 1", "x(t - 1)"]),
    "an event that is none": (lambda: system(Eq(D(x), 1), events=[x - 1]), ["event 1", "x(t) - 1"]),
    "text for events": (lambda: system(Eq(D(x), 1), events="ab"), ["event 1", "'a'"]),
    "a number for events": (lambda: system(Eq(D(x), 1), events=3), ["events", "3"]),
    "a jump that is none": (lambda: system(Eq(D(x), 1), jumps=[1]), ["jump 1", "pysciml.Jump", "int"]),
    "a number for jumps": (lambda: system(Eq(D(x), 1), jumps=3), ["jumps", "3"]),
    # -- words
    "text for a side": (lambda: Eq(D(x), "-x"), ["right side", "'-x'"]),
    "nothing for a side": (lambda: Eq(None, x), ["left side", "None"]),
    "an array for a side": (lambda: Eq(D(x), np.ones(2)), ["right side", "ndarray"]),
    "a truth for a side": (lambda: Eq(D(x), True), ["right side", "True"]),
    "a condition for a side": (lambda: Eq(D(x), x > 1), ["right side", "x(t) > 1"]),
    "a matrix symbol for a side": (lambda: Eq(D(x), sp.MatrixSymbol("A", 1, 1)), ["right side", "A"]),
    "a function that is not applied": (lambda: Eq(u, 1), ["left side", "u"]),
    "a number for names": (lambda: ps.variables(3), ["variables", "3"]),
    "a list of names": (lambda: ps.parameters(["a"]), ["parameters", "['a']"]),
    "no names": (lambda: ps.variables(""), ["variables('')", "no symbols"]),
    "a range without an end": (lambda: ps.brownian("w:a b:"), ["brownian", "end"]),
    "units that are no text": (lambda: ps.variables("x", units=3), ["units", "3"]),
    "a long name that is no text": (lambda: ps.parameters("a", long_name=["a"]), ["long_name", "['a']"]),
    "something else than a path": (lambda: ps.load(3), ["model file", "3"]),
}

UNSUPPORTED_MODELS = {
    "delays with noise": (lambda: system(Eq(D(x), x.subs(t, t - 1) + w)), ["'model'", "delays", "Brownian"]),
    "delays with algebraic equations": (
        lambda: system(Eq(D(x), -y), Eq(y, x.subs(t, t - 1))),
        ["'model'", "delays", "algebraic"],
    ),
    "noise with algebraic equations": (
        lambda: system(Eq(D(x), -y + w), Eq(y, x)),
        ["Brownian", "equation 2, y = x"],
    ),
}


def make(system=pair, u0=None, tspan=(0, 1), p=None):
    return Problem(system, {x: 1, y: 1} if u0 is None else u0, tspan, {a: 1, b: 1} if p is None else p)


NUMBERS = {
    "not a number": (math.nan, "nan"),
    "infinite": (math.inf, "inf"),
    "beyond every float": (10**400, "finite"),
    "complex": (1j, "complex"),
    "complex without imaginary part": (1 + 0j, "complex"),
    "text": ("1.0", "'1.0'"),
    "bytes": (b"1", "b'1'"),
    "nothing": (None, "None"),
    "a truth": (True, "True"),
    "NumPy's truth": (np.True_, "True"),
    "an array": (np.ones(3), "(3,)"),
    "an array of one": (np.ones(1), "(1,)"),
    "a list": ([1.0], "list"),
    "a labelled array": (xr.DataArray([1.0, 2.0]), "DataArray"),
    "a symbol": (a, "expression a"),
    "an expression": (x + 1, "x(t) + 1"),
    "SymPy's infinity": (sp.oo, "oo"),
    "SymPy's nan": (sp.nan, "nan"),
    "SymPy's complex infinity": (sp.zoo, "zoo"),
    "the imaginary unit": (sp.I, "complex"),
    "a duration": (dt.timedelta(1), "timedelta"),
    "NumPy's duration": (np.timedelta64(1, "s"), "timedelta"),
    "a mapping": ({}, "{}"),
    "a function": (math.sin, "sin"),
    "a matrix": (sp.Matrix([1]), "Matrix"),
    "an object": (object(), "object"),
}

PROBLEMS = {
    "a system that is none": (lambda: Problem([Eq(D(x), x)], {x: 1}, (0, 1)), ["System", "list"], None),
    "a missing initial value": (lambda: make(u0={x: 1}), ["u0", "y"], "y"),
    "a missing initial derivative": (lambda: Problem(spring, {x: 1}, (0, 1)), ["u0", "x_t"], "x_t"),
    "an initial value of no state": (lambda: make(u0={x: 1, y: 1, z: 1}), ["u0", "z(t)", "(x, y)"], "z(t)"),
    "an initial value of a misspelt state": (
        lambda: make(u0={"x": 1, "y": 1, "yy": 1}),
        ["yy", "did you mean y"],
        "yy",
    ),
    "an initial value of a parameter": (lambda: make(u0={x: 1, y: 1, a: 1}), ["u0", "a", "not a state"], "a"),
    "an initial value of a derivative": (lambda: make(u0={x: 1, y: 1, D(x): 0}), ["Derivative(x(t), t)"], None),
    "an initial value of a derivative by something else": (
        lambda: Problem(spring, {x: 1, sp.Derivative(x, X): 0}, (0, 1)),
        ["Derivative(x(t), X)"],
        None,
    ),
    "an initial value for the symbol of the name": (
        lambda: make(u0={sp.Symbol("x"): 1, y: 1}),
        ["x", "only shares its name", "'x'"],
        "x",
    ),
    "an initial value twice": (lambda: make(u0={x: 1, "x": 2, y: 1}), ["u0", "x twice", "'x'"], "x"),
    "initial values without names": (lambda: make(u0=[1, 2]), ["u0", "[1, 2]"], "u0"),
    "no initial values": (lambda: Problem(decay, None, (0, 1)), ["u0", "None"], "u0"),
    "a free parameter": (lambda: make(p={a: 1}), ["p has no value for b"], "b"),
    "no parameters": (lambda: Problem(pair, {x: 1, y: 1}, (0, 1)), ["p has no value for a, b"], "a"),
    "a value of no parameter": (lambda: make(p={a: 1, b: 1, k: 1}), ["p", "k", "(a, b)"], "k"),
    "a value of a state among the parameters": (lambda: make(p={a: 1, b: 1, x: 1}), ["x(t) is a state", "u0"], "x(t)"),
    "a parameter with other assumptions": (
        lambda: make(p={sp.Symbol("a", positive=True): 1, b: 1}),
        ["a", "only shares its name"],
        "a",
    ),
    "a parameter of a system that has none": (
        lambda: Problem(spring, {x: 1, D(x): 0}, (0, 1), {a: 1}),
        ["a", "no parameters"],
        "a",
    ),
    "parameters without names": (lambda: make(p=[1, 2]), ["p maps", "[1, 2]"], "p"),
    "a time span of no length": (lambda: make(tspan=(1, 1)), ["tspan", "zero length", "1"], "tspan"),
    "a time span of no length in floats": (lambda: make(tspan=(1e16, 1e16 + 1)), ["tspan", "zero length"], "tspan"),
    "a time span of one number": (lambda: make(tspan=10), ["tspan", "10"], "tspan"),
    "a time span of one end": (lambda: make(tspan=(0,)), ["tspan", "(0,)"], "tspan"),
    "a time span of three": (lambda: make(tspan=(0, 1, 2)), ["tspan", "(0, 1, 2)"], "tspan"),
    "a time span of text": (lambda: make(tspan="01"), ["tspan", "'01'"], "tspan"),
    "a time span without order": (lambda: make(tspan={0, 1}), ["tspan", "{0, 1}"], "tspan"),
    "a time span of a mapping": (lambda: make(tspan={0: 1, 1: 2}), ["tspan"], "tspan"),
    "no time span": (lambda: make(tspan=None), ["tspan", "None"], "tspan"),
    "a time span without end": (lambda: make(tspan=iter(int, 1)), ["tspan"], "tspan"),
    "remade with an unknown parameter": (lambda: problem.remake(p={"rate": 1}), ["p", "rate", "(a)"], "rate"),
    "remade with an unknown state": (lambda: problem.remake(u0={"rate": 1}), ["u0", "rate", "(x)"], "rate"),
    "remade with a number that is none": (lambda: problem.remake(p={a: math.nan}), ["p", "a", "nan"], "a"),
    "remade without length": (lambda: problem.remake(tspan=(2, 2)), ["tspan"], "tspan"),
}

OPTIONS = {
    "a negative rtol": ({"rtol": -1e-3}, ["rtol", "-0.001"], "rtol"),
    "an rtol of one": ({"rtol": 1}, ["rtol", "between 0 and 1"], "rtol"),
    "a negative atol": ({"atol": -1}, ["atol", "-1"], "atol"),
    "no tolerance at all": ({"rtol": 0, "atol": 0}, ["rtol", "atol"], "rtol"),
    "a step of zero": ({"dt": 0}, ["dt", "positive"], "dt"),
    "a negative step": ({"dt": -0.1}, ["dt", "-0.1"], "dt"),
    "a step longer than the time span": ({"dt": 2}, ["dt", "2", "tspan"], "dt"),
    "no steps": ({"max_steps": 0}, ["max_steps", "0"], "max_steps"),
    "steps that are no integer": ({"max_steps": 1e6}, ["max_steps", "1000000.0"], "max_steps"),
    "steps that are a truth": ({"max_steps": True}, ["max_steps", "True"], "max_steps"),
    "more steps than can be counted": ({"max_steps": 2**63}, ["max_steps", "2**63"], "max_steps"),
    "a negative seed": ({"seed": -1}, ["seed", "-1"], "seed"),
    "a seed that is no integer": ({"seed": 0.5}, ["seed", "0.5"], "seed"),
    "a seed that is a generator": ({"seed": np.random.default_rng(0)}, ["seed", "Generator"], "seed"),
    "progress that is no truth": ({"progress": "yes"}, ["progress", "'yes'"], "progress"),
    "a spacing of zero": ({"saveat": 0}, ["saveat", "positive"], "saveat"),
    "a negative spacing": ({"saveat": -0.1}, ["saveat", "-0.1"], "saveat"),
    "a spacing beyond memory": ({"saveat": 1e-12}, ["saveat", "1e+12 output times"], "saveat"),
    "no output times": ({"saveat": []}, ["saveat", "[]"], "saveat"),
    "output times in a plane": ({"saveat": [[0, 1]]}, ["saveat", "one-dimensional"], "saveat"),
    "ragged output times": ({"saveat": [[0], [1, 2]]}, ["saveat", "[[0], [1, 2]]"], "saveat"),
    "output times outside": ({"saveat": [0, 2]}, ["saveat has 2", "(0 to 1)"], "saveat"),
    "output times before the start": ({"saveat": [-1, 0]}, ["saveat has -1"], "saveat"),
    "output times backward": ({"saveat": [1, 0.5]}, ["saveat", "from the start"], "saveat"),
    "repeated output times": ({"saveat": [0, 0, 1]}, ["saveat", "repeated"], "saveat"),
    "output times that are no numbers": ({"saveat": [0, math.nan]}, ["saveat", "finite"], "saveat"),
    "output times of text": ({"saveat": ["0.5"]}, ["saveat", "'0.5'"], "saveat"),
    "output times of truths": ({"saveat": [False, True]}, ["saveat", "True"], "saveat"),
    "complex output times": ({"saveat": np.array([0j, 1j])}, ["saveat", "shape (2,)"], "saveat"),
    "output times of symbols": ({"saveat": [a]}, ["saveat", "a"], "saveat"),
    "output times of durations": ({"saveat": np.array([0, 1], "m8[s]")}, ["saveat"], "saveat"),
    "output times of nothing": ({"saveat": [None]}, ["saveat", "None"], "saveat"),
    "an algorithm that is a class": ({"alg": FakeEngine}, ["alg", "FakeEngine"], "alg"),
    "an engine that is none": ({"engine": None}, ["engine", "None"], "engine"),
}


def check(call, error, fragments):
    with pytest.raises(error) as caught:
        call()
    assert type(caught.value) is error
    message = str(caught.value)
    missing = [fragment for fragment in fragments if fragment not in message]
    assert not missing, f"{missing} not in: {message}"
    assert len(message) < 600
    return caught.value


@pytest.fixture(autouse=True)
def engine(monkeypatch):
    """The only engine there is; nothing may reach it."""
    fake = FakeEngine()
    with only(monkeypatch, fake):
        yield fake
        assert fake.calls == []


@pytest.mark.parametrize("case", MODELS)
def test_a_model_that_is_wrong(case):
    call, fragments = MODELS[case]
    error = check(call, ModelError, fragments)
    if "equation 1" in str(error) or "equation 2," in str(error):
        assert error.equation


@pytest.mark.parametrize("case", UNSUPPORTED_MODELS)
def test_a_model_nothing_solves(case):
    call, fragments = UNSUPPORTED_MODELS[case]
    check(call, UnsupportedError, fragments)


@pytest.mark.parametrize("case", PROBLEMS)
def test_a_problem_that_is_wrong(case):
    call, fragments, symbol = PROBLEMS[case]
    error = check(call, ProblemError, fragments)
    assert symbol is None or error.symbol == symbol


@pytest.mark.parametrize(
    ("place", "case"),
    [
        (place, case)
        for place in ("u0", "p", "tspan", "rtol", "atol", "dt")
        for case in NUMBERS
        if (place, case) not in (("dt", "nothing"), ("atol", "a mapping"))  # the engine chooses; it is one of states
    ],
)
def test_a_number_that_is_none(place, case):
    value, fragment = NUMBERS[case]
    calls = {
        "u0": lambda: make(u0={x: value, y: 1}),
        "p": lambda: make(p={a: value, b: 1}),
        "tspan": lambda: make(tspan=(0, value)),
    }
    call = calls.get(place, lambda: ps.solve(problem, **{place: value}))
    error = check(call, ProblemError, [fragment, place])
    assert error.symbol == {"u0": "x", "p": "a"}.get(place, place)


@pytest.mark.parametrize("case", OPTIONS)
def test_an_option_that_is_wrong(case):
    options, fragments, symbol = OPTIONS[case]
    error = check(lambda: ps.solve(problem, **options), ProblemError, fragments)
    assert error.symbol == symbol


@pytest.mark.parametrize("given", [None, decay, "decay", {"x": 1}])
def test_solve_takes_a_problem(given):
    check(lambda: ps.solve(given), ProblemError, ["Problem", type(given).__name__])


def test_an_unknown_algorithm_names_those_there_are(engine):
    error = check(
        lambda: ps.solve(problem, "Tsit6", engine="fake"),
        UnsupportedError,
        ["fake engine", "'Tsit6'", "RK4, Fake", "no registered engine has it"],
    )
    assert (error.engine, error.algorithm) == ("fake", "Tsit6")


def test_a_misspelt_algorithm_or_engine_is_guessed(engine):
    check(lambda: ps.solve(problem, "rk4", engine="fake"), UnsupportedError, ["did you mean 'RK4'?"])
    check(lambda: ps.solve(problem, engine="Fake"), UnsupportedError, ["no engine 'Fake'", "did you mean 'fake'?"])


def test_an_engine_that_would_solve_it_is_named_with_what_it_needs(monkeypatch):
    julia = FakeEngine("julia")
    julia.kinds, julia.reason = ("dde",), "Julia is not set up: run `pysciml julia setup`"
    delayed = System([Eq(D(x), -x.subs(ps.t, ps.t - 1))])
    with only(monkeypatch, FakeEngine(), julia):
        check(
            lambda: ps.solve(Problem(delayed, {x: 1}, (0, 1))),
            UnsupportedError,
            ["fake: the fake engine solves no dde", "julia: solves it, but is not ready", "pysciml julia setup"],
        )


def test_an_unknown_algorithm_names_the_engines_that_have_it(monkeypatch):
    class Other(FakeEngine):
        def algorithms(self):
            return {"Tsit6": "one more"}

    other = Other("other")
    with only(monkeypatch, FakeEngine(), other):
        check(
            lambda: ps.solve(problem, "Tsit6", engine="fake"),
            UnsupportedError,
            ["'Tsit6'", "Tsit6 is available with engine='other'"],
        )
        assert other.calls == []


def test_an_unknown_algorithm_is_explained_for_every_engine():
    check(lambda: ps.solve(problem, "Tsit6"), UnsupportedError, ["'decay'", "Tsit6", "fake: ", "RK4"])


def test_an_unknown_engine_names_those_there_are():
    error = check(lambda: ps.solve(problem, engine="fakee"), UnsupportedError, ["'fakee'", "'auto'", "'fake'"])
    assert error.engine == "fakee"


def test_a_kind_no_engine_solves_is_explained_for_every_engine():
    dae = Problem(circuit, {x: 1}, (0, 1))
    check(lambda: ps.solve(dae), UnsupportedError, ["'model'", "dae", "fake: the fake engine solves no dae"])


def test_an_engine_that_is_not_there_says_how_to_get_it(engine):
    engine.reason = "pip install fake"
    with pytest.raises(ps.EngineUnavailableError, match="pip install fake") as caught:
        ps.solve(problem, engine="fake")
    assert caught.value.engine == "fake"
    check(lambda: ps.solve(problem), UnsupportedError, ["fake: pip install fake"])


def test_an_engine_from_the_environment_must_exist(monkeypatch):
    monkeypatch.setenv("PYSCIML_ENGINE", "nonsense")
    check(lambda: ps.solve(problem), UnsupportedError, ["'nonsense'", "'fake'"])


def test_every_error_is_one_of_ours():
    for error in (ModelError, ProblemError, UnsupportedError, ps.EngineUnavailableError, ps.SolverError):
        assert issubclass(error, ps.PySciMLError)
    assert not issubclass(ps.PySciMLError, ValueError)


def test_problems_cannot_be_changed_in_place():
    with pytest.raises(ValueError, match="read-only"):
        problem.u0[0] = 2.0
    with pytest.raises(ValueError, match="read-only"):
        problem.p[0] = 2.0


def test_a_long_equation_is_cut_in_messages():
    long = sum(ps.parameters(f"rate_{i}") * x for i in range(200))
    error = check(lambda: system(Eq(D(x), long + sp.I)), ModelError, ["equation 1, D(x) = ", "...", "imaginary unit"])
    assert len(str(error)) < 300


# -- model files: each entry damages one thing, with a hash that fits the damage where it can


def saved(tmp_path):
    model = System(
        [Eq(D(x, 2), -k * x - a * D(x)), Eq(D(y), x)],
        observed={"energy": x**2},
        events=[Event(x, {D(x): -a}, direction="down")],
        name="spring",
    )
    path = tmp_path / "model.json"
    model.save(path)
    return path, json.loads(path.read_text(encoding="utf-8"))


def put(*keys):
    """A function that puts a value at a place of the document."""

    def change(document, value):
        inner = document
        for key in keys[:-1]:
            inner = inner[key]
        inner[keys[-1]] = value

    return change


def drop(key):
    return lambda document, value: document.pop(key)


FILES = {
    **{f"without {key}": (drop(key), None, [key, "missing"]) for key in (
        "format", "version", "name", "kind", "time", "states", "parameters", "observed", "attrs", "differential",
        "events", "noise", "noise_type", "diffusion_rows", "diffusion_cols", "graph", "hash",
    )},
    "another format": (put("format"), "other", ["format"]),
    "a newer version": (put("version"), 2, ["version is 2"]),
    "a version that is a truth": (put("version"), True, ["version", "type"]),
    "a kind that is none": (put("kind"), "pde", ["kind", "'pde'"]),
    "a kind that is code": (put("kind"), "__import__('os')", ["kind"]),
    "a name that is a number": (put("name"), 3, ["name", "type"]),
    "a time that is no name": (put("time"), "t;", ["'t;'"]),
    "a parameter that is code": (put("parameters", 0), "__import__('os').system('true')", ["__import__", "name"]),
    "a parameter that is a range": (put("parameters", 0), "a:3", ["'a:3'", "name"]),
    "a parameter that is a number": (put("parameters", 0), 1, ["1", "name"]),
    "a parameter called like a state": (put("parameters", 0), "y", ["equal"]),
    "a parameter called like the time": (put("parameters", 0), "t", ["'t'"]),
    "a parameter too many": (put("parameters"), ["k", "a", "b"], ["hash"]),
    "a parameter too few": (put("parameters"), ["k"], ["index"]),
    "an endless name": (put("parameters", 0), "k" * 10_000, ["name"]),
    "states that are no objects": (put("states", 0), "x", ["states[0]"]),
    "a state of a wrong order": (put("states", 0, "order"), 5, ["x", "derivative 5"]),
    "a state of a negative order": (put("states", 0, "order"), -1, ["derivative -1"]),
    "no states": (put("states"), [], ["no states"]),
    "a state less": (lambda document, value: document["states"].pop(), None, []),
    "a state called like the ensemble's dimension": (
        put("states", 2), {"name": "trajectory", "function": "trajectory", "order": 0}, ["'trajectory'"],
    ),
    "differential of another length": (put("differential"), [True], ["differential"]),
    "differential of numbers": (put("differential"), [1, 1, 1], ["differential"]),
    "differential in another order": (put("differential"), [False, True, True], ["differential"]),
    "attributes that are code": (put("attrs"), {"x": {"__class__": "y"}}, ["attrs"]),
    "attributes that are numbers": (put("attrs"), {"x": {"units": 3}}, ["attrs"]),
    "attributes that are a list": (put("attrs"), [], ["attrs", "type"]),
    "an event in no direction": (put("events", 0, "direction"), "left", ["events[0]", "'left'"]),
    "an event on no state": (put("events", 0, "targets"), [7], ["targets", "below 3"]),
    "an event on a broken state": (put("events", 0, "targets"), [0.5], ["targets"]),
    "an event on more states than values": (put("events", 0, "targets"), [0, 1], ["outputs"]),
    "an event more": (lambda document, value: document["events"].append(document["events"][0]), None, ["outputs"]),
    "a noise from nowhere": (put("noise"), ["w"], ["diffusion"]),
    "a noise type that is none": (put("noise_type"), "pink", ["'pink'"]),
    "diffusion at no row": (put("diffusion_rows"), [9], ["diffusion_rows"]),
    "diffusion without columns": (put("diffusion_rows"), [0], ["outputs"]),
    "a graph that is a list": (put("graph"), [], ["graph", "type"]),
    "an unknown operation": (put("graph", "op", 0), 250, ["node 0", "250"]),
    "a placeholder operation": (put("graph", "op", 0), 4, ["node 0", "code 4"]),
    "an operation that is text": (put("graph", "op", 0), "add", ["op"]),
    "an operation that is huge": (put("graph", "op", 0), 10**30, ["op"]),
    "an operation less": (lambda document, value: document["graph"]["op"].pop(), None, ["nodes"]),
    "an operand from the future": (lambda document, value: damage_operand(document, 10**6), None, ["operands"]),
    "an operand that is the node itself": (lambda document, value: damage_operand(document, None), None, ["operands"]),
    "an operand that is negative": (lambda document, value: damage_operand(document, -1), None, ["operands"]),
    "an operand below every integer": (lambda document, value: damage_operand(document, -(2**40)), None, ["args"]),
    "ragged operands": (put("graph", "args", 0), [0], ["args", "inhomogeneous"]),
    "a constant that is no number": (put("graph", "const", 0), math.nan, ["const"]),
    "a constant that is infinite": (put("graph", "const", 0), -math.inf, ["const"]),
    "a constant that is nothing": (put("graph", "const", 0), None, ["const"]),
    "a constant that is an object": (put("graph", "const", 0), {}, ["graph"]),
    "a constant beyond every float": (put("graph", "const", 0), 10**400, ["graph"]),
    "a constant where none belongs": (lambda document, value: document["graph"]["const"].__setitem__(
        next(i for i, code in enumerate(document["graph"]["op"]) if code != 0), 1.0), None, ["const"]),
    "a state's number out of range": (lambda document, value: damage_index(document, 99), None, ["index"]),
    "outputs that are a list": (put("graph", "outputs"), [], ["outputs", "type"]),
    "an output at no node": (put("graph", "outputs", "rhs"), [0, 1, 10**6], ["'rhs'"]),
    "an output that is negative": (put("graph", "outputs", "rhs"), [0, 1, -1], ["'rhs'"]),
    "an output of broken numbers": (put("graph", "outputs", "rhs"), [0.5], ["'rhs'"]),
    "an output less": (lambda document, value: document["graph"]["outputs"].pop("observed"), None, ["outputs"]),
    "an output more": (put("graph", "outputs", "secret"), [0], ["outputs"]),
    "equations changed under the same hash": (
        lambda document, value: document["graph"]["outputs"]["rhs"].reverse(), None, ["hash"],
    ),
    "another hash": (put("hash"), "0" * 32, ["hash"]),
}  # fmt: skip


def damage_operand(document, operand):
    graph = document["graph"]
    node = next(i for i, row in enumerate(graph["args"]) if row[0] >= 0)
    graph["args"][node][0] = node if operand is None else operand


def damage_index(document, value):
    graph = document["graph"]
    graph["index"][next(i for i, index in enumerate(graph["index"]) if index >= 0)] = value


@pytest.mark.parametrize("case", FILES)
def test_a_damaged_model_file(case, tmp_path):
    path, document = saved(tmp_path)
    change, value, fragments = FILES[case]
    change(document, value)
    path.write_text(json.dumps(document), encoding="utf-8")
    check(lambda: ps.load(path), ModelError, ["model.json", *fragments])


def test_a_model_file_cut_anywhere(tmp_path):
    path, _ = saved(tmp_path)
    content = path.read_bytes().rstrip()
    for length in [0, 1, *range(7, len(content), 101), len(content) - 1]:
        path.write_bytes(content[:length])
        check(lambda: ps.load(path), ModelError, ["model.json"])


@pytest.mark.parametrize(
    "content",
    [b"", b"null", b"[]", b"3", b'"model"', b"{}", b"\xff\xfe\x00", b"[" * 100_000, b'{"format": "pysciml-model"}',
     b"cos\nsystem\n(S'true'\ntR.", b"__import__('os').system('true')", b"\x80\x04\x95"],
)  # fmt: skip
def test_a_file_that_is_no_model(content, tmp_path):
    path = tmp_path / "model.json"
    path.write_bytes(content)
    check(lambda: ps.load(path), ModelError, ["model.json"])


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"absent\.json"):
        ps.load(tmp_path / "absent.json")
