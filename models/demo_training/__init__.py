"""Trains the demo checkpoint of Ossia: a gpt-oss architecture of a few megabytes that speaks harmony."""
