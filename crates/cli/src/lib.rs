//! serve, run, chat, plan, inspect, bench, pull: parses, prints, decides nothing.
