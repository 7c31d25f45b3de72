"""What engines there are: the table behind ``pysciml.engines()``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from html import escape

from pysciml.engines.base import registry


@dataclass(frozen=True)
class EngineInfo:
    """One engine.

    Attributes
    ----------
    name : str
    available : bool
    version : str
        Of the library behind it; empty where it is not installed.
    kinds : tuple of str
        Kinds of system it solves.
    algorithms : tuple of str
        SciML names.
    why_not : str
        Empty where it is available, else the reason and the command that mends it.
    """

    name: str
    available: bool
    version: str
    kinds: tuple[str, ...]
    algorithms: tuple[str, ...]
    why_not: str


class EngineTable(tuple[EngineInfo, ...]):
    """All engines; prints as a table, and ``table["native"]`` finds one by name."""

    def __getitem__(self, key: object) -> EngineInfo:  # pyright: ignore[reportIncompatibleMethodOverride]
        if isinstance(key, str):
            for info in self:
                if info.name == key:
                    return info
            raise KeyError(key)
        return super().__getitem__(key)  # pyright: ignore[reportArgumentType, reportCallIssue, reportReturnType]

    def _rows(self) -> Iterator[tuple[str, ...]]:
        yield "engine", "available", "version", "kinds", "algorithms"
        for info in self:
            algorithms = ", ".join(info.algorithms) if info.available else info.why_not
            yield info.name, "yes" if info.available else "no", info.version, " ".join(info.kinds), algorithms

    def __repr__(self) -> str:
        rows = list(self._rows())
        widths = [max(len(row[k]) for row in rows) for k in range(4)]
        return "\n".join("  ".join((*map(str.ljust, row[:4], widths), row[4])).rstrip() for row in rows)

    def _repr_html_(self) -> str:
        head, *body = (
            "".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in row)
            for row, tag in zip(self._rows(), ["th", *["td"] * len(self)], strict=True)
        )
        rows = "".join(f"<tr>{row}</tr>" for row in body)
        return f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"


def engines() -> EngineTable:
    """List the engines: name, available, version, kinds, algorithms, and why not.

    Returns
    -------
    EngineTable
        A tuple of `EngineInfo` that prints as a table. Nothing is imported to find out.

    Examples
    --------
    >>> engines()["native"].algorithms
    ('Tsit5', 'TRBDF2', 'ESDIRK34', 'QNDF')
    """
    table: list[EngineInfo] = []
    for name, engine in registry().items():
        reason = engine.unavailable()
        table.append(
            EngineInfo(
                name=name,
                available=reason is None,
                version=engine.version(),
                kinds=engine.kinds,
                algorithms=tuple(engine.algorithms()),
                why_not=reason or "",
            )
        )
    return EngineTable(table)
