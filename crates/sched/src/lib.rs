//! What runs next and which KV blocks it owns: a pure state machine.
