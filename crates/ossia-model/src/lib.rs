//! gpt-oss on candle: configuration, weights and the forward pass over a paged KV cache.
