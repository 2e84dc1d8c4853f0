"""Outputs of the released code, and the weights and inputs they belong to; see ``fixture.py``."""
