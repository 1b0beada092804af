"""A server configured as the suites of the Centrifuge SDKs expect one.

python -m conformance --port 8000        # in the folder tests/
"""
