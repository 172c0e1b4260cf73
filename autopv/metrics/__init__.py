"""Distances between images: feature extractors, the Fréchet distance, and metrics that know what they measured."""
