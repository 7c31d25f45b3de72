"""From the graph's operations to the few that DiffSL evaluates safely.

DiffSL (0.12, as linked into pydiffsol 0.6.2) compiles ``+ - * /``, ``pow sqrt exp log sin cos sinh
cosh abs min max`` and ``heaviside``. Everything else is rewritten here, on the graph, into exact
combinations of these, or declared unsupported. What the rewriting has to get right:

* ``tan`` ends the process inside the compiler, so it is never emitted;
* ``tanh`` overflows to NaN beyond 710, ``arcsinh`` cancels for negative arguments, so both are
  written out in stable form;
* there are no branches: ``select(c, a, b)`` is ``c*a + (1-c)*b`` with ``c`` exactly 0 or 1, and the
  arguments of every operation that could be non-finite in the branch not taken are replaced by a
  harmless point, since ``0*NaN`` would poison the sum.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Final

from pysciml.graph import Graph, GraphBuilder, ops
from pysciml.graph.networks import expand

#: What the emitter knows how to write.
EMITTED: Final = frozenset(
    {
        *(ops.CONST, ops.TIME, ops.STATE, ops.PARAM),
        *(ops.ADD, ops.SUB, ops.MUL, ops.DIV, ops.POW, ops.NEG),
        *(ops.SQRT, ops.EXP, ops.LOG, ops.SIN, ops.COS, ops.SINH, ops.COSH),
        *(ops.ABS, ops.MIN, ops.MAX, ops.GE),
    }
)

#: Operations that can be non-finite for a finite argument, with a point where they are not, one
#: per operand; None leaves the operand as it is.
SAFE_POINTS: Final[dict[int, tuple[float | None, ...]]] = {
    ops.DIV: (None, 1.0),
    ops.POW: (1.0, 1.0),
    ops.SQRT: (1.0,),
    ops.EXP: (0.0,),
    ops.LOG: (1.0,),
    ops.TAN: (0.0,),
    ops.ASIN: (0.0,),
    ops.ACOS: (0.0,),
    ops.SINH: (0.0,),
    ops.COSH: (0.0,),
    ops.ACOSH: (2.0,),
    ops.ATANH: (0.0,),
}


class Lowering:
    """One pass over a graph, writing into a builder, whose last parameter is the origin of time."""

    def __init__(self, graph: Graph, builder: GraphBuilder, *, backward: bool) -> None:
        self.graph = graph
        self.backward = backward
        self.b = builder
        self.half = self.b.constant(0.5)
        self.two = self.b.constant(2.0)
        self._op = graph.op.tolist()
        self._args = graph.args.tolist()
        self._risky = self._find_risky()
        self._done: dict[tuple[int, int], int] = {}
        self._conditions: set[int] = {self.b.zero, self.b.one}

    def _find_risky(self) -> list[bool]:
        risky: list[bool] = []
        for code, row in zip(self._op, self._args, strict=True):
            below = any(risky[a] for a in row if a >= 0)
            risky.append(code in SAFE_POINTS or below)
        return risky

    # A guard is the node of a condition, 0 or 1; -1 stands for "always evaluated".

    def node(self, root: int, guard: int) -> int:
        """Lower one node as it is evaluated under a guard, without recursion."""
        stack = [(root, guard)]
        while stack:
            current, under = stack[-1]
            key = self._key(current, under)
            if key in self._done:
                stack.pop()
                continue
            pending = [k for k in self._needs(current, under) if self._key(*k) not in self._done]
            if pending:
                stack.extend(pending)
                continue
            self._done[key] = self._lower(current, under)
            stack.pop()
        return self._done[self._key(root, guard)]

    def _key(self, node: int, guard: int) -> tuple[int, int]:
        return node, guard if self._risky[node] else -1

    def _needs(self, node: int, guard: int) -> list[tuple[int, int]]:
        if self._op[node] != ops.SELECT:
            return [(a, guard) for a in self._args[node] if a >= 0]
        condition, if_true, if_false = self._args[node]
        key = self._key(condition, guard)
        if key not in self._done:
            return [(condition, guard)]
        yes, no = self._guards(self._done[key], guard)
        return [(if_true, yes), (if_false, no)]

    def _guards(self, condition: int, guard: int) -> tuple[int, int]:
        holds = self.truth(condition)
        fails = self.negation(holds)
        if guard == -1:
            return holds, fails
        return self.both(guard, holds), self.both(guard, fails)

    def _mark(self, node: int) -> int:
        self._conditions.add(node)
        return node

    def ge(self, x: int, y: int) -> int:
        """Whether ``x >= y``."""
        return self._mark(self.b.call(ops.GE, x, y))

    def negation(self, condition: int) -> int:
        """Whether a condition does not hold."""
        return self._mark(self.b.sub(self.b.one, condition))

    def both(self, x: int, y: int) -> int:
        """Whether both conditions hold."""
        return self._mark(self.b.mul(x, y))

    def equal(self, x: int, y: int) -> int:
        """Whether ``x == y``."""
        return self.both(self.ge(x, y), self.ge(y, x))

    def truth(self, x: int) -> int:
        """A number as a condition: whether it is not zero."""
        return x if x in self._conditions else self.negation(self.equal(x, self.b.zero))

    def blend(self, condition: int, if_true: int, if_false: int) -> int:
        """One or the other, by a condition that is exactly 0 or 1."""
        b = self.b
        return b.add(b.mul(condition, if_true), b.mul(self.negation(condition), if_false))

    def _lower(self, node: int, guard: int) -> int:
        code, b = self._op[node], self.b
        if code == ops.CONST:
            return b.constant(float(self.graph.const[node]))
        if code == ops.TIME:
            origin = b.param(self.graph.n_params)
            return b.sub(origin, b.time()) if self.backward else b.add(origin, b.time())
        if code == ops.STATE:
            return b.state(int(self.graph.index[node]))
        if code == ops.PARAM:
            return b.param(int(self.graph.index[node]))
        if code == ops.SELECT:
            condition, if_true, if_false = self._args[node]
            holds = self._done[self._key(condition, guard)]
            yes, no = self._guards(holds, guard)
            return self.blend(
                self.truth(holds),
                self._done[self._key(if_true, yes)],
                self._done[self._key(if_false, no)],
            )
        arity = ops.OPS[code].arity
        args = [self._done[self._key(a, guard)] for a in self._args[node][:arity]]
        if guard != -1 and code in SAFE_POINTS:
            args = [
                x
                if point is None or b.value_of(x) is not None
                # c*x + (1-c)*point, so that x itself is untouched where the guard holds.
                else self.blend(guard, x, b.constant(point))
                for x, point in zip(args, SAFE_POINTS[code], strict=True)
            ]
        rule = _RULES.get(code)
        return rule(self, *args) if rule is not None else b.call(code, *args)


# -- rules ----------------------------------------------------------------------------------------

Rule = Callable[..., int]


def _tan(s: Lowering, x: int) -> int:
    return s.b.div(s.b.call(ops.SIN, x), s.b.call(ops.COS, x))


def _sign_and_size(s: Lowering, x: int) -> tuple[int, int]:
    """-1 or 1 (1 at zero), and |x| with the derivative that continues it."""
    sign = s.b.sub(s.b.mul(s.two, s.ge(x, s.b.zero)), s.b.one)
    return sign, s.b.mul(sign, x)


def _tanh(s: Lowering, x: int) -> int:
    b = s.b
    sign, size = _sign_and_size(s, x)
    e = b.call(ops.EXP, b.neg(b.mul(s.two, size)))
    return b.mul(sign, b.div(b.sub(b.one, e), b.add(b.one, e)))


def _asinh(s: Lowering, x: int) -> int:
    b = s.b
    sign, size = _sign_and_size(s, x)
    root = b.call(ops.SQRT, b.add(b.one, b.mul(size, size)))
    return b.mul(sign, b.call(ops.LOG, b.add(size, root)))


def _acosh(s: Lowering, x: int) -> int:
    b = s.b
    root = b.mul(b.call(ops.SQRT, b.sub(x, b.one)), b.call(ops.SQRT, b.add(x, b.one)))
    return b.call(ops.LOG, b.add(x, root))


def _atanh(s: Lowering, x: int) -> int:
    b = s.b
    return b.mul(s.half, b.call(ops.LOG, b.div(b.add(b.one, x), b.sub(b.one, x))))


def _arctangent_of_ratio(s: Lowering, z: int) -> int:
    """``atan(z)`` for ``0 <= z <= 1`` to rounding error.

    With any ``y`` near ``atan(z)``, ``atan(z) = y + atan(r)`` exactly, where
    ``r = (z cos y - sin y)/(cos y + z sin y)``. The quadratic for ``y`` is within 0.004
    (Rajan et al., IEEE Signal Processing Magazine 23(3), 2006), which leaves the series for
    ``atan(r)`` an error below ``r**9/9 = 3e-23``.
    """
    b = s.b
    quadratic = b.add(b.constant(math.pi / 4), b.mul(b.constant(0.273), b.sub(b.one, z)))
    y = b.mul(z, quadratic)
    sin, cos = b.call(ops.SIN, y), b.call(ops.COS, y)
    r = b.div(b.sub(b.mul(z, cos), sin), b.add(cos, b.mul(z, sin)))
    square = b.mul(r, r)
    series = b.sub(b.constant(1 / 5), b.mul(square, b.constant(1 / 7)))
    series = b.sub(b.constant(1 / 3), b.mul(square, series))
    series = b.sub(b.one, b.mul(square, series))
    return b.add(y, b.mul(r, series))


def _atan(s: Lowering, x: int) -> int:
    b = s.b
    sign, size = _sign_and_size(s, x)
    large = s.ge(size, b.one)
    # Written with a blend, not with min and max: those would swallow a NaN.
    z = b.div(s.blend(large, b.one, size), s.blend(large, size, b.one))
    angle = _arctangent_of_ratio(s, z)
    complement = b.sub(b.constant(math.pi / 2), b.mul(s.two, angle))
    return b.mul(sign, b.add(angle, b.mul(large, complement)))


def _asin(s: Lowering, x: int) -> int:
    b = s.b
    root = b.call(ops.SQRT, b.mul(b.sub(b.one, x), b.add(b.one, x)))
    return b.mul(s.two, _atan(s, b.div(x, b.add(b.one, root))))


def _acos(s: Lowering, x: int) -> int:
    return s.b.sub(s.b.constant(math.pi / 2), _asin(s, x))


def _atan2(s: Lowering, y: int, x: int) -> int:
    b = s.b
    sign, height = _sign_and_size(s, y)
    _, width = _sign_and_size(s, x)
    steep = s.negation(s.ge(width, height))
    larger, smaller = s.blend(steep, height, width), s.blend(steep, width, height)
    at_origin = s.equal(larger, b.zero)
    angle = _arctangent_of_ratio(s, b.div(smaller, b.add(larger, at_origin)))
    half_pi, pi = b.constant(math.pi / 2), b.constant(math.pi)
    angle = b.add(angle, b.mul(steep, b.sub(half_pi, b.mul(s.two, angle))))
    left = s.negation(s.ge(x, b.zero))
    angle = b.add(angle, b.mul(left, b.sub(pi, b.mul(s.two, angle))))
    return b.mul(sign, angle)


def _sign(s: Lowering, x: int) -> int:
    return s.b.sub(s.ge(x, s.b.zero), s.ge(s.b.zero, x))


def _heaviside(s: Lowering, x: int) -> int:
    return s.b.mul(s.half, s.b.add(s.b.one, _sign(s, x)))


def _or(s: Lowering, x: int, y: int) -> int:
    return s.negation(s.both(s.negation(s.truth(x)), s.negation(s.truth(y))))


_RULES: Final[dict[int, Rule]] = {
    ops.TAN: _tan,
    ops.ASIN: _asin,
    ops.ACOS: _acos,
    ops.ATAN: _atan,
    ops.ATAN2: _atan2,
    ops.TANH: _tanh,
    ops.ASINH: _asinh,
    ops.ACOSH: _acosh,
    ops.ATANH: _atanh,
    ops.SIGN: _sign,
    ops.HEAVISIDE: _heaviside,
    ops.GE: lambda s, x, y: s.ge(x, y),
    ops.LE: lambda s, x, y: s.ge(y, x),
    ops.LT: lambda s, x, y: s.negation(s.ge(x, y)),
    ops.GT: lambda s, x, y: s.negation(s.ge(y, x)),
    ops.EQ: lambda s, x, y: s.equal(x, y),
    ops.NE: lambda s, x, y: s.negation(s.equal(x, y)),
    ops.AND: lambda s, x, y: s.both(s.truth(x), s.truth(y)),
    ops.OR: _or,
    ops.NOT: lambda s, x: s.negation(s.truth(x)),
}

#: Every operation this engine takes (and networks, which are written out).
SUPPORTED: Final = frozenset(EMITTED | set(_RULES) | {ops.SELECT})


def lower(graph: Graph, names: Sequence[str], *, backward: bool = False) -> Graph:
    """Rewrite the named outputs in the operations of `EMITTED`.

    Parameters
    ----------
    graph : Graph
    names : sequence of str
    backward : bool
        Integrate towards earlier times; the sign of the right-hand side is the caller's.

    Returns
    -------
    Graph
        With the same states and named outputs. Its time is how far the integration has come: the
        model's time is one more parameter, the last, plus or minus that. So every solve runs from 0
        forward. (Where the end of a call is near zero but the start is not, rounding can make the
        library miss the last output time, which it answers with a panic.)
    """
    graph = expand(graph)
    lowering = Lowering(graph, GraphBuilder(graph.n_states, graph.n_params + 1), backward=backward)
    outputs = {name: [lowering.node(int(node), -1) for node in graph.outputs[name]] for name in names}
    return lowering.b.build(outputs)
