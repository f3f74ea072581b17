"""The zoo, one file a family; the door is `pocketpipe.network.NETWORKS`."""
