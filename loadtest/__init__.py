"""Benchmarks: this library beside other clients, on one real server, interleaved, as ratios.

``python -m loadtest`` runs ``workloads`` (what is measured, as data) with ``bench`` (who runs when) for everyone of the
``lineup`` that has a place in ``homes``; ``runs`` gives each run a process of its own: one of ``peers``, with a raw
``counterpart`` at the other end. ``compare`` makes rows of the runs, ``report`` and ``plot`` show the rows,
``evidence`` keeps them. A run that lost anything, or whose sender lagged, is void and said to be.
"""
