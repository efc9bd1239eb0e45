"""How many examples hypothesis draws: the same ones on every run, or with --hypothesis-profile=search new ones."""

from hypothesis import settings

settings.register_profile("same", max_examples=300, derandomize=True, deadline=None)
settings.register_profile("search", max_examples=10_000, deadline=None)
settings.load_profile("same")
