"""Tuning: a search space, trials that are ordinary runs, and what became of the winner on seeds
that the tuner never saw.
"""
