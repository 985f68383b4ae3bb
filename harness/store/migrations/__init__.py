"""The steps from each schema to the next; shipped with the package and run by
`harness.store.upgrade`.
"""
