"""Channels: removes whole channels. See `ChannelsStep`."""

from pocketpipe.compression.channels.step import ChannelsStep

__all__ = ["ChannelsStep"]
