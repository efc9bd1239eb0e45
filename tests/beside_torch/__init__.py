"""Options, keywords and behaviours of the layers beside PyTorch's modules, each shown on both sides."""
