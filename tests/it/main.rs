//! What the program guarantees, tried on the real parts.

mod migrations;
mod store;
