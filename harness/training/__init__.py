"""From a spec to a scored state, in memory: the training loop, evaluation, checkpoints, the trained
model.
"""
