"""The embedded engine: the graph compiled by LLVM through DiffSL, solved by diffsol (Rust)."""

from pysciml.engines.native.engine import NativeEngine

__all__ = ["NativeEngine"]
