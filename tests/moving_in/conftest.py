from topology.conftest import inventory, mesh

__all__ = ["inventory", "mesh"]
