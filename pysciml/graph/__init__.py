"""The expression graph every engine lowers. Knows NumPy, no engine and no SymPy."""

from pysciml.graph.builder import GraphBuilder
from pysciml.graph.graph import Graph
from pysciml.graph.model import EventSpec, JumpSpec, Model
from pysciml.graph.networks import Network

__all__ = ["EventSpec", "Graph", "GraphBuilder", "JumpSpec", "Model", "Network"]
