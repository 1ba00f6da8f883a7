//! The tests that see the program from outside.

mod tidy;
