"""Drills: real servers, processes and sockets, hurt on purpose, and every message counted.

    python -m benchmarks.drills                 all of them, about seven minutes
    python -m benchmarks.drills cuts failover   some
    python -m benchmarks.drills --quick         smaller numbers, about a minute

Each prints its figures, and the whole ends with status 1 when a message was lost, came
twice or out of order. They use the public interface of the layer alone.
"""
