//! MySQL's binary JSON to the text the server prints. Pure.
