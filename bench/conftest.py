"""Collects only what can be imported here."""

from bench import peers

collect_ignore = [f"{peers.MODULES[name]}.py" for name in peers.ALL if peers.lacks(name)]
