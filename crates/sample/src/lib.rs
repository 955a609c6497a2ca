//! A row of logits and per-sequence state to one token and its log-probabilities.
