"""Conformance suites: a new op, model or metric subclasses its suite and has most of its tests."""
