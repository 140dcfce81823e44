"""Benchmarks: this library beside other clients, on one real server, interleaved, as ratios.

``python -m loadtest`` runs ``workloads`` (what is measured, as data) with ``bench`` (who runs when); ``runs`` gives
each run a process of its own: one of ``peers``, with a raw ``counterpart`` at the other end. ``compare`` makes rows of
the runs and ``report`` a table of the rows. A run that lost anything is void and said to be.
"""
