"""The pages of the documentation; `docs.reference` makes those that the code knows best."""
