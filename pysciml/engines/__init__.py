"""Engines: each lowers the graph to one solver library. See `pysciml.engines.base.Engine`."""
