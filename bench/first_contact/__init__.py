"""The first minutes on a machine with a GPU: ``python -m bench.first_contact --budget S --out DIR``.

The most telling stages come first, each in processes of its own: one that hangs or crashes takes nothing else along.
Each result is one line of JSON in DIR/first_contact.jsonl, written as it comes, so a time limit loses nothing.
It runs from a source tree with NumPy, Numba and numba-cuda alone, and uses PyTorch, CuPy and compute-sanitizer if it
finds them.
"""
