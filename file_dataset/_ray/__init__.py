"""Ray Data: blobs of a frame, and a Pipeline over a cluster. Nothing else knows Ray."""
