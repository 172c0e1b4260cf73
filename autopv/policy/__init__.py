"""The policy language: what a pseudo video is made of, its JSON form, and how it is rendered."""

from autopv.policy.policy import Layer, Policy
from autopv.policy.render import VideoDraw

__all__ = ["Layer", "Policy", "VideoDraw"]
