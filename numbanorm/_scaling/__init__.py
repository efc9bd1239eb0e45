"""Tables, states and estimators, which `Moments` and the scalers are made of."""

ON_DEVICE = "numbanorm._scaling.device_tables"  # what measures and scales arrays of a GPU: imported for these alone
