"""What a policy's frames still tell of the image: distances, the spectrum kept, and a probe of each frame's worth."""

from autopv.profile.drawing import draw_profile
from autopv.profile.profile import FrameProfile, PolicyProfile, profile_policy
from autopv.profile.table import profile_lines

__all__ = ["FrameProfile", "PolicyProfile", "draw_profile", "profile_lines", "profile_policy"]
