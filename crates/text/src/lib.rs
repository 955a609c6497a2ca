//! Tokenise, render chat templates, detokenise incrementally, match stop strings.
