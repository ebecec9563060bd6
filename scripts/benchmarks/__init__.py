"""The benchmark: one sender for every receiver, one receiver for every forwarder, in interleaved rounds."""
