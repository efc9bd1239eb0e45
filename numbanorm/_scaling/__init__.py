"""What is behind `Moments` and the scalers: measured states, tables and estimators."""

ON_DEVICE = "numbanorm._scaling.device_tables"  # what measures and scales arrays of a GPU: imported for these alone
