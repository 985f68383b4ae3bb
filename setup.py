"""The wheel has one package: methods, tasks and studies go into `harness`."""

from setuptools import find_packages, setup

SHIPPED = {f"harness.{folder}": folder for folder in ("methods", "tasks", "studies")}

setup(packages=[*find_packages(include=["harness*"]), *SHIPPED], package_dir=SHIPPED)
