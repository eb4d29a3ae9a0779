"""The lab: a real cluster and a real tailnet on one machine, for the tests and the demo."""
