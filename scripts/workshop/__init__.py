"""The workshop: how the project is installed, tested, checked and measured.

Standard library only; nothing here is shipped in the package.
"""
