"""Tests in a real browser; a package, so that names of files may repeat."""
