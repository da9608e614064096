"""The names of what training leaves in a member's folder, for those who read it without loading torch."""

CHECKPOINT = "checkpoint.pt"  # an open_clip state dict
TRAJECTORY = "trajectory.npy"
LOG = "log.jsonl"
STATE = "resume.pt"  # only while it trains
