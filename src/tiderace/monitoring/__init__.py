"""How one sees from outside what happens: probes, metrics, traces, logs, a diagnosis.

It may look at everything below it; nothing imports it, and nothing runs by itself.
"""
