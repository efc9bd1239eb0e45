"""What numbanorm does on real data, how exact it is and how fast: ``python -m bench``."""
