"""What a call on tiny arrays takes the host, beside PyTorch and a bare launch: the stage `host`."""

from bench.first_contact.bandwidth import host_steps as steps

__all__ = ["steps"]
