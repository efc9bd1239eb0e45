"""The article's claims about both norms, each a run on real data with inequalities that can be checked."""
