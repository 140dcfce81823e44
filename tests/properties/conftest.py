"""How hard properties try: a little in every run, `--hypothesis-profile=fuzz` (`make fuzz`) 5,000 times each."""

from datetime import timedelta

from hypothesis import HealthCheck, settings

settings.register_profile(
    "fuzz",
    max_examples=5_000,
    deadline=timedelta(seconds=5),
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.large_base_example, HealthCheck.data_too_large],
    print_blob=True,
)
