"""Drills: faults in real servers, processes and sockets, with every message counted.

    python -m benchmarks.drills                 all of them, about seven minutes
    python -m benchmarks.drills cuts failover   some
    python -m benchmarks.drills --quick         smaller numbers, about a minute

Each prints its figures; the exit status is 1 if a message was lost, duplicate or out of
order. Drills use the public interface of the layer alone.
"""
