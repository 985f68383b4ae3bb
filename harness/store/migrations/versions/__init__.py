"""One file a revision, in the order of `harness.store.upgrade.REVISIONS`."""
