"""Collects only what can be imported here."""

from bench import peers

collect_ignore = [] if peers.HAS_TORCH else ["torch_peer.py"]
