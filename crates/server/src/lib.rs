//! OpenAI wire types, validation, SSE, metrics. The only room that knows HTTP.
