//! Continuous batching: sequences, block manager, scheduler, sampler, engine thread.
