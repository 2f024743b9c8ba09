"""The networks: CLIP, the prior's transformer, the decoder's U-Net and their parts.

They map tensors to tensors; schedules, objectives, losses over time and training live elsewhere.
"""
