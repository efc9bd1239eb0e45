"""What is behind `Moments` and the scalers: measured states, tables and estimators."""
