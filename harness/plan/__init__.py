"""From what was typed to the specs of runs: the registry of methods and tasks, selectors, grids and
studies.
"""
