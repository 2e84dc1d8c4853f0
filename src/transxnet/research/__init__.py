"""Counting, measuring and picturing networks."""
