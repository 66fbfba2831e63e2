//! OpenAI's HTTP API over the engine: wire types, routes, server-sent events.
