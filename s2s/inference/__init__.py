"""A model laid out for decoding: cached keys and values, packed weights, generation over many sources."""
