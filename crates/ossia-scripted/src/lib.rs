//! A model runner that answers by rule, for testing clients without a model.
