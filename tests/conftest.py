"""How many examples hypothesis draws: the same on every run, or many new ones with --hypothesis-profile=nightly."""

from hypothesis import settings

settings.register_profile("same", max_examples=300, derandomize=True, deadline=None)
settings.register_profile("nightly", max_examples=10_000, deadline=None, print_blob=True)
settings.load_profile("same")
