//! Memory planner: model shape, machine and limits to a sum of named lines, or a refusal with the fix.
