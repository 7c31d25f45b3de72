"""Files of partial differential equations: what was saved is loaded; what is hostile is refused as a model error."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sympy as sp

import pysciml as ps
from pysciml.errors import ModelError
from pysciml.pde import DiscreteSystem
from pysciml.symbolic.expressions import HEADS, Reader, Writer

D, t = ps.D, ps.t
X, Y = ps.coordinates("X Y", units="m")
x = ps.coordinates("x")
u, v = ps.fields("u v", X, Y)
T = ps.fields("T", x, units="K", long_name="Temperatur")
w = ps.fields("w", x)
k, a = ps.parameters("k a")
c = sp.Symbol("c", positive=True)

SYSTEMS: dict[str, ps.PDESystem] = {
    "two fields": ps.PDESystem(
        [
            ps.Eq(D(u), k * ps.laplacian(u) - u * v**2 + sp.Rational(1, 3)),
            ps.Eq(D(v), D((1 + u**2) * D(v, X), X) + sp.Derivative(v, X, Y) + 2 * (u + v)),
        ],
        {X: (0, 1), Y: (-1, 2.5)},
        {X: ps.Periodic(), Y: {u: ps.Dirichlet(lower=sp.sin(X * t), upper=a), v: ps.Robin(1, k, 0)}},
        {u: sp.exp(-(X**2)), v: sp.Piecewise((1, sp.And(X < 0.5, Y > 0)), (0, True))},
        observed={"mass": ps.integral(u), "doubled": 2 * sp.Symbol("mass")},
        name="zwei Felder",
    ),
    "a wave": ps.PDESystem([ps.Eq(D(w, 2), c**2 * D(w, x, 2))], {x: (0, sp.pi)}, {x: ps.Neumann(0)}, {w: 0, D(w): x}),
    "with units": ps.PDESystem(
        [ps.Eq(D(T), ps.laplacian(T, geometry="polar"))],
        {x: (0, 1)},
        {x: [ps.Neumann(lower=0), ps.Dirichlet(upper=293)]},
    ),
    "steady": ps.PDESystem([ps.Eq(0, D(w, x, 2) + sp.Max(w, 0) - sp.E)], {x: (0, 1)}, {x: ps.Dirichlet(0)}),
}  # fmt: skip


@pytest.fixture(params=SYSTEMS)
def system(request: pytest.FixtureRequest) -> ps.PDESystem:
    return SYSTEMS[request.param]


def through_a_file(what: Any, folder: Path) -> Any:
    what.save(folder / "model.json")
    return ps.load(folder / "model.json")


def test_what_is_loaded_is_what_was_saved(system: ps.PDESystem, tmp_path: Path) -> None:
    loaded = through_a_file(system, tmp_path)
    for name in ("name", "equations", "domain", "initial", "parameters", "observed", "attrs", "steady", "states"):
        assert getattr(loaded, name) == getattr(system, name), name
    assert list(loaded.boundary) == list(system.boundary)
    for found, wanted in zip(loaded.boundary.values(), system.boundary.values(), strict=True):
        sides = [[(s.a, s.b, s.value, s.order) for end in sides or () for s in end] for sides in (found, wanted)]
        assert sides[0] == sides[1]


def test_the_grid_is_the_same_to_the_last_bit(system: ps.PDESystem, tmp_path: Path) -> None:
    points: dict[Any, Any] = dict.fromkeys(system.coordinates, 12)
    low, high = system.domain[system.coordinates[0]]
    for first in (12, low + (high - low) * np.linspace(0, 1, 17) ** 2):
        grid = system.discretize({**points, system.coordinates[0]: first}, order=2)
        loaded = through_a_file(grid, tmp_path)
        assert isinstance(loaded, DiscreteSystem)
        assert loaded.model.hash == grid.model.hash
        assert loaded.coords.keys() == grid.coords.keys()


def test_a_loaded_grid_is_solved_like_the_original(tmp_path: Path) -> None:
    grid = SYSTEMS["two fields"].discretize({X: 8, Y: 8}, order=4)
    numbers: dict[str, Any] = {"tspan": (0, 0.01), "p": {"k": 0.1, "a": 0.3}, "u0": {"u": 1.0, "v": 0.5}}
    first, second = (
        ps.solve(one.problem(**numbers), engine="native", saveat=[0.01])
        for one in (grid, through_a_file(grid, tmp_path))
    )
    assert first.drop_attrs(deep=False).identical(second.drop_attrs(deep=False))


def test_saving_twice_gives_the_same_file(system: ps.PDESystem, tmp_path: Path) -> None:
    system.save(tmp_path / "one.json")
    loaded: Any = ps.load(tmp_path / "one.json")
    loaded.save(tmp_path / "two.json")
    assert (tmp_path / "one.json").read_bytes() == (tmp_path / "two.json").read_bytes()


def test_every_function_the_graph_knows_survives() -> None:
    numbers = {"ITE": (x > 0, x > 1, x < 2), "And": (x > 0, x < 1), "Or": (x > 0, x < 1), "Xor": (x > 0, x < 1)}
    numbers |= {"Not": (sp.And(x > 0, x < 1),)}
    write = Writer()
    made: dict[int, Any] = {}
    for name, head in HEADS.items():
        if name == "Piecewise":
            expr: Any = sp.Piecewise((x, x > 0), (-x, True))
        else:
            arity = {"Heaviside": 1, "log": 1}.get(name, 2 if "Than" in name or "quality" in name else None)
            expr = next(e for e in _tries(head, numbers.get(name), arity) if e.func is head)
        made[write(expr)] = expr
    read = Reader(json.loads(json.dumps(write.nodes)))
    assert {number: read(number) for number in made} == made


def _tries(head: Any, given: Any, arity: int | None) -> Any:
    for args in [given] if given else [(x,), (x, a), (x, a, k)][(arity or 1) - 1 :]:
        try:
            yield head(*args, evaluate=False) if head is not sp.UnevaluatedExpr else head(*args)
        except (TypeError, ValueError):
            continue


def test_what_has_no_place_in_a_file_is_named(tmp_path: Path) -> None:
    odd = ps.PDESystem([ps.Eq(D(w), sp.LambertW(w))], {x: (0, 1)}, {x: ps.Periodic()})
    with pytest.raises(ps.UnsupportedError, match="LambertW"):
        odd.save(tmp_path / "odd.json")
    assert list(tmp_path.iterdir()) == []


def signed(document: dict[str, Any]) -> str:
    """A file with a digest that fits, as whoever writes one on purpose can make it."""
    document.pop("digest", None)
    text = json.dumps(document, ensure_ascii=True, sort_keys=True)
    return json.dumps(document | {"digest": hashlib.blake2b(text.encode(), digest_size=16).hexdigest()})


def tower(base: int, height: int) -> list[Any]:
    return [["integer", base], *(["call", "Pow", [n, 0]] for n in range(height))]


def doubling(depth: int) -> list[Any]:
    return [["symbol", "q", {}], *(["call", "Mul", [n, n]] for n in range(depth))]


HOSTILE: dict[str, Any] = {
    "a call": lambda d: d["nodes"].append(["call", "__import__", [0]]),
    "text": lambda d: d["nodes"].append("__import__('os').system('true')"),
    "a name that is code": lambda d: d["nodes"].append(["symbol", "q;import os", {}]),
    "properties": lambda d: d["nodes"].append(["symbol", "q", {"evaluate": True}]),
    "contradictions": lambda d: d["nodes"].append(["symbol", "q", {"positive": True, "negative": True}]),
    "a later node": lambda d: d["nodes"].append(["call", "Add", [10**6]]),
    "itself": lambda d: d["nodes"].append(["call", "Add", [len(d["nodes"])]]),
    "a tower of powers": lambda d: d.update(nodes=tower(9, 40)),
    "an expression that doubles": lambda d: d.update(nodes=doubling(64)),
    "a long number": lambda d: d["nodes"].extend([["integer", 10**900], ["call", "factorial", [len(d["nodes"])]]]),
    "a derivative for ever": lambda d: d["nodes"].append(["derivative", 0, [[0, 10**9]]]),
    "a condition for a value": lambda d: d["nodes"].append(["truth", True])
    or d["equations"].__setitem__(0, [0, len(d["nodes"]) - 1]),
    "no equations": lambda d: d.update(equations=[]),
    "an endless domain": lambda d: d["domain"][0].__setitem__(2, float("inf")),
    "a domain of text": lambda d: d["domain"][0].__setitem__(2, "1"),
    "a grid of a million cells on a million": lambda d: d["grid"].update(cells=[10**6, 10**6]),
    "an endless grid": lambda d: d["grid"].update(cells=[10**12, 8]),
    "edges of text": lambda d: d["grid"].update(cells=[["a", "b"], 8]),
    "a scheme": lambda d: d["grid"].update(scheme="rm -rf"),
    "a version": lambda d: d.update(version=99),
    "a boundary": lambda d: d["boundary"][2].__setitem__(2, [[0, 0], [0, 0]]),
    "nodes of nothing": lambda d: d.update(nodes={}),
    "a missing part": lambda d: d.pop("domain"),
}  # fmt: skip


@pytest.mark.parametrize("change", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_hostile_file_is_refused_and_nothing_else_happens(change: Any, tmp_path: Path) -> None:
    path = tmp_path / "model.json"
    SYSTEMS["two fields"].discretize({X: 8, Y: 8}).save(path)
    document = json.loads(path.read_text(encoding="utf-8"))
    change(document)
    path.write_text(signed(document), encoding="utf-8")
    with pytest.raises(ModelError, match=r"model\.json is not a valid model file"):
        ps.load(path)


def test_a_truncated_or_changed_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.json"
    SYSTEMS["a wave"].save(path)
    whole = path.read_text(encoding="utf-8")
    for cut in range(0, len(whole) - 2, 97):
        path.write_text(whole[:cut], encoding="utf-8")
        with pytest.raises(ModelError):
            ps.load(path)
    path.write_text(whole.replace('"integer", 2', '"integer", 3'), encoding="utf-8")
    with pytest.raises(ModelError, match="changed or damaged"):
        ps.load(path)
    path.write_text(json.dumps({"format": "pysciml-pde", "version": 1})[:-1] + ', "n": ' + "9" * 5000 + "}")
    with pytest.raises(ModelError):
        ps.load(path)


def test_the_command_line_solves_a_grid(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from pysciml.cli import main

    heat = ps.PDESystem([ps.Eq(D(w), k * D(w, x, 2))], {x: (0, 1)}, {x: ps.Neumann(0)}, {w: x}, name="bar")
    heat.save(tmp_path / "equations.json")
    heat.discretize({x: 16}).save(tmp_path / "grid.json")
    numbers = ["--tspan", "0", "1", "--saveat", "0.5", "-p", "k=0.1", "--engine", "native"]
    out, picture = tmp_path / "r.nc", tmp_path / "r.png"
    arguments = ["solve", str(tmp_path / "grid.json"), *numbers, "--out", str(out), "--plot", str(picture)]
    assert main(arguments) == 0
    assert "w from" in capsys.readouterr().out
    assert out.exists()
    assert picture.stat().st_size > 1000
    assert main(["solve", str(tmp_path / "equations.json"), *numbers, "--out", str(out)]) != 0
    assert "has no grid" in capsys.readouterr().err
