"""From specs to ended runs in the database: in this process, in worker processes, on a Dask
cluster.
"""
